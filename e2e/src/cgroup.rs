//! The control groups of the nodes: `/sluice/<cluster>/<node>` in every hierarchy.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    process::kill_member,
    wait::{Look, until_blocking},
};

const ROOT: &str = "/sys/fs/cgroup";
const OURS: &str = "sluice";
/// What all pods together get of the CPU beside one busy thread outside (1024 shares with version 1, a weight of 100
/// with version 2): there the control plane, the kubelets and the tests run, which on a real cluster are elsewhere.
const POD_THREADS: u32 = 16;

/// The kubelet's `cgroupRoot`.
pub(crate) fn of_node(cluster: &str, node: &str) -> String {
    format!("/{OURS}/{cluster}/{node}")
}

/// With version 1 each controller has its own hierarchy, with version 2 there is one.
fn hierarchies() -> Result<Vec<PathBuf>> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return Ok(vec![PathBuf::from(ROOT)]);
    }
    let entries = fs::read_dir(ROOT).with_context(|| format!("cannot read {ROOT}"))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists() && !path.ends_with("unified"))
        .collect();
    found.sort();
    Ok(found)
}

/// Makes a node's groups.
pub(crate) fn make(cluster: &str, node: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut group = hierarchy.clone();
        for part in [OURS, cluster, node] {
            let parent = group.clone();
            group.push(part);
            if !group.exists() {
                fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
            }
            inherit(&parent, &group)?;
        }
        favour(&hierarchy.join(OURS))?;
    }
    Ok(())
}

fn favour(group: &Path) -> Result<()> {
    for (file, of_a_thread) in [("cpu.shares", 1024), ("cpu.weight", 100)] {
        let path = group.join(file);
        if path.exists() {
            fs::write(&path, (POD_THREADS * of_a_thread).to_string())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

fn inherit(parent: &Path, group: &Path) -> Result<()> {
    // A cpuset of version 1 starts empty, and an empty one takes no process.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if group.join("cgroup.clone_children").exists() && group.join(file).exists() {
            fs::write(group.join(file), fs::read_to_string(parent.join(file))?.trim())?;
        }
    }
    // Version 2 gives children only the controllers that the parent hands on.
    if let Ok(controllers) = fs::read_to_string(parent.join("cgroup.controllers")) {
        for controller in controllers.split_whitespace() {
            fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))
                .with_context(|| format!("cannot hand {controller} on from {}", parent.display()))?;
        }
    }
    Ok(())
}

/// Kills all that runs in a cluster's groups (or one node's) and removes them.
pub(crate) fn remove(cluster: &str, node: Option<&str>) -> Result<()> {
    let what = format!("{OURS}/{cluster}/{}", node.unwrap_or_default());
    until_blocking(&format!("the end of cgroup {what}"), Duration::from_secs(20), || {
        let mut left = Vec::new();
        for hierarchy in hierarchies().unwrap_or_default() {
            let group = hierarchy.join(what.trim_end_matches('/'));
            remove_tree(&group);
            // The parent goes with its last cluster.
            let _ = fs::remove_dir(hierarchy.join(OURS));
            if group.exists() {
                left.push(group.display().to_string());
            }
        }
        if left.is_empty() { Look::Done(()) } else { Look::NotYet(format!("left: {}", left.join(" "))) }
    })
}

fn remove_tree(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for child in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()) {
        remove_tree(&child);
    }
    for member in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid) = member.parse() {
            kill_member(pid);
        }
    }
    // Busy until the kernel has buried the members; the caller tries again.
    let _ = fs::remove_dir(group);
}

/// The groups that exist, of one cluster or of all.
pub(crate) fn existing(cluster: Option<&str>) -> Vec<String> {
    let below = |hierarchy: PathBuf| cluster.map_or(hierarchy.join(OURS), |name| hierarchy.join(OURS).join(name));
    let found = hierarchies().unwrap_or_default().into_iter().map(below);
    found.filter(|group| group.exists()).map(|group| group.display().to_string()).collect()
}
