//! What a unit remembers next: how its attempt ended, and which attempt has it now.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    About, Cause, Effect, Environment, Event, Phase, Reason, Rejection, Rollout, RolloutId, Severity, Suspect, Target,
    Unit, UnitChange, UnitId, UnitMemory, Write, adopt, assign, create, rollback, start,
    view::{View, target_of},
    wish::{self, Wish},
};

/// More digests than this are not remembered as passed; the oldest go.
const PASSED_MAX: usize = 50;

/// More targets than this are not remembered as rejected; those of the oldest attempts go. One that comes back
/// after so many others is tried again, through all gates.
const REJECTED_MAX: usize = 50;

/// Writes a unit's memory, if it changes. `ending`: the attempts that this plan ends.
pub(crate) fn update(view: &View<'_>, id: &UnitId, unit: &Unit, ending: &BTreeSet<&RolloutId>) -> Option<Effect> {
    let mut changed = BTreeMap::new();
    let mut events = Vec::new();
    for environment in Environment::ALL {
        let mut next = Next { view, id, environment, memory: view.memory(id, environment).clone(), events: Vec::new() };
        next.step(ending);
        if next.memory != *view.memory(id, environment) {
            changed.insert(environment, next.memory);
            events.extend(next.events);
        }
    }
    if changed.is_empty() {
        return None;
    }
    let mut memory = unit.memory.clone();
    memory.extend(changed);
    let write = Write::UpdateUnit { unit: id.clone(), resource_version: unit.resource_version.clone(), memory };
    Some(Effect { write, events })
}

/// The memory of one unit in one environment, on its way to what it should be.
struct Next<'a> {
    view: &'a View<'a>,
    id: &'a UnitId,
    environment: Environment,
    memory: UnitMemory,
    events: Vec<Event>,
}

