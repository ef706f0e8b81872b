//! What `/traces` of the admin listener shows.

use serde::Serialize;
use sluice_chain::{Step, Trace};

/// A trace, in the words of logs and metrics.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    /// RFC 3339.
    began: String,
    method: String,
    host: String,
    path: String,
    steps: Vec<StepView>,
    /// Absent where the client left before.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    duration_micros: u128,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StepView {
    unit: String,
    revision: String,
    phase: &'static str,
    outcome: &'static str,
    own_micros: u128,
    changes: Vec<String>,
}

impl From<&Trace> for View {
    fn from(trace: &Trace) -> Self {
        let Trace { began, method, host, path, steps, status, duration } = trace;
        Self {
            // Before the year 9999 it is never empty.
            began: jiff::Timestamp::try_from(*began).map(|at| at.to_string()).unwrap_or_default(),
            method: method.to_string(),
            host: host.clone(),
            path: path.clone(),
            steps: steps.iter().map(Into::into).collect(),
            status: status.map(|status| status.as_u16()),
            duration_micros: duration.as_micros(),
        }
    }
}

impl From<&Step> for StepView {
    fn from(step: &Step) -> Self {
        let Step { unit, revision, call, changes } = step;
        Self {
            unit: unit.to_string(),
            revision: revision.short().to_owned(),
            phase: call.phase.as_str(),
            outcome: call.outcome.as_str(),
            own_micros: call.own.as_micros(),
            changes: changes.clone(),
        }
    }
}
