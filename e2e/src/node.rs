//! One node: a network and a mount namespace, with a containerd, a kubelet and a kube-proxy of its own inside.

pub(crate) mod config;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    cgroup,
    control_plane::ControlPlane,
    image, network,
    node::config::{CONFIG_DIR, CONTAINERD_SOCKET, NodeConfig},
    pki::Identity,
    process::Spawn,
    run,
    state::NodeState,
    tools,
    wait::{Look, until},
};

const CONTAINERD_LIMIT: Duration = Duration::from_secs(30);

/// Runs in the node's new mount namespace ($1 is its folder): gives it its own state folders and then keeps both
/// namespaces alive. The kubelet insists on some kernel settings, which are not ours to change for the whole machine
/// (panic_on_oops among them): it sees files that say what it wants. All of it vanishes with the node's last process.
const ANCHOR: &str = r#"set -e
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file="$1/run/${setting##*/}"
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done
for folder in run var/lib var/log; do mount --bind "$1/$folder" "/$folder"; done
mount --make-rshared /
: > /run/anchored
exec sleep infinity
"#;

/// A node of a cluster.
pub(crate) struct Node<'a> {
    plane: &'a ControlPlane<'a>,
    name: &'a str,
    state: &'a NodeState,
}

impl<'a> Node<'a> {
    /// A node that the state knows.
    pub(crate) fn of(plane: &'a ControlPlane<'a>, name: &'a str) -> Result<Self> {
        let state = plane.state.nodes.get(name).with_context(|| format!("there is no node {name}"))?;
        Ok(Self { plane, name, state })
    }

    fn process(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    fn anchor(&self) -> String {
        self.process("anchor")
    }

    /// The pid whose namespaces are the node's.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.plane.processes.pid(&self.anchor())
    }

    /// The node's files, as the machine sees them.
    pub(crate) fn folder(&self) -> PathBuf {
        self.plane.folder.join("nodes").join(self.name)
    }

    /// Makes the namespaces and connects them.
    pub(crate) async fn make(&self) -> Result<()> {
        let folder = self.folder();
        cgroup::make(&self.plane.state.name, self.name)?;
        if self.pid().is_none() {
            if folder.join("run").exists() {
                // As after a reboot.
                fs::remove_dir_all(folder.join("run"))?;
            }
            for part in ["run", "var/lib/sluice-node/cni", "var/lib/sluice-node/images", "var/log"] {
                fs::create_dir_all(folder.join(part))?;
            }
            let anchored = folder.join("run/anchored");
            let anchor = Spawn::new(self.anchor(), "unshare")
                .args(["--net", "--mount", "--propagation", "private", "--", "/bin/sh", "-c", ANCHOR, "anchor"])
                .arg(folder.to_string_lossy());
            self.plane.processes.start(&anchor)?;
            until(&format!("the namespaces of {}", self.name), CONTAINERD_LIMIT, || async {
                self.plane.processes.check(&self.anchor())?;
                Ok(if anchored.exists() { Look::Done(()) } else { Look::NotYet("not made".to_owned()) })
            })
            .await?;
        }
        let pid = self.pid().with_context(|| format!("{} has no namespaces", self.name))?;
        network::connect(self.plane.state.addresses(), self.state.index, pid)
    }

