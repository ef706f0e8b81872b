//! All that the planner writes comes back unchanged from its stored form.

use std::time::Duration;

use sluice_rollout::{GateProgress, Time, Verdict};

use super::*;

const NOW: Time = Time(1_795_435_200_123);

fn unit() -> UnitId {
    ids::unit(sluice_config::UnitKind::Routes, "team", "shop")
}

fn status(phase: Phase, group_phase: GroupPhase, cause: Option<Cause>, verdict: Verdict) -> RolloutStatus {
    let digest: Digest = "9f2c1a77".repeat(8).parse().unwrap();
    let gate = GateProgress {
        verdict,
        message: "0.31 > 0.25".into(),
        started_at: NOW,
        samples: 3,
        consecutive_failures: 1,
        requests: 812,
        errors: 2,
        watched: Duration::from_millis(61_234),
        watched_until: Some(NOW),
        last_sample_at: Some(NOW),
        reruns: 1,
    };
    RolloutStatus {
        phase,
        cause,
        message: "why".into(),
        stable: [(unit(), Some(digest)), (ids::unit(sluice_config::UnitKind::Worker, "team", "new"), None)].into(),
        groups: vec![GroupProgress {
            name: "canary".into(),
            order: 10,
            phase: group_phase,
            entered_at: Some(NOW),
            told_at: Some(Time(7)),
            behind_since: Some(Time(8)),
            since: [(unit(), 14)].into(),
            gates_started_at: Some(NOW),
            gates: [("errors".to_owned(), gate)].into(),
        }],
        group: "1/4 canary".into(),
        waiting_for: "soak".into(),
        started_at: Some(NOW),
        ended_at: None,
        held_since: Some(Time(9)),
        retried: Some("1".into()),
        rollback_answered: Some("2".into()),
        written_at: Some(NOW),
    }
}

fn trip(status: &RolloutStatus) -> RolloutStatus {
    let text = serde_json::to_string(&write_status(status)).unwrap();
    read_status("team", &serde_json::from_str(&text).unwrap())
}

#[test]
fn a_status_comes_back_unchanged() {
    use {GroupPhase as G, Phase as P, Verdict as V};
    let other = ids::rollout("other", "shop-r-pr-77ab02c1-2");
    let causes = [
        None,
        Some(Cause::GateFailed),
        Some(Cause::Refused),
        Some(Cause::NotApplied),
        Some(Cause::HoldLimit),
        Some(Cause::Person),
        Some(Cause::RolledBack),
        Some(Cause::HeadReturned),
        Some(Cause::Shared { with: vec![other.clone(), other.clone()] }),
        Some(Cause::Superseded { by: None }),
        Some(Cause::Superseded { by: Some(other) }),
    ];
    let phases =
        [P::Pending, P::Progressing, P::Paused, P::Reverting, P::Reverted, P::Succeeded, P::Superseded, P::Aborted];
    let groups = [G::Waiting, G::Deploying, G::Verifying, G::Passed, G::Skipped, G::Failed];
    let verdicts = [V::Running, V::Pass, V::Fail, V::Inconclusive];
    for (n, cause) in causes.into_iter().enumerate() {
        let status = status(phases[n % 8], groups[n % 6], cause, verdicts[n % 4]);
        assert_eq!(trip(&status), status);
    }
    assert_eq!(trip(&RolloutStatus::default()), RolloutStatus::default());
}

#[test]
fn a_spec_comes_back_unchanged_and_reads_well() {
    let spec = RolloutSpec {
        environment: sluice_rollout::Environment::Production,
        units: vec![UnitChange { unit: unit(), target: sluice_rollout::Target::Removed }],
        attempt: 2,
        alone: true,
        commit: "c0ffee".into(),
        author: "A".into(),
    };
    let stored = write_spec(&spec, "Remove the shop");
    assert_eq!((stored.title.as_str(), stored.revision.as_str()), ("shop (routes)", "removed"));
    assert_eq!(read("team", "7", &stored, &crd::RolloutStatus::default()).spec, spec);
}

#[test]
fn a_group_gets_as_many_units_as_nodes_accept() {
    assert_eq!(sluice_rollout::ENTRIES_MAX, sluice_config::limits::ENTRIES);
}
