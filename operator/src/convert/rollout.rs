//! Rollouts: what an attempt is to do, what people said, how far it is.

use sluice_crds as crd;
use sluice_rollout::{
    Cause, Digest, GroupPhase, GroupProgress, Phase, Rollout, RolloutId, RolloutSpec, RolloutStatus, Said, UnitChange,
    UnitId, Verbs,
};

use super::{gates, ids};
use crate::times;

/// As the planner knows it.
#[must_use]
pub fn read(namespace: &str, version: &str, spec: &crd::RolloutSpec, status: &crd::RolloutStatus) -> Rollout {
    Rollout {
        resource_version: version.to_owned(),
        spec: read_spec(namespace, spec),
        verbs: Verbs {
            pause: spec.pause.as_ref().map(said),
            abort: spec.abort.as_ref().map(said),
            approve: spec.approve.as_ref().map(said),
            retry: spec.retry.as_ref().map(said),
            rollback: spec.rollback.as_ref().map(said),
        },
        status: read_status(namespace, status),
    }
}

fn said(order: &crd::Order) -> Said {
    let by = if order.by.is_empty() { "somebody" } else { order.by.as_str() };
    Said { token: order.token.clone(), by: by.to_owned(), reason: order.reason.clone() }
}

fn read_spec(namespace: &str, spec: &crd::RolloutSpec) -> RolloutSpec {
    let change = |u: &crd::RolloutUnit| UnitChange {
        unit: ids::unit(u.kind, namespace, &u.name),
        target: ids::target(u.revision.as_ref()),
    };
    RolloutSpec {
        environment: ids::environment(spec.environment),
        units: spec.units.iter().map(change).collect(),
        attempt: spec.attempt,
        alone: spec.alone,
        commit: spec.commit.clone(),
        author: spec.author.clone(),
    }
}

/// As it is stored.
#[must_use]
pub fn write_spec(spec: &RolloutSpec, subject: &str) -> crd::RolloutSpec {
    let RolloutSpec { environment, units, attempt, alone, commit, author } = spec;
    crd::RolloutSpec {
        environment: ids::wire_environment(*environment),
        title: title(units),
        revision: units.first().map_or_else(String::new, |u| u.target.short().to_owned()),
        units: units
            .iter()
            .map(|u| crd::RolloutUnit {
                kind: ids::wire_kind(u.unit.kind),
                name: u.unit.name.clone(),
                revision: ids::wire_target(&u.target),
            })
            .collect(),
        attempt: *attempt,
        alone: *alone,
        commit: commit.clone(),
        author: author.clone(),
        subject: subject.to_owned(),
        pause: None,
        approve: None,
        abort: None,
        retry: None,
        rollback: None,
    }
}

/// `shop (routes)`, or `shop and 2 more`.
fn title(units: &[UnitChange]) -> String {
    let Some(first) = units.first() else { return String::new() };
    let name = first.unit.to_string();
    let name = name.split_once('/').map_or(name.as_str(), |(_, name)| name);
    match units.len() - 1 {
        0 => name.to_owned(),
        more => format!("{name} and {more} more"),
    }
}

fn read_status(namespace: &str, stored: &crd::RolloutStatus) -> RolloutStatus {
    RolloutStatus {
        phase: read_phase(stored.phase),
        cause: stored.cause.as_ref().map(read_cause),
        message: stored.message.clone(),
        stable: stored
            .stable
            .iter()
            .map(|s| (ids::unit(s.kind, namespace, &s.name), s.digest.as_ref().map(ids::digest)))
            .collect(),
        groups: stored.groups.iter().map(|g| read_group(namespace, g)).collect(),
        group: stored.group.clone(),
        waiting_for: stored.waiting_for.clone(),
        started_at: stored.started_at.as_ref().map(times::from_micro),
        ended_at: stored.ended_at.as_ref().map(times::from_micro),
        held_since: stored.held_since.as_ref().map(times::from_micro),
        retried: stored.retried.clone(),
        rollback_answered: stored.rollback_answered.clone(),
        written_at: stored.written_at.as_ref().map(times::from_micro),
    }
}

/// As it is stored; conditions and the generation are the reporter's to add.
#[must_use]
pub fn write_status(status: &RolloutStatus) -> crd::RolloutStatus {
    let RolloutStatus {
        phase,
        cause,
        message,
        stable: stables,
        groups,
        group,
        waiting_for,
        started_at,
        ended_at,
        held_since,
        retried,
        rollback_answered,
        written_at,
    } = status;
    let stable = |(unit, digest): (&UnitId, &Option<Digest>)| crd::UnitStable {
        kind: ids::wire_kind(unit.kind),
        name: unit.name.clone(),
        digest: digest.as_ref().map(ids::wire_digest),
    };
    crd::RolloutStatus {
        phase: write_phase(*phase),
        group: group.clone(),
        waiting_for: waiting_for.clone(),
        cause: cause.as_ref().map(write_cause),
        message: message.clone(),
        stable: stables.iter().map(stable).collect(),
        groups: groups.iter().map(write_group).collect(),
        started_at: started_at.map(times::to_micro),
        ended_at: ended_at.map(times::to_micro),
        held_since: held_since.map(times::to_micro),
        retried: retried.clone(),
        rollback_answered: rollback_answered.clone(),
        written_at: written_at.map(times::to_micro),
        observed_generation: None,
        conditions: Vec::new(),
    }
}

