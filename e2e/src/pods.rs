//! Pods as the harness looks at them, and the processes behind them.

use std::{fs, net::IpAddr, path::PathBuf, process::Command};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::run;

/// Whether a pod is ready and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// A pod's address, if it has one.
pub fn ip(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

/// In words, why none of these is ready.
pub fn why_not_ready(pods: &[Pod]) -> String {
    if pods.is_empty() {
        return "there is no such pod".to_owned();
    }
    let one = |pod: &Pod| {
        let status = pod.status.clone().unwrap_or_default();
        let waits = status.container_statuses.unwrap_or_default().into_iter().find_map(|c| {
            let waiting = c.state?.waiting?;
            Some(format!("{} {}", waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default()))
        });
        format!("{} is {} {}", pod.name_any(), status.phase.unwrap_or_default(), waits.unwrap_or_default())
    };
    pods.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The processes of a program in a pod of a cluster of ours, as the machine numbers them.
pub fn pids(pod_uid: &str, program: &str) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let name = command.split('\0').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        if cgroups.contains(pod_uid) && name == program {
            pids.push(pid);
        }
    }
    if pids.is_empty() {
        bail!("{program} does not run in the pod {pod_uid}");
    }
    Ok(pids)
}

/// `kill -9` of a program in a pod of a cluster of ours, from outside of it.
pub fn kill_program(pod_uid: &str, program: &str) -> Result<()> {
    for pid in pids(pod_uid, program)? {
        run::output(Command::new("kill").arg("-9").arg(pid.to_string()))?;
    }
    Ok(())
}

/// A path inside of a program's container, as seen from the machine.
pub fn path_inside(pod_uid: &str, program: &str, path: &str) -> Result<PathBuf> {
    let pid = pids(pod_uid, program)?.remove(0);
    Ok(PathBuf::from(format!("/proc/{pid}/root{path}")))
}
