//! Writes the node's report, and the condition that sums it up, into the status of its DataplaneNode:
//! on change only, until it is there, and again should it be lost.

mod turn;

use std::time::{Duration, Instant};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use sluice_config::NodeReport;
use sluice_crds::DataplaneNode;
use tokio::sync::watch;

use crate::{backoff::Backoff, drain::Phase, logging};
pub(crate) use turn::Seen;
use turn::{Next, Turn};

/// Name that owns the status fields.
const MANAGER: &str = "sluice-dataplane";
/// A burst of changes is one write.
const SETTLE: Duration = Duration::from_millis(20);
/// The API server may take the request and never answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// What the writer follows.
pub(crate) struct Follow {
    pub(crate) node: String,
    pub(crate) pod: String,
    /// What the watch says of the status.
    pub(crate) seen: watch::Receiver<Seen>,
    pub(crate) reports: watch::Receiver<NodeReport>,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) in_phase: watch::Receiver<Phase>,
}

/// Writes each new report until the control loop is gone or the process drains: then the pod that
/// takes over is the one that writes.
pub(crate) async fn follow(client: Client, mut from: Follow) {
    let api: Api<DataplaneNode> = Api::all(client);
    let mut turn = Turn::new(from.pod.clone(), Instant::now());
    let mut condition: Option<Condition> = None;
    let mut backoff = Backoff::new();
    loop {
        if *from.in_phase.borrow() != Phase::Serving {
            return;
        }
        let report = from.reports.borrow_and_update().clone();
        let ready = *from.ready.borrow_and_update();
        if from.seen.has_changed().unwrap_or(false) {
            turn.saw(from.seen.borrow_and_update().clone());
        }
        let mut pause = Duration::MAX;
        match turn.next(&report, ready, Instant::now()) {
            Next::Wait => {}
            Next::WaitUntil(time) => pause = time.saturating_duration_since(Instant::now()),
            Next::Write => {
                let next = self::condition(&report, condition.as_ref(), Timestamp::now());
                match write(&api, &from.node, &report, &next).await {
                    Ok(kept) => {
                        turn.wrote(report, kept);
                        condition = Some(next);
                        backoff = Backoff::new();
                    }
                    // Repeated after a while, or with what is newer by then.
                    Err(error) => {
                        pause = backoff.next_wait();
                        tracing::warn!(error, wait_ms = logging::millis(pause), "cannot write the report");
                    }
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = from.ready.changed() => {}
            Ok(()) = from.seen.changed() => from.seen.mark_changed(),
            changed = from.reports.changed() => {
                if changed.is_err() {
                    return;
                }
                from.reports.mark_changed();
                tokio::time::sleep(SETTLE).await;
            }
        }
    }
}

/// Writes the report; how the API server keeps it.
async fn write(
    api: &Api<DataplaneNode>,
    node: &str,
    report: &NodeReport,
    condition: &Condition,
) -> Result<NodeReport, String> {
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let patch = Patch::Merge(patch(report, condition));
    match tokio::time::timeout(WRITE_TIMEOUT, api.patch_status(node, &params, &patch)).await {
        Ok(Ok(object)) => {
            tracing::info!(generation = report.applied_generation, exceptions = report.exceptions_total, "reported");
            Ok(object.status.map(|status| status.report).unwrap_or_default())
        }
        // Made by the operator, which may come up after us.
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {
            Err(format!("there is no DataplaneNode {node} yet"))
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", WRITE_TIMEOUT.as_secs())),
    }
}

/// `Ready`: the node runs what is assigned, without exceptions.
fn condition(report: &NodeReport, before: Option<&Condition>, now: Timestamp) -> Condition {
    let (status, reason, message) = match (&report.last_error, report.exceptions_total) {
        (Some(error), _) => ("False", "NotApplied", error.clone()),
        (None, _) if report.applied_generation == 0 => ("False", "Starting", "no assignment is in force yet".into()),
        (None, 0) => ("True", "AsAssigned", format!("generation {} is in force", report.applied_generation)),
        (None, n) => ("False", "Exceptions", format!("units that do not run as assigned: {n}")),
    };
    let since = before.filter(|b| b.status == status).map_or(Time(now), |b| b.last_transition_time.clone());
    Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: since,
        observed_generation: None,
    }
}

/// A merge patch leaves out what is absent: lists and errors that emptied are said explicitly.
fn patch(report: &NodeReport, ready: &Condition) -> Value {
    let mut status = serde_json::to_value(report).unwrap_or_else(|_| json!({}));
    if let Some(fields) = status.as_object_mut() {
        for absent in ["exceptions", "lastError"] {
            fields.entry(absent).or_insert(Value::Null);
        }
        fields.insert("conditions".into(), json!([ready]));
    }
    json!({ "status": status })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_emptied_is_removed() {
        let report = NodeReport::default();
        let patch = patch(&report, &condition(&report, None, at(1)));
        assert_eq!(patch["status"]["exceptions"], Value::Null);
        assert!(patch["status"].get("lastError").is_some());
        assert_eq!(patch["status"]["appliedGeneration"], 0);
        assert_eq!(patch["status"]["conditions"][0]["status"], "False");
    }

    #[test]
    fn the_condition_remembers_when_it_turned() {
        let mut report = NodeReport { applied_generation: 1, ..NodeReport::default() };
        let first = condition(&report, None, at(1));
        assert_eq!((first.status.as_str(), &first.last_transition_time), ("True", &Time(at(1))));
        report.applied_generation = 2;
        let second = condition(&report, Some(&first), at(2));
        assert_eq!(second.last_transition_time, Time(at(1)));
        report.exceptions_total = 3;
        let third = condition(&report, Some(&second), at(3));
        assert_eq!((third.reason.as_str(), &third.last_transition_time), ("Exceptions", &Time(at(3))));
    }
}
