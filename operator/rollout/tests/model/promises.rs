//! The promises by name, and those that are seen in states; those that are seen in writes stand in `writes`.

use std::collections::BTreeSet;

use sluice_rollout::{
    Cause, Environment, GateRef, GroupPhase, GroupProgress, JobState, Node, OnGateFailure, Phase, Rollout, RolloutId,
    Target, UnitId,
};
use stateright::Property;

use super::{
    operator::in_flight,
    setting::Checked,
    state::{Noted, Ran, State},
};

pub const SKIPPED: &str = "no group is skipped";
pub const FRESH: &str = "a group passes only on a fresh pass of every gate, for this attempt, digest and since";
pub const SOAK: &str = "nothing shortens a soak";
pub const ONE: &str = "one attempt of a unit is in flight in an environment";
pub const UNBLOCKED: &str = "nothing blocks a revert";
pub const STABLE: &str = "a revert ends on stable";
pub const REJECTED: &str = "what was rejected stays rejected";
pub const JUST: &str = "nothing is rejected but for a failure of its own";
pub const LEADERS: &str = "two leaders do no harm";
pub const GENERATIONS: &str = "generations only grow";
pub const QUEUE: &str = "a newer revision waits for the one under way in production";
pub const EVIDENCE: &str = "production starts only what passed staging";
pub const ALONE: &str = "who runs alone shares no group";
pub const PROVEN: &str = "stable is what passed every group";
pub const OVER: &str = "what is over stays over";
pub const RESTS: &str = "once faults stop, the run ends as desired, and the next plan writes nothing";

pub const SUCCEEDS: &str = "a rollout succeeds";
pub const REVERTS: &str = "a rollout reverts";
pub const ABORTS: &str = "a rollout is aborted";
pub const SHARED: &str = "two are put back together";
pub const ALONE_AGAIN: &str = "a suspect passes alone";
pub const SUPERSEDES: &str = "a rollout is superseded";
pub const SKIPS: &str = "a deleted group is skipped";
pub const PAUSES: &str = "a failure pauses";
pub const REFUSES: &str = "a node refuses a revision";
pub const RETRIES: &str = "a rejected revision is tried again";
pub const ROLLS_BACK: &str = "a finished rollout is rolled back";
pub const KEEPS: &str = "nodes that join keep stable";
pub const REFUSED: &str = "a write of a second leader is refused";
pub const TAKEN: &str = "a write of a second leader is taken";
pub const DIES_MID_REVERT: &str = "an operator dies in the middle of a revert";
pub const JUMPS_BACK: &str = "a clock jumps back during a soak";
pub const JUMPS_AHEAD: &str = "a clock jumps ahead during a soak";

/// All that is checked, and what shows that this means anything.
pub fn properties() -> Vec<Property<Checked>> {
    macro_rules! unbroken {
        ($($name:expr),*) => { vec![$(Property::always($name, |_: &Checked, s: &State| s.truth.broken != Some($name))),*] };
    }
    let mut properties = unbroken![
        SKIPPED,
        FRESH,
        SOAK,
        UNBLOCKED,
        STABLE,
        REJECTED,
        JUST,
        LEADERS,
        GENERATIONS,
        QUEUE,
        EVIDENCE,
        ALONE,
        PROVEN,
        OVER
    ];
    properties.push(Property::always(ONE, |_, state: &State| goes_one_way(state)));
    properties.push(Property::always(RESTS, Checked::rests));
    properties.extend(sights());
    properties
}