impl Next<'_> {
    fn step(&mut self, ending: &BTreeSet<&RolloutId>) {
        self.memory.attempts = create::last_attempt(self.view, self.id, self.environment);
        self.adopt();
        self.lift_rejections();
        self.fold_attempt();
        self.fold_failures();
        self.reject_unstarted();
        let taken_back = self.take_back();
        if !taken_back && !self.memory.in_flight.as_ref().is_some_and(|holder| ending.contains(holder)) {
            self.hand_over();
        }
    }

    fn say(&mut self, severity: Severity, reason: Reason, note: String) {
        let about = About::Unit(self.id.clone());
        self.events.push(Event { about, severity, reason, note });
    }

    fn adopt(&mut self) {
        if let Some(stable) = adopt::lost_stable(self.view, self.id, self.environment) {
            let note = format!(
                "{}: memory was lost; {}, which the groups run, counts as stable",
                self.environment,
                stable.short()
            );
            self.memory.stable = Some(stable);
            self.say(Severity::Warning, Reason::Adopted, note);
        }
    }

    fn lift_rejections(&mut self) {
        let retried = |rejection: &Rejection| {
            let rollout = self.view.rollout(&rejection.by);
            rollout.is_some_and(asks_retry)
        };
        let rejected = self.memory.rejected.iter();
        let lifted: Vec<_> =
            rejected.filter(|(_, r)| retried(r)).map(|(target, r)| (target.clone(), r.by.clone())).collect();
        for (target, by) in lifted {
            self.memory.rejected.remove(&target);
            let said = self.view.rollout(&by).and_then(|r| r.verbs.retry.clone());
            let said = said.map_or_else(String::new, |said| format!(" ({}: {})", said.by, said.reason));
            let note = format!("{}: {} may be tried again{said}", self.environment, target.short());
            self.say(Severity::Normal, Reason::Retried, note);
        }
    }

    /// Takes over how the attempt that has the unit ended.
    fn fold_attempt(&mut self) {
        let Some(in_flight) = self.memory.in_flight.clone() else { return };
        let Some(rollout) = self.view.rollout(&in_flight) else {
            // Its object was deleted. The groups go back first, so that nothing it left is taken for stable.
            if assign::is_stable_everywhere(self.view, self.id, self.environment) {
                self.memory.in_flight = None;
            }
            return;
        };
        let Some(target) = target_of(rollout, self.id) else {
            self.memory.in_flight = None;
            return;
        };
        match rollout.status.phase {
            Phase::Pending | Phase::Progressing | Phase::Paused => return,
            // Nothing but a person takes back what succeeded; it is to say so itself.
            Phase::Succeeded if rollback::is_taken_back(&self.memory, &in_flight, rollout, self.id) => return,
            Phase::Succeeded => self.succeeded(rollout, target),
            Phase::Reverting | Phase::Reverted | Phase::Aborted => self.failed(&in_flight, rollout, target),
            Phase::Superseded => {}
        }
        if rollout.status.phase.is_over() {
            self.memory.in_flight = None;
        }
    }

    fn succeeded(&mut self, rollout: &Rollout, target: &Target) {
        self.memory.stable = Some(target.clone());
        self.forget_suspicion(target);
        // It had failed together with something else.
        self.memory.rejected.remove(target);
        let Target::Revision(digest) = target else { return };
        let at = rollout.status.ended_at.unwrap_or(self.view.now);
        self.memory.passed.insert(digest.clone(), at);
        while self.memory.passed.len() > PASSED_MAX {
            let passed = self.memory.passed.iter().filter(|(passed, _)| *passed != digest);
            let Some(oldest) = passed.min_by_key(|(_, at)| **at).map(|(d, _)| d.clone()) else { break };
            self.memory.passed.remove(&oldest);
        }
    }

    fn failed(&mut self, id: &RolloutId, rollout: &Rollout, target: &Target) {
        match rollout.status.cause {
            Some(Cause::GateFailed | Cause::Refused | Cause::RolledBack) => {
                // What failed now has not passed, whatever an earlier attempt showed.
                if let Target::Revision(digest) = target {
                    self.memory.passed.remove(digest);
                }
                self.reject(id, rollout, target, rollout.status.message.clone());
            }
            Some(Cause::Person) => self.reject(id, rollout, target, rollout.status.message.clone()),
            Some(Cause::Shared { .. }) => {
                let known = self.memory.suspect.as_ref().filter(|suspect| suspect.target == *target);
                if known.is_none() {
                    let since = rollout.status.started_at.unwrap_or(self.view.now);
                    self.memory.suspect = Some(Suspect { target: target.clone(), since });
                }
            }
            Some(Cause::NotApplied | Cause::HoldLimit | Cause::HeadReturned | Cause::Superseded { .. }) | None => {}
        }
    }

    fn reject(&mut self, id: &RolloutId, rollout: &Rollout, target: &Target, why: String) {
        self.forget_suspicion(target);
        let known = self.memory.rejected.get(target).is_some_and(|rejection| rejection.by == *id);
        if known || asks_retry(rollout) {
            return;
        }
        let note = format!(
            "{}: {} is rejected ({why}); it does not come back by itself, retry {id} brings it back",
            self.environment,
            target.short()
        );
        self.memory.rejected.insert(target.clone(), Rejection { by: id.clone(), why });
        let wanted = self.view.wanted(self.id, self.environment);
        forget_oldest(&mut self.memory.rejected, [Some(target), wanted]);
        self.say(Severity::Warning, Reason::Rejected, note);
    }

    /// Failures of attempts that lost the unit before anyone had taken over how they ended: another operator's
    /// plan, or one made from what was stored a moment before, gave it to the next.
    fn fold_failures(&mut self) {
        let in_flight = self.memory.in_flight.clone();
        for (id, rollout) in self.view.attempts(self.id, self.environment) {
            let target = target_of(rollout, self.id).filter(|_| Some(*id) != in_flight.as_ref());
            if let Some(target) = target.filter(|_| is_to_be_rejected(rollout))
                && !self.memory.rejected.contains_key(target)
            {
                self.failed(id, rollout, target);
            }
        }
    }

    /// An attempt that a person ended before it started: its object would else be made anew.
    fn reject_unstarted(&mut self) {
        for (id, rollout) in self.view.attempts(self.id, self.environment) {
            let pending = rollout.status.phase == Phase::Pending && !self.view.has_its_units(id, rollout);
            if let (true, Some(said), Some(target)) = (pending, &rollout.verbs.abort, target_of(rollout, self.id)) {
                let why = format!("aborted by {}: {}", said.by, said.reason);
                self.reject(id, rollout, target, why);
            }
        }
    }

    /// Takes off what a person wants rolled back. Whatever attempt has the unit was built on it, and ends.
    fn take_back(&mut self) -> bool {
        let stable = self.memory.stable.clone();
        let due = rollback::due(self.view, self.id, self.environment, stable.as_ref());
        let (Some(rollback::TakenBack { id, former, why }), Some(target)) = (due, stable) else { return false };
        let former = Target::from(former);
        let again = match &former {
            Target::Revision(digest) => format!("{} is stable again", digest.short()),
            Target::Removed => "it was not there before".to_owned(),
        };
        let note = format!(
            "{}: {why}; {again}; {} does not come back by itself, retry {id} brings it back",
            self.environment,
            target.short()
        );
        if let Target::Revision(digest) = &target {
            self.memory.passed.remove(digest);
        }
        self.memory.rejected.insert(target.clone(), Rejection { by: id.clone(), why });
        let wanted = self.view.wanted(self.id, self.environment);
        forget_oldest(&mut self.memory.rejected, [Some(&target), wanted]);
        self.memory.stable = Some(former);
        self.memory.in_flight = Some(id.clone());
        self.say(Severity::Warning, Reason::RolledBack, note);
        true
    }

    fn forget_suspicion(&mut self, target: &Target) {
        if self.memory.suspect.as_ref().is_some_and(|suspect| suspect.target == *target) {
            self.memory.suspect = None;
        }
    }

    /// Whether what the branch wants of this unit does not come back by itself.
    fn is_rejected(&self, change: &UnitChange, wish: &Wish<'_>) -> bool {
        let rejection = self.memory.rejected.get(&change.target);
        rejection.is_some_and(|rejection| wish.is_rejected_by(self.view, rejection))
    }

    /// Gives the unit to the attempt that the branch wants, once nothing stands in its way. This alone
    /// decides who is in flight: the stored version of the unit lets only one attempt in.
    fn hand_over(&mut self) {
        let Ok(Some(wish)) = wish::of(self.view, self.id, self.environment) else { return };
        // What this very write makes stable, or rejects, is no longer to be tried, whoever made an attempt of it.
        let stable = self.memory.stable.clone().unwrap_or(Target::Removed);
        let open = |change: &UnitChange| change.target != stable && !self.is_rejected(change, &wish);
        if !wish.changes.iter().find(|change| change.unit == *self.id).is_some_and(open) {
            return;
        }
        let Some((next, rollout)) = wish.last_attempt(self.view, self.environment) else { return };
        let ready = rollout.status.phase == Phase::Pending
            && !start::is_elsewhere(self.view, self.id, self.environment)
            && rollout.verbs.abort.is_none()
            && self.memory.in_flight.as_ref() != Some(next)
            && start::queue(self.view, next, rollout).is_empty()
            && start::blockers(self.view, next, rollout).is_empty();
        if ready {
            self.memory.in_flight = Some(next.clone());
        }
    }
}

