//! `rollback`: takes a finished change off everywhere at once. A person says it on the rollout that brought what is
//! stable now.
//!
//! The units remember it first, all in one write each: stable is what was there before, the change is rejected, and
//! the rollout has the unit again, in place of whichever attempt had it. From then on no group runs the change. Only
//! then does the rollout say that it goes back.

use crate::{
    Cause, Digest, Environment, Phase, Reason, Rollout, RolloutId, Said, Severity, Target, UnitChange, UnitId,
    UnitMemory,
    advance::Step,
    revert,
    view::{View, target_of},
};

/// The order, while nobody has answered it.
fn ordered(rollout: &Rollout) -> Option<&Said> {
    let said = rollout.verbs.rollback.as_ref()?;
    let answered = rollout.status.rollback_answered.as_ref() == Some(&said.token);
    (rollout.status.phase == Phase::Succeeded && !answered).then_some(said)
}

/// Whether a unit remembers that this attempt, which had succeeded, was taken back.
pub(crate) fn is_taken_back(memory: &UnitMemory, id: &RolloutId, rollout: &Rollout, unit: &UnitId) -> bool {
    let rejection = target_of(rollout, unit).and_then(|target| memory.rejected.get(target));
    rollout.status.phase == Phase::Succeeded && rejection.is_some_and(|rejection| rejection.by == *id)
}

/// Whether there is anything to do about an attempt that succeeded.
pub(crate) fn concerns(view: &View<'_>, id: &RolloutId, rollout: &Rollout) -> bool {
    rollout.status.phase == Phase::Succeeded && (ordered(rollout).is_some() || why(view, id, rollout).is_some())
}

/// Why an attempt is taken back, if it is. What one of its units has stored holds for all of them, whatever becomes
/// of the order.
fn why(view: &View<'_>, id: &RolloutId, rollout: &Rollout) -> Option<String> {
    let mut units = rollout.spec.units.iter();
    let stored = units.find_map(|change| {
        let memory = view.memory(&change.unit, rollout.spec.environment);
        let rejection = memory.rejected.get(&change.target)?;
        is_taken_back(memory, id, rollout, &change.unit).then(|| rejection.why.clone())
    });
    stored.or_else(|| ordered(rollout).map(|said| format!("rolled back by {}: {}", said.by, said.reason)))
}

/// The attempt that brought what is stable.
fn origin<'a>(
    view: &View<'a>,
    unit: &UnitId,
    environment: Environment,
    stable: Option<&Target>,
) -> Option<(&'a RolloutId, &'a Rollout)> {
    let attempts = view.attempts(unit, environment).iter().rev();
    attempts.copied().find(|(_, rollout)| {
        rollout.status.phase == Phase::Succeeded && stable.is_some() && target_of(rollout, unit) == stable
    })
}

/// A change that is to be taken off a unit.
pub(crate) struct TakenBack<'a> {
    pub(crate) id: &'a RolloutId,
    /// What was there before.
    pub(crate) former: Option<Digest>,
    pub(crate) why: String,
}

/// What a unit whose stable is this has to take off.
pub(crate) fn due<'a>(
    view: &View<'a>,
    unit: &UnitId,
    environment: Environment,
    stable: Option<&Target>,
) -> Option<TakenBack<'a>> {
    let (id, rollout) = origin(view, unit, environment, stable)?;
    let former = rollout.status.stable.get(unit)?.clone();
    Some(TakenBack { id, former, why: why(view, id, rollout)? })
}

/// Goes back once its units remember that, or says why there is nothing to take off.
pub(crate) fn step(step: &mut Step<'_>) {
    let environment = step.rollout.spec.environment;
    let units = step.rollout.spec.units.iter();
    let memories = units.map(|change| (change, step.view.memory(&change.unit, environment)));
    let memories: Vec<(&UnitChange, &UnitMemory)> = memories.collect();
    let undecided = memories.iter().any(|(change, memory)| {
        let taken = is_taken_back(memory, step.id, step.rollout, &change.unit);
        let due = due(step.view, &change.unit, environment, memory.stable.as_ref());
        (memory.in_flight.as_ref() == Some(step.id) && !taken) || due.is_some_and(|due| due.id == step.id)
    });
    if undecided {
        return;
    }
    step.status.rollback_answered = step.rollout.verbs.rollback.as_ref().map(|said| said.token.clone());
    let taken = memories.iter().any(|(change, memory)| is_taken_back(memory, step.id, step.rollout, &change.unit));
    if let Some(why) = why(step.view, step.id, step.rollout).filter(|_| taken) {
        // What was said before is no wish to have it again.
        let retry = step.rollout.verbs.retry.as_ref().map(|said| said.token.clone());
        step.status.retried = retry.or(step.status.retried.take());
        step.status.ended_at = None;
        return revert::begin(step, Cause::RolledBack, why);
    }
    let message = memories.first().map_or_else(String::new, |(change, memory)| {
        let stable = memory.stable.as_ref();
        let by = origin(step.view, &change.unit, environment, stable).filter(|(id, _)| *id != step.id);
        let by = by.map_or_else(String::new, |(id, _)| format!(", from {id}: to take that off, order it there"));
        let runs = stable.map_or("nothing", Target::short);
        format!("not rolled back: {} is at {runs}{by}", change.unit)
    });
    step.say(Severity::Warning, Reason::NotRolledBack, message.clone());
    step.status.message = message;
}
