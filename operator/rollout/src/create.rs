//! Makes an attempt, Pending, of each thing that a branch wants and that is not so.

use crate::{
    Effect, Environment, Head, RolloutId, RolloutSpec, Target, Unit, UnitChange, UnitId, UnitReport, Write, adopt,
    view::{View, target_of},
};

/// Creates the attempt that a unit's branch asks for, or says why there is none.
pub(crate) fn missing(
    view: &View<'_>,
    id: &UnitId,
    unit: &Unit,
    environment: Environment,
) -> (Option<Effect>, Option<UnitReport>) {
    let (target, commit, author) = match unit.heads.get(&environment) {
        Some(Head::Wants { target, commit, author }) => (target, commit, author),
        Some(Head::Unknown { reason }) => return (None, unknown(view, id, environment, reason)),
        None => return (None, None),
    };
    if *target == view.stable(id, environment) {
        return (None, None);
    }
    let memory = view.memory(id, environment);
    if let Some(rejection) = memory.rejected.get(target) {
        let report =
            UnitReport::Rejected { target: target.clone(), by: rejection.by.clone(), why: rejection.why.clone() };
        return (None, Some(report));
    }
    if adopt::lost_stable(view, id, environment).is_some() || is_under_way(view, id, environment, target) {
        return (None, None);
    }
    let attempt = 1 + last_attempt(view, id, environment);
    let alone = memory.suspect.as_ref().is_some_and(|suspect| suspect.target == *target);
    let spec = RolloutSpec {
        environment,
        units: vec![UnitChange { unit: id.clone(), target: target.clone() }],
        attempt,
        alone,
        commit: commit.clone(),
        author: author.clone(),
    };
    let rollout = RolloutId::of(id, environment, target, attempt);
    let write = Write::CreateRollout { rollout, spec };
    (Some(Effect { write, events: Vec::new() }), None)
}

/// A branch that cannot be read matters only for units that it could change.
fn unknown(view: &View<'_>, id: &UnitId, environment: Environment, reason: &str) -> Option<UnitReport> {
    let remembered = view.memory(id, environment).stable.is_some();
    remembered.then(|| UnitReport::HeadUnknown { reason: reason.to_owned() })
}

/// Whether an attempt at this target is not over, or is over and not yet in the unit's memory: only that
/// tells whether the target was rejected.
fn is_under_way(view: &View<'_>, id: &UnitId, environment: Environment, target: &Target) -> bool {
    let mut attempts = view.attempts(id, environment).iter();
    let in_flight = view.memory(id, environment).in_flight.as_ref();
    attempts.any(|(rollout_id, rollout)| {
        target_of(rollout, id) == Some(target) && (!rollout.status.phase.is_over() || in_flight == Some(*rollout_id))
    })
}

/// Number of the last attempt that is remembered or exists.
pub(crate) fn last_attempt(view: &View<'_>, id: &UnitId, environment: Environment) -> u32 {
    let existing = view.attempts(id, environment).last();
    let existing = existing.map_or(0, |(_, rollout)| rollout.spec.attempt);
    existing.max(view.memory(id, environment).attempts)
}
