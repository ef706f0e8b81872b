//! Kubelets that are played: a Node object with a heartbeat, and pods that the DaemonSet controller made and nobody
//! runs. With them a control plane without nodes takes what stands behind a pod, on this machine, for a node's.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::stage::SYSTEM;

/// The label of a Node that names its group.
pub const GROUP_LABEL: &str = "node-restriction.kubernetes.io/sluice-group";

const BEAT_EVERY: Duration = Duration::from_secs(5);

/// One node's.
pub struct Kubelet {
    client: Client,
    name: String,
    group: String,
    beat: Mutex<Option<Instant>>,
}

impl Kubelet {
    /// Makes a ready Node of a group.
    pub async fn join(client: &Client, name: &str, group: &str) -> Result<Self> {
        let nodes: Api<Node> = Api::all(client.clone());
        let node = json!({"metadata": {"name": name, "labels": {GROUP_LABEL: group}}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        let ready = json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "Played", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&ready)).await?;
        let (name, group, client) = (name.to_owned(), group.to_owned(), client.clone());
        Ok(Self { client, name, group, beat: Mutex::default() })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Says that the node lives, where that is due.
    pub async fn heartbeat(&self) -> Result<()> {
        let beat = || self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        if beat().is_some_and(|at| at.elapsed() <= BEAT_EVERY) {
            return Ok(());
        }
        *beat() = Some(Instant::now());
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let now = MicroTime(jiff::Timestamp::now());
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.name},
            "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now}});
        leases.patch(&self.name, &PatchParams::apply("played").force(), &Patch::Apply(&lease)).await?;
        Ok(())
    }

    /// What scheduler and kubelet do. The name of the dataplane's pod that is ready here.
    pub async fn run_pods(&self) -> Result<Option<String>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
        let labels = format!("app.kubernetes.io/component=dataplane,sluice.dev/group={}", self.group);
        for pod in pods.list(&ListParams::default().labels(&labels)).await? {
            let name = pod.name_any();
            if !wants_node(&pod, &self.name) {
                continue;
            }
            if pod.metadata.deletion_timestamp.is_some() {
                // A kubelet would end it now.
                let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                pods.delete(&name, &at_once).await?;
                continue;
            }
            if pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_none() {
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": self.name}});
                let params = PostParams::default();
                pods.create_subresource::<Value, Value>("binding", &name, &params, &binding).await?;
            }
            if pod.status.as_ref().is_none_or(|status| status.pod_ip.is_none()) {
                let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
                    "conditions": [{"type": "Ready", "status": "True"}]}});
                pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
            }
            return Ok(Some(name));
        }
        Ok(None)
    }
}

/// Ends the pods of gates' Jobs: well, or badly and saying why. How many.
pub async fn run_checks(client: &Client, is_good: impl Fn(&Pod) -> bool) -> Result<usize> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
    let mut ended = 0;
    for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/component=gate")).await? {
        let over = pod.status.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
        let container = pod.spec.as_ref().and_then(|s| s.containers.first()).context("a container")?;
        if over {
            continue;
        }
        let good = is_good(&pod);
        let terminated = json!({"exitCode": i32::from(!good), "reason": if good { "Completed" } else { "Error" },
            "message": if good { "" } else { "one\ncheckout answers 500" }});
        let status = json!({"status": {"phase": if good { "Succeeded" } else { "Failed" }, "containerStatuses": [{
            "name": container.name, "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": terminated}}]}});
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await?;
        ended += 1;
    }
    Ok(ended)
}

fn wants_node(pod: &Pod, node: &str) -> bool {
    let text = serde_json::to_string(&pod.spec.as_ref().and_then(|s| s.affinity.as_ref())).unwrap_or_default();
    text.contains(&format!("\"{node}\""))
}
