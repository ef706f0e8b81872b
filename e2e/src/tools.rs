//! Finds the programs a cluster is made of, and says exactly what is missing and what to use instead.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::state::cache_dir;

/// Built by `tools/install.sh`.
const BUILT: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"];

/// From the distribution's packages; program and Debian package.
const PACKAGED: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
];

/// Folders that each node hides behind its own; nothing a node needs may be below them.
const HIDDEN_IN_NODES: [&str; 3] = ["/run", "/var/lib", "/var/log"];

const INSTEAD: &str = "use a cluster that you have (--context NAME), or kind, which needs Docker:
    kind create cluster --name sluice --image kindest/node:v1.34.0
    cluster up --context kind-sluice";

/// A program that `make tools` built or linked.
pub fn built(name: &str) -> Result<PathBuf> {
    let path = cache_dir()?.join("tools/bin").join(name);
    if !path.exists() {
        bail!("{} is missing: run `make tools` (tools/install.sh {name})", path.display());
    }
    Ok(path)
}

/// `kubectl` where it was installed, else the one in `PATH`.
pub fn kubectl() -> PathBuf {
    built("kubectl").unwrap_or_else(|_| PathBuf::from("kubectl"))
}

/// A program in `PATH` or in the folders of system programs.
pub fn packaged(name: &str) -> Option<PathBuf> {
    let path = env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"])
        .map(|folder| Path::new(folder).join(name))
        .find(|candidate| candidate.is_file())
}

/// A binary of this crate (`upstream`) or of another crate of the workspace, beside the running program.
pub fn own_binary(name: &str) -> Result<PathBuf> {
    let running = env::current_exe().context("cannot tell where the running program is")?;
    // Tests run from target/<profile>/deps, binaries from target/<profile>.
    let found = running.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{name} is not beside {}: build the workspace with the same target folder and profile first",
            running.display()
        )
    })
}

/// Refuses, naming everything that is missing, where a local cluster cannot work.
pub fn preflight(with_nodes: bool) -> Result<()> {
    let mut missing = Vec::new();
    if env::consts::OS != "linux" {
        bail!("local clusters need Linux's namespaces, this is {}; {INSTEAD}", env::consts::OS);
    }
    if !rustix::process::geteuid().is_root() {
        missing.push("root, to make bridges and namespaces (sudo -E)".to_owned());
    }
    let built_needed = if with_nodes { &BUILT[..] } else { &BUILT[..3] };
    missing.extend(built_needed.iter().filter_map(|name| built(name).err()).map(|error| error.to_string()));
    let packaged_needed = if with_nodes { &PACKAGED[..] } else { &PACKAGED[5..6] };
    for (program, package) in packaged_needed {
        if packaged(program).is_none() {
            missing.push(format!("{program}: apt-get install {package}"));
        }
    }
    if with_nodes {
        missing.extend(missing_for_nodes()?);
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("a local cluster cannot start, this is missing:\n  - {}\nor {INSTEAD}", missing.join("\n  - "));
}

fn missing_for_nodes() -> Result<Vec<String>> {
    let mut missing = Vec::new();
    if !Path::new("/usr/lib/cni/bridge").exists() {
        missing.push("/usr/lib/cni/bridge: apt-get install containernetworking-plugins".to_owned());
    }
    if packaged("curl").is_none() {
        missing.push("curl: apt-get install curl".to_owned());
    }
    if !Path::new("/bin/busybox").exists() {
        missing.push("/bin/busybox: apt-get install busybox-static".to_owned());
    }
    let cache = cache_dir()?;
    if let Some(hidden) = HIDDEN_IN_NODES.iter().find(|hidden| cache.starts_with(hidden)) {
        missing.push(format!(
            "a SLUICE_CACHE outside {hidden}, which nodes replace with their own (it is {})",
            cache.display()
        ));
    }
    Ok(missing)
}
