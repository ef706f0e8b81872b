//! Tells Prometheus where the dataplane's pods are: Debian's build of it cannot ask Kubernetes itself.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::{control_plane::client, state::write_whole};

/// Where the dataplane runs.
pub const NAMESPACE: &str = "sluice-system";
/// Which of the pods there are the dataplane's.
pub const SELECTOR: &str = "app.kubernetes.io/name=sluice-dataplane";

const PORT_ANNOTATION: &str = "prometheus.io/port";
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps a file of targets up to date for as long as the process lives. An API server that does not answer changes
/// nothing: scraping goes on during its outage.
pub async fn follow(kubeconfig: &Path, file: &Path) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client(kubeconfig).await?, NAMESPACE);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = None;
    loop {
        ticks.tick().await;
        match pods.list(&ListParams::default().labels(SELECTOR)).await {
            Ok(list) => {
                let targets = Value::from(list.items.iter().filter_map(target).collect::<Vec<_>>());
                if written.as_ref() != Some(&targets) {
                    write_whole(file, &serde_json::to_string_pretty(&targets)?)?;
                    written = Some(targets);
                }
            }
            Err(error) => tracing::warn!("the targets stay as they are: {error}"),
        }
    }
}

/// One running pod, with the labels that queries select by.
fn target(pod: &Pod) -> Option<Value> {
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Running"))?;
    let ip = status.pod_ip.as_ref()?;
    let port = pod.metadata.annotations.as_ref()?.get(PORT_ANNOTATION)?;
    let mut labels = BTreeMap::from([("namespace".to_owned(), NAMESPACE.to_owned())]);
    labels.insert("pod".to_owned(), pod.metadata.name.clone()?);
    labels.insert("node".to_owned(), pod.spec.as_ref()?.node_name.clone()?);
    for (key, value) in pod.metadata.labels.iter().flatten().filter(|(key, _)| key.starts_with("sluice.dev/")) {
        labels.insert(key.replace(|c: char| !c.is_ascii_alphanumeric(), "_"), value.clone());
    }
    Some(json!({"targets": [format!("{ip}:{port}")], "labels": labels}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "dataplane-x",
                "labels": {"app.kubernetes.io/name": "sluice-dataplane", "sluice.dev/group": "canary"},
                "annotations": {"prometheus.io/port": "9100"},
            },
            "spec": {"nodeName": "node-1", "containers": []},
            "status": {"phase": phase, "podIP": "10.200.65.2"},
        }))
        .expect("a pod")
    }

    #[test]
    fn a_running_pod_is_a_target_with_its_group() {
        let target = target(&pod("Running")).expect("a target");
        assert_eq!(target["targets"], json!(["10.200.65.2:9100"]));
        assert_eq!(target["labels"]["sluice_dev_group"], "canary");
    }

    #[test]
    fn a_pod_that_does_not_run_is_none() {
        assert!(target(&pod("Pending")).is_none());
    }
}