fn sights() -> Vec<Property<Checked>> {
    fn any(state: &State, is: impl Fn(&Rollout) -> bool) -> bool {
        state.store.rollouts.values().any(is)
    }
    fn ended(state: &State, phase: Phase) -> bool {
        any(state, |rollout| rollout.status.phase == phase)
    }
    vec![
        Property::sometimes(SUCCEEDS, |_, s: &State| ended(s, Phase::Succeeded)),
        Property::sometimes(REVERTS, |_, s: &State| {
            any(s, |r| r.status.phase == Phase::Reverted && r.status.cause == Some(Cause::GateFailed))
        }),
        Property::sometimes(ABORTS, |_, s: &State| ended(s, Phase::Aborted)),
        Property::sometimes(SHARED, |_, s: &State| {
            s.store.rollouts.values().filter(|r| matches!(r.status.cause, Some(Cause::Shared { .. }))).count() > 1
        }),
        Property::sometimes(ALONE_AGAIN, |_, s: &State| any(s, |r| r.spec.alone && r.status.phase == Phase::Succeeded)),
        Property::sometimes(SUPERSEDES, |_, s: &State| ended(s, Phase::Superseded)),
        Property::sometimes(SKIPS, |_, s: &State| {
            any(s, |r| {
                r.status.phase == Phase::Succeeded && r.status.groups.iter().any(|g| g.phase == GroupPhase::Skipped)
            })
        }),
        Property::sometimes(PAUSES, |_, s: &State| {
            any(s, |r| r.status.phase == Phase::Paused && r.status.cause == Some(Cause::GateFailed))
        }),
        Property::sometimes(REFUSES, |_, s: &State| any(s, |r| r.status.cause == Some(Cause::Refused))),
        Property::sometimes(RETRIES, |_, s: &State| {
            any(s, |r| r.verbs.retry.is_some() && r.status.phase.is_over() && again(s, r))
        }),
        Property::sometimes(ROLLS_BACK, |_, s: &State| {
            any(s, |r| r.status.phase == Phase::Reverted && r.status.cause == Some(Cause::RolledBack))
        }),
        Property::sometimes(KEEPS, |_, s: &State| {
            s.store.groups.values().any(|group| group.nodes.values().any(|node| !node.keeps_stable.is_empty()))
        }),
        Property::sometimes(REFUSED, |_, s: &State| s.truth.noted == Some(Noted::Refused)),
        Property::sometimes(TAKEN, |_, s: &State| s.truth.noted == Some(Noted::Taken)),
        Property::sometimes(DIES_MID_REVERT, |_, s: &State| s.truth.noted == Some(Noted::DiedMidRevert)),
        Property::sometimes(JUMPS_BACK, |_, s: &State| s.truth.noted == Some(Noted::JumpedBackMidSoak)),
        Property::sometimes(JUMPS_AHEAD, |_, s: &State| s.truth.noted == Some(Noted::JumpedAheadMidSoak)),
    ]
}

fn again(state: &State, rollout: &Rollout) -> bool {
    let later = |other: &&Rollout| other.spec.units == rollout.spec.units && other.spec.attempt > rollout.spec.attempt;
    state.store.rollouts.values().filter(later).count() > 0
}

/// What the leader's next plan, all of it, has to do.
#[derive(Default)]
pub struct Due {
    /// Units of attempts that go back: every group of the environment runs this.
    back: Vec<(UnitId, Environment, Target)>,
    /// Attempts that failed, or that a person ended: they go no further.
    ends: BTreeSet<RolloutId>,
}

/// What the leader owes in this state.
pub fn due(state: &State) -> Due {
    let mut due = Due::default();
    for (id, rollout) in &state.store.rollouts {
        let environment = rollout.spec.environment;
        let memories: Option<Vec<_>> =
            rollout.spec.units.iter().map(|c| state.store.units.get(&c.unit)?.memory.get(&environment)).collect();
        let Some(memories) = memories else { continue };
        if memories.iter().any(|memory| memory.in_flight.as_ref() != Some(id)) {
            continue;
        }
        if rollout.status.phase == Phase::Reverting {
            let stable = memories.iter().map(|memory| memory.stable.clone().unwrap_or(Target::Removed));
            let units = rollout.spec.units.iter().map(|change| change.unit.clone());
            due.back.extend(units.zip(stable).map(|(unit, stable)| (unit, environment, stable)));
        }
        let goes = matches!(rollout.status.phase, Phase::Progressing | Phase::Paused);
        if goes && (rollout.verbs.abort.is_some() || fails(state, id, rollout)) {
            due.ends.insert(id.clone());
        }
    }
    due
}

/// Whether a Job of the round under way has failed in a group that reverts.
fn fails(state: &State, id: &RolloutId, rollout: &Rollout) -> bool {
    let awaits = rollout.status.phase == Phase::Paused && rollout.status.cause != Some(Cause::Person);
    let failed = state.jobs.values().filter(|job| matches!(job.state, JobState::Failed(_)));
    let mut failed = failed.flat_map(|job| &job.gates).filter(|gate| gate.rollout == *id && !awaits);
    // That a Job is run again is stored only by the plan that finds the second one.
    let is_again = |gate: &GateRef| {
        let mut errors = state.jobs.values().filter(|job| matches!(job.state, JobState::Error(_)));
        errors.any(|job| job.gates.contains(gate))
    };
    failed.any(|gate| {
        let reverts =
            |name: &str| state.store.groups.get(name).is_some_and(|g| g.on_gate_failure == OnGateFailure::Revert);
        let on = |progress: &&GroupProgress| {
            let first = progress.gates.get(&gate.gate).is_some_and(|gate| gate.reruns == 0);
            let change = &rollout.spec.units[0];
            let group = state.store.groups.get(&progress.name);
            let entry = group.and_then(|g| g.assignment.as_ref()?.entries.get(&change.unit));
            let same = entry
                .is_some_and(|entry| entry.since == gate.since && entry.revision.as_ref() == change.target.digest());
            first
                && !is_again(gate)
                && same
                && progress.phase == GroupPhase::Verifying
                && progress.since.values().all(|since| *since == gate.since)
        };
        let mut groups = rollout.status.groups.iter();
        groups.find(|progress| progress.name == gate.group).filter(on).is_some() && reverts(&gate.group)
    })
}