/// Forgets rejections beyond those that are kept; never what is named to stay: what the branch wants now would
/// come back by itself.
fn forget_oldest(rejected: &mut BTreeMap<Target, Rejection>, stay: [Option<&Target>; 2]) {
    while rejected.len() > REJECTED_MAX {
        let others = rejected.iter().filter(|(target, _)| !stay.contains(&Some(*target)));
        let oldest = others.min_by_key(|(_, rejection)| rejection.by.attempt()).map(|(target, _)| target.clone());
        let Some(oldest) = oldest else { return };
        rejected.remove(&oldest);
    }
}

/// Whether an attempt failed in a way that its units have to remember before it is over.
pub(crate) fn is_to_be_rejected(rollout: &Rollout) -> bool {
    let rejects = match rollout.status.cause {
        Some(Cause::GateFailed | Cause::Refused | Cause::Person | Cause::RolledBack) => true,
        Some(
            Cause::NotApplied
            | Cause::HoldLimit
            | Cause::HeadReturned
            | Cause::Shared { .. }
            | Cause::Superseded { .. },
        )
        | None => false,
    };
    rejects && rollout.status.phase == Phase::Reverting && !asks_retry(rollout)
}

/// Whether a person wants an attempt that is over tried again. A `retry` that was followed while it was
/// paused does not count.
fn asks_retry(rollout: &Rollout) -> bool {
    let over = match rollout.status.phase {
        Phase::Reverting | Phase::Reverted | Phase::Aborted | Phase::Superseded => true,
        Phase::Pending | Phase::Progressing | Phase::Paused | Phase::Succeeded => false,
    };
    over && rollout.new_retry().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(n: u64) -> Target {
        Target::Revision(format!("{n:064x}").parse().unwrap())
    }

    #[test]
    fn rejections_of_the_oldest_attempts_go_but_never_what_the_branch_wants() {
        let mut rejected: BTreeMap<Target, Rejection> = BTreeMap::new();
        for n in 1..=120 {
            // The newest attempts sort first by digest, and their names not by number.
            let name = format!("shop-w-pr-{:08x}-{n}", 200 - n);
            let by = RolloutId { namespace: "edge".into(), name };
            rejected.insert(target(200 - n), Rejection { by, why: "errors".into() });
            forget_oldest(&mut rejected, [Some(&target(200 - n)), Some(&target(199))]);
        }
        assert_eq!(rejected.len(), REJECTED_MAX);
        assert!(rejected.contains_key(&target(199)), "the branch wants it: it would come back by itself");
        let attempts = rejected.values().map(|rejection| rejection.by.attempt());
        assert_eq!(attempts.filter(|attempt| *attempt > 71).count(), 49, "the newest stay");
    }
}