fn read_group(namespace: &str, stored: &crd::GroupStatus) -> GroupProgress {
    GroupProgress {
        name: stored.name.clone(),
        order: stored.order,
        phase: read_group_phase(stored.phase),
        entered_at: stored.entered_at.as_ref().map(times::from_micro),
        told_at: stored.told_at.as_ref().map(times::from_micro),
        behind_since: stored.behind_since.as_ref().map(times::from_micro),
        since: stored.since.iter().map(|s| (ids::unit(s.kind, namespace, &s.name), s.since)).collect(),
        gates_started_at: stored.gates_started_at.as_ref().map(times::from_micro),
        gates: stored.gates.iter().map(|g| (g.name.clone(), gates::read_progress(g))).collect(),
    }
}

fn write_group(group: &GroupProgress) -> crd::GroupStatus {
    let GroupProgress { name, order, phase, entered_at, told_at, behind_since, since, gates_started_at, gates } = group;
    let unit_since = |(unit, since): (&UnitId, &u64)| crd::UnitSince {
        kind: ids::wire_kind(unit.kind),
        name: unit.name.clone(),
        since: *since,
    };
    crd::GroupStatus {
        name: name.clone(),
        order: *order,
        phase: write_group_phase(*phase),
        entered_at: entered_at.map(times::to_micro),
        told_at: told_at.map(times::to_micro),
        behind_since: behind_since.map(times::to_micro),
        since: since.iter().map(unit_since).collect(),
        gates_started_at: gates_started_at.map(times::to_micro),
        gates: gates.iter().map(|(name, progress)| gates::write_progress(name, progress)).collect(),
    }
}

fn read_cause(stored: &crd::Cause) -> Cause {
    let rollouts = stored.rollouts.iter().map(|r| ids::rollout(&r.namespace, &r.name));
    match stored.kind {
        crd::CauseKind::GateFailed => Cause::GateFailed,
        crd::CauseKind::Refused => Cause::Refused,
        crd::CauseKind::NotApplied => Cause::NotApplied,
        crd::CauseKind::HoldLimit => Cause::HoldLimit,
        crd::CauseKind::Person => Cause::Person,
        crd::CauseKind::RolledBack => Cause::RolledBack,
        crd::CauseKind::HeadReturned => Cause::HeadReturned,
        crd::CauseKind::Shared => Cause::Shared { with: rollouts.collect() },
        crd::CauseKind::Superseded => Cause::Superseded { by: rollouts.into_iter().next() },
    }
}

fn write_cause(cause: &Cause) -> crd::Cause {
    let name = |id: &RolloutId| crd::RolloutRef { namespace: id.namespace.clone(), name: id.name.clone() };
    let (kind, rollouts) = match cause {
        Cause::GateFailed => (crd::CauseKind::GateFailed, Vec::new()),
        Cause::Refused => (crd::CauseKind::Refused, Vec::new()),
        Cause::NotApplied => (crd::CauseKind::NotApplied, Vec::new()),
        Cause::HoldLimit => (crd::CauseKind::HoldLimit, Vec::new()),
        Cause::Person => (crd::CauseKind::Person, Vec::new()),
        Cause::RolledBack => (crd::CauseKind::RolledBack, Vec::new()),
        Cause::HeadReturned => (crd::CauseKind::HeadReturned, Vec::new()),
        Cause::Shared { with } => (crd::CauseKind::Shared, with.iter().map(name).collect()),
        Cause::Superseded { by } => (crd::CauseKind::Superseded, by.iter().map(name).collect()),
    };
    crd::Cause { kind, rollouts }
}

fn read_phase(phase: crd::Phase) -> Phase {
    match phase {
        crd::Phase::Pending => Phase::Pending,
        crd::Phase::Progressing => Phase::Progressing,
        crd::Phase::Paused => Phase::Paused,
        crd::Phase::Reverting => Phase::Reverting,
        crd::Phase::Reverted => Phase::Reverted,
        crd::Phase::Succeeded => Phase::Succeeded,
        crd::Phase::Superseded => Phase::Superseded,
        crd::Phase::Aborted => Phase::Aborted,
    }
}

fn write_phase(phase: Phase) -> crd::Phase {
    match phase {
        Phase::Pending => crd::Phase::Pending,
        Phase::Progressing => crd::Phase::Progressing,
        Phase::Paused => crd::Phase::Paused,
        Phase::Reverting => crd::Phase::Reverting,
        Phase::Reverted => crd::Phase::Reverted,
        Phase::Succeeded => crd::Phase::Succeeded,
        Phase::Superseded => crd::Phase::Superseded,
        Phase::Aborted => crd::Phase::Aborted,
    }
}

fn read_group_phase(phase: crd::GroupPhase) -> GroupPhase {
    match phase {
        crd::GroupPhase::Waiting => GroupPhase::Waiting,
        crd::GroupPhase::Deploying => GroupPhase::Deploying,
        crd::GroupPhase::Verifying => GroupPhase::Verifying,
        crd::GroupPhase::Passed => GroupPhase::Passed,
        crd::GroupPhase::Skipped => GroupPhase::Skipped,
        crd::GroupPhase::Failed => GroupPhase::Failed,
    }
}

fn write_group_phase(phase: GroupPhase) -> crd::GroupPhase {
    match phase {
        GroupPhase::Waiting => crd::GroupPhase::Waiting,
        GroupPhase::Deploying => crd::GroupPhase::Deploying,
        GroupPhase::Verifying => crd::GroupPhase::Verifying,
        GroupPhase::Passed => crd::GroupPhase::Passed,
        GroupPhase::Skipped => crd::GroupPhase::Skipped,
        GroupPhase::Failed => crd::GroupPhase::Failed,
    }
}

#[cfg(test)]
mod tests;