/// Whether the leader, which saw everything and did everything, did what it owed.
pub fn kept(state: &mut State, due: &Due) {
    for (unit, environment, stable) in &due.back {
        if !is_told_everywhere(state, unit, *environment, stable) {
            state.truth.broken.get_or_insert(UNBLOCKED);
        }
    }
    for id in &due.ends {
        let goes = in_flight(state).any(|(other, _)| other == id);
        if goes {
            state.truth.broken.get_or_insert(UNBLOCKED);
        }
    }
}

/// Whether every group of an environment is told to run just this.
pub fn is_told_everywhere(state: &State, unit: &UnitId, environment: Environment, target: &Target) -> bool {
    let mut groups = state.store.groups.values().filter(|group| group.environment == environment);
    groups.all(|group| {
        let entry = group.assignment.as_ref().and_then(|assignment| assignment.entries.get(unit));
        Target::from(entry.and_then(|entry| entry.revision.clone())) == *target
    })
}

/// Whether no unit goes two ways, once nothing is left to write.
fn goes_one_way(state: &State) -> bool {
    if state.truth.broken.is_some() || !state.plan().effects.is_empty() {
        return state.truth.broken != Some(ONE);
    }
    let units = state.store.units.iter();
    let mut units = units.flat_map(|(id, unit)| Environment::ALL.map(|environment| (id, unit, environment)));
    units.all(|(id, unit, environment)| {
        let stable = unit.memory.get(&environment).and_then(|memory| memory.stable.clone());
        let stable = stable.unwrap_or(Target::Removed);
        let groups = state.store.groups.values().filter(|group| group.environment == environment);
        let entries = groups.filter_map(|group| group.assignment.as_ref());
        let targets = entries.map(|a| Target::from(a.entries.get(id).and_then(|entry| entry.revision.clone())));
        let unproven: BTreeSet<Target> = targets.filter(|target| *target != stable).collect();
        let mine = |rollout: &&Rollout| {
            let open = matches!(rollout.status.phase, Phase::Progressing | Phase::Paused | Phase::Reverting);
            let changes = rollout.spec.units.iter().any(|change| change.unit == *id);
            open && changes && rollout.spec.environment == environment
        };
        unproven.len() <= 1 && state.store.rollouts.values().filter(mine).count() <= 1
    })
}

/// After each event: since when those nodes of a group that were there when it was told run what it is told.
pub fn look(state: &mut State) {
    let mut all = std::mem::take(&mut state.truth.ran);
    let mut known = BTreeSet::new();
    for (name, group) in &state.store.groups {
        let Some(assignment) = &group.assignment else { continue };
        for (unit, entry) in assignment.entries.iter().filter(|(_, entry)| entry.revision != entry.stable) {
            let key = (name.clone(), unit.clone());
            let fresh = Ran { since: entry.since, told: state.time, ran: None };
            let ran = all.entry(key.clone()).or_insert(fresh);
            if ran.since != entry.since {
                *ran = fresh;
            }
            known.insert(key);
            let has = |(node, _): &(&String, &Node)| {
                let machine = state.machines.get(*node).filter(|machine| machine.group == *name);
                machine.is_some_and(|m| m.generation >= entry.since && m.runs.get(unit) == entry.revision.as_ref())
            };
            let live = || group.nodes.iter().filter(|(_, node)| node.live);
            // As the stored attempt has it: the assignment is written a moment later.
            let memory = state.store.units.get(unit).and_then(|known| known.memory.get(&group.environment));
            let holder = memory.and_then(|memory| state.store.rollouts.get(memory.in_flight.as_ref()?));
            let here = holder.and_then(|r| r.status.groups.iter().find(|progress| progress.name == *name));
            let told = here.and_then(|progress| progress.told_at).unwrap_or(ran.told);
            let old = |(_, node): &(&String, &Node)| node.joined_at.is_none_or(|joined| joined <= told);
            let everywhere = if live().any(|node| old(&node)) {
                live().filter(old).all(|node| has(&node))
            } else {
                live().any(|node| has(&node))
            };
            if everywhere && ran.ran.is_none() {
                ran.ran = Some(state.time);
            }
        }
    }
    all.retain(|key, _| known.contains(key));
    state.truth.ran = all;
}
