//! Gates: what they ask, and how far they are.

use std::time::Duration;

use sluice_crds as crd;
use sluice_crds::quantities::Span;
use sluice_rollout::{Check, GateProgress, GateScope, GateSpec, Ppm, Verdict};

use super::ids;
use crate::{gates::promql, times};

/// A gate as the planner knows it; none for one that says nothing, which the API server refuses.
#[must_use]
pub fn read_spec(gate: &crd::Gate) -> Option<GateSpec> {
    let scope = gate.applies_to.as_ref().map_or_else(GateScope::default, |m| GateScope {
        kinds: m.kinds.iter().copied().map(ids::kind).collect(),
        namespaces: m.namespaces.iter().cloned().collect(),
    });
    Some(GateSpec { name: gate.name.clone(), scope, check: read_check(gate)? })
}

/// Gates as the planner knows them.
pub fn read_specs<'a>(gates: impl IntoIterator<Item = &'a crd::Gate>) -> Vec<GateSpec> {
    gates.into_iter().filter_map(read_spec).collect()
}

fn read_check(gate: &crd::Gate) -> Option<Check> {
    if let Some(soak) = &gate.soak {
        let min_requests = (soak.min_requests > 0).then_some(soak.min_requests);
        return Some(Check::Soak { duration: soak.duration.duration(), min_requests });
    }
    if let Some(crd::Preset { error_rate }) = &gate.preset {
        let min_requests = error_rate.min_requests.max(1);
        return Some(Check::ErrorRate { max: Ppm(error_rate.max.ppm), min_requests });
    }
    if let Some(query) = &gate.prometheus {
        return Some(Check::Prometheus {
            interval: query.interval.duration().max(Duration::from_secs(1)),
            failure_limit: query.failure_limit.max(1),
            min_samples: query.success_count.max(1),
            range: promql::reach(&query.query),
            per_unit: promql::names_unit(&query.query),
        });
    }
    gate.job.as_ref().map(|_| Check::Job)
}

/// How far a gate is, as the planner knows it.
#[must_use]
pub fn read_progress(stored: &crd::GateStatus) -> GateProgress {
    GateProgress {
        verdict: match stored.verdict {
            crd::Verdict::Running => Verdict::Running,
            crd::Verdict::Pass => Verdict::Pass,
            crd::Verdict::Fail => Verdict::Fail,
            crd::Verdict::Inconclusive => Verdict::Inconclusive,
        },
        message: stored.message.clone(),
        started_at: times::from_micro(&stored.started_at),
        samples: stored.samples,
        consecutive_failures: stored.consecutive_failures,
        requests: stored.requests,
        errors: stored.errors,
        watched: stored.watched.duration(),
        watched_until: stored.watched_until.as_ref().map(times::from_micro),
        last_sample_at: stored.last_sample_at.as_ref().map(times::from_micro),
        reruns: stored.reruns,
    }
}

/// How far a gate is, as it is stored; the query is the reporter's to add.
#[must_use]
pub fn write_progress(name: &str, progress: &GateProgress) -> crd::GateStatus {
    let GateProgress {
        verdict,
        message,
        started_at,
        samples,
        consecutive_failures,
        requests,
        errors,
        watched,
        watched_until,
        last_sample_at,
        reruns,
    } = progress;
    crd::GateStatus {
        name: name.to_owned(),
        verdict: match verdict {
            Verdict::Running => crd::Verdict::Running,
            Verdict::Pass => crd::Verdict::Pass,
            Verdict::Fail => crd::Verdict::Fail,
            Verdict::Inconclusive => crd::Verdict::Inconclusive,
        },
        message: message.clone(),
        query: None,
        started_at: times::to_micro(*started_at),
        samples: *samples,
        consecutive_failures: *consecutive_failures,
        requests: *requests,
        errors: *errors,
        watched: Span::from_millis(u64::try_from((*watched).min(Span::MAX).as_millis()).unwrap_or(u64::MAX)),
        watched_until: watched_until.map(times::to_micro),
        last_sample_at: last_sample_at.map(times::to_micro),
        reruns: *reruns,
    }
}