    /// Writes the configuration and starts containerd, with the images that were imported so far.
    pub(crate) async fn start_runtime(&self) -> Result<()> {
        self.write_config()?;
        let containerd = tools::packaged("containerd").context("containerd is not installed")?;
        let spawn = Spawn::new(self.process("containerd"), containerd)
            .arg(format!("--config={CONFIG_DIR}/containerd.toml"))
            .inside(self.anchor());
        self.plane.processes.start(&spawn)?;
        until(&format!("containerd of {}", self.name), CONTAINERD_LIMIT, || async {
            self.plane.processes.check(&self.process("containerd"))?;
            Ok(match self.ctr(&["version"]).await {
                Ok(_) => Look::Done(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
        .await?;
        for archive in image::archives(self.plane.folder)? {
            self.import(&archive).await?;
        }
        Ok(())
    }

    /// Starts the kubelet and kube-proxy; the node registers itself.
    pub(crate) fn start_agents(&self) -> Result<()> {
        let processes = self.plane.processes;
        let kubelet = Spawn::new(self.process("kubelet"), tools::built("kubelet")?)
            .arg(format!("--config={CONFIG_DIR}/kubelet.json"))
            .arg(format!("--kubeconfig={CONFIG_DIR}/kubelet.kubeconfig"))
            .arg(format!("--hostname-override={}", self.name))
            .arg(format!("--node-ip={}", self.plane.state.addresses().node_ip(self.state.index)))
            .inside(self.anchor());
        processes.start(&kubelet)?;
        let kube_proxy = Spawn::new(self.process("kube-proxy"), tools::built("kube-proxy")?)
            .arg(format!("--config={CONFIG_DIR}/kube-proxy.json"))
            .inside(self.anchor());
        processes.start(&kube_proxy)
    }

    /// Fails with the log of the process that has ended.
    pub(crate) fn check(&self) -> Result<()> {
        ["containerd", "kubelet", "kube-proxy"]
            .iter()
            .try_for_each(|part| self.plane.processes.check(&self.process(part)))
    }

    fn write_config(&self) -> Result<()> {
        let addresses = self.plane.state.addresses();
        let ip = addresses.node_ip(self.state.index);
        let config = NodeConfig {
            name: self.name.to_owned(),
            ip,
            pod_subnet: addresses.pod_subnet(self.state.index),
            pod_cidr: addresses.pod_cidr(),
            dns_ip: addresses.dns_ip(),
            cgroup: cgroup::of_node(&self.plane.state.name, self.name),
            pause_image: image::PAUSE.to_owned(),
        };
        let folder = self.folder().join("var/lib/sluice-node");
        fs::write(folder.join("containerd.toml"), config.containerd())?;
        write_json(&folder.join("cni/10-sluice.conflist"), &config.cni())?;
        write_json(&folder.join("kubelet.json"), &config.kubelet())?;
        write_json(&folder.join("kube-proxy.json"), &config.kube_proxy())?;
        // The machine's own may name a resolver on loopback, which means nothing inside a node.
        fs::write(folder.join("resolv.conf"), format!("nameserver {}\n", addresses.dns_ip()))?;

        let user = format!("system:node:{}", self.name);
        let kubelet = self.plane.component_kubeconfig(&self.process("kubelet"), &user, &["system:nodes"])?;
        let kube_proxy = self.plane.component_kubeconfig("kube-proxy", "system:kube-proxy", &[])?;
        let serving = Identity::server(&user, vec![self.name.to_owned(), ip.to_string()]);
        let (certificate, key) = self.plane.pki.issue(&self.process("serving"), &serving)?;
        for (from, to) in [
            (kubelet, "kubelet.kubeconfig"),
            (kube_proxy, "kube-proxy.kubeconfig"),
            (certificate, "kubelet.crt"),
            (key, "kubelet.key"),
            (self.plane.pki.ca(), "ca.crt"),
        ] {
            fs::copy(&from, folder.join(to)).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        Ok(())
    }

    /// A command inside the node's namespaces.
    pub(crate) fn enter(&self) -> Result<std::process::Command> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let mut command = std::process::Command::new("nsenter");
        command.args(["--target", &pid.to_string(), "--net", "--mount", "--"]);
        Ok(command)
    }

    async fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.enter()?;
        command.args(["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"]).args(arguments);
        run::output_later(command, None).await
    }

    /// Imports an image archive, once: its name holds its digest.
    pub(crate) async fn import(&self, archive: &Path) -> Result<()> {
        let done = self.folder().join("var/lib/sluice-node/images").join(image::file_name(archive));
        if !done.exists() {
            let path = archive.to_string_lossy();
            self.ctr(&["images", "import", &path]).await.with_context(|| format!("{} refused {path}", self.name))?;
            fs::write(done, "")?;
        }
        Ok(())
    }

    /// Pulls the plug: no process of the node survives, and nobody is told.
    pub(crate) fn cut_power(&self) -> Result<()> {
        network::plug(self.plane.state.addresses(), self.state.index, false)?;
        let processes = self.plane.processes;
        // The kubelet first: it would restart what dies after it.
        for part in ["kubelet", "kube-proxy", "containerd"] {
            processes.kill(&self.process(part))?;
        }
        cgroup::remove(&self.plane.state.name, Some(self.name))?;
        if let Some(anchor) = self.pid() {
            processes.kill_in_mount_namespace(anchor)?;
        }
        processes.kill(&self.anchor())?;
        network::disconnect(self.plane.state.addresses(), self.state.index)
    }

    /// Like [`Self::cut_power`]; also deletes the node's files.
    pub(crate) fn remove(&self) -> Result<()> {
        self.cut_power()?;
        let folder = self.folder();
        fs::remove_dir_all(&folder).with_context(|| format!("cannot delete {}", folder.display()))
    }
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, serde_json::to_string_pretty(value)?).with_context(|| format!("cannot write {}", path.display()))
}
