//! Writes the node's report into the status of its DataplaneNode: on change only, until it is there.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use sluice_config::NodeReport;
use sluice_crds::DataplaneNode;
use tokio::sync::watch;

use crate::{backoff::Backoff, drain::Phase};

/// Name that owns the status fields.
const MANAGER: &str = "sluice-dataplane";
/// A burst of changes is one write.
const SETTLE: Duration = Duration::from_millis(20);

/// Writes each new report until the control loop is gone or the process drains: then the pod that
/// takes over is the one that writes.
pub(crate) async fn follow(
    client: Client,
    node: String,
    mut reports: watch::Receiver<NodeReport>,
    in_phase: watch::Receiver<Phase>,
) {
    let api: Api<DataplaneNode> = Api::all(client);
    let mut written: Option<NodeReport> = None;
    let mut backoff = Backoff::new();
    loop {
        let report = reports.borrow_and_update().clone();
        if *in_phase.borrow() != Phase::Serving {
            return;
        }
        if written.as_ref() == Some(&report) {
            if reports.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(SETTLE).await;
            continue;
        }
        match api
            .patch_status(
                &node,
                &PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() },
                &Patch::Merge(patch(&report)),
            )
            .await
        {
            Ok(_) => {
                tracing::info!(
                    generation = report.applied_generation,
                    exceptions = report.exceptions_total,
                    "reported"
                );
                written = Some(report);
                backoff = Backoff::new();
            }
            Err(error) => {
                let wait = backoff.next_wait();
                // Made by the operator, which may come up after us.
                let missing = matches!(&error, kube::Error::Api(s) if s.is_not_found());
                tracing::warn!(%error, missing, wait_ms = wait.as_millis(), "cannot write the report");
                // A newer report is worth trying at once only if it is newer: wait for either.
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    changed = reports.changed() => {
                        if changed.is_err() { return; }
                        reports.mark_changed();
                        tokio::time::sleep(SETTLE).await;
                    }
                }
            }
        }
    }
}

/// A merge patch leaves out what is absent: lists and errors that emptied are said explicitly.
fn patch(report: &NodeReport) -> Value {
    let mut status = serde_json::to_value(report).unwrap_or_else(|_| json!({}));
    if let Some(fields) = status.as_object_mut() {
        for absent in ["exceptions", "lastError"] {
            fields.entry(absent).or_insert(Value::Null);
        }
    }
    json!({ "status": status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_emptied_is_removed() {
        let patch = patch(&NodeReport::default());
        assert_eq!(patch["status"]["exceptions"], Value::Null);
        assert!(patch["status"].get("lastError").is_some());
        assert_eq!(patch["status"]["appliedGeneration"], 0);
    }
}
