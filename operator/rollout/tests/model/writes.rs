//! The promises that are seen in writes, checked before each is stored.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_rollout::{
    Cause, Check, Entry, Environment, GateRef, GroupPhase, GroupProgress, Phase, Rollout, RolloutId, RolloutStatus,
    StagingEvidence, Target, UnitId, UnitMemory, Verdict, Write,
};

use super::{
    operator::Writer,
    promises::{
        ALONE, EVIDENCE, FRESH, GENERATIONS, JUST, LEADERS, ONE, OVER, PROVEN, QUEUE, REJECTED, SKIPPED, SOAK, STABLE,
        is_told_everywhere,
    },
    state::State,
};

/// Clocks of two leaders may differ by so much before either notices.
const TOLERANCE: Duration = Duration::from_secs(5);

/// Before a write is stored.
pub fn before(state: &mut State, write: &Write, writer: Writer) {
    let broken = match write {
        Write::WriteAssignment { group, generation, entries, .. } => {
            let broken = assignment(state, group, *generation, entries);
            // Whoever saw everything broke what it says; whoever did not did harm.
            broken.map(|broken| if writer == Writer::Other { LEADERS } else { broken })
        }
        Write::SetRolloutStatus { rollout, status, .. } => self::status(state, rollout, status, writer),
        Write::UpdateUnit { unit, memory, .. } => self::memory(state, unit, memory, writer),
        Write::CreateRollout { .. } | Write::KeepStable { .. } => None,
    };
    if let Some(broken) = broken {
        state.truth.broken.get_or_insert(broken);
    }
    if let Write::SetRolloutStatus { rollout, status, .. } = write {
        remember(state, rollout, status);
    }
}

/// What ended badly must not come back by itself.
fn remember(state: &mut State, id: &RolloutId, status: &RolloutStatus) {
    let done = status.groups.iter().filter(|group| is_done(group.phase));
    state.truth.done.extend(done.map(|group| (id.clone(), group.name.clone())));
    let stored = &state.store.rollouts[id];
    let began = stored.status.phase != status.phase && matches!(status.phase, Phase::Reverting | Phase::Aborted);
    let rejects = matches!(status.cause, Some(Cause::GateFailed | Cause::Refused | Cause::Person | Cause::RolledBack));
    if !began || !rejects || stored.status.phase == Phase::Reverting {
        return;
    }
    let environment = stored.spec.environment;
    let keys: Vec<_> = stored.spec.units.iter().map(|c| (c.unit.clone(), environment, c.target.clone())).collect();
    state.truth.rejected.extend(keys.into_iter().map(|key| (key, id.clone())));
}

fn is_done(phase: GroupPhase) -> bool {
    matches!(phase, GroupPhase::Passed | GroupPhase::Skipped)
}

fn is_unjudged(phase: GroupPhase) -> bool {
    matches!(phase, GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Failed)
}

/// What a group is told anew comes from the attempt that has the unit, in its turn, or is stable.
fn assignment(state: &State, name: &str, generation: u64, entries: &BTreeMap<UnitId, Entry>) -> Option<&'static str> {
    let group = &state.store.groups[name];
    let ran = group.nodes.keys().filter_map(|node| state.machines.get(node)).filter(|machine| machine.group == name);
    let known = group.assignment.as_ref().map_or(0, |assignment| assignment.generation);
    if ran.map(|machine| machine.generation).chain([known]).any(|known| known >= generation) {
        return Some(GENERATIONS);
    }
    let old = group.assignment.as_ref().map(|assignment| &assignment.entries);
    let units = entries.iter().map(|(unit, entry)| (unit, entry.revision.clone()));
    let gone = old.into_iter().flatten().filter(|(unit, _)| !entries.contains_key(*unit));
    for (unit, revision) in units.chain(gone.map(|(unit, _)| (unit, None))) {
        let target = Target::from(revision);
        let before = old.and_then(|entries| entries.get(unit)).and_then(|entry| entry.revision.clone());
        let memory = state.store.units.get(unit).and_then(|u| u.memory.get(&group.environment));
        let stable = memory.and_then(|memory| memory.stable.clone()).unwrap_or(Target::Removed);
        if Target::from(before) == target || target == stable {
            continue;
        }
        let id = memory.and_then(|memory| memory.in_flight.clone());
        let Some((id, rollout)) = id.and_then(|id| state.store.rollouts.get_key_value(&id)) else { return Some(ONE) };
        if state.truth.rejected.contains_key(&(unit.clone(), group.environment, target.clone())) {
            return Some(REJECTED);
        }
        let targets = rollout.spec.units.iter().any(|change| change.unit == *unit && change.target == target);
        if !targets || !rollout.status.phase.holds_groups() {
            return Some(ONE);
        }
        if let Some(broken) = turn(state, id, rollout, name) {
            return Some(broken);
        }
    }
    None
}

/// Whether it is the group's turn.
fn turn(state: &State, id: &RolloutId, rollout: &Rollout, name: &str) -> Option<&'static str> {
    let groups = &rollout.status.groups;
    let Some(here) = groups.iter().find(|group| group.name == name) else { return Some(SKIPPED) };
    // One that had passed may be looked at anew meanwhile: what came after it stays.
    let had_passed = |earlier: &GroupProgress| state.truth.done.contains(&(id.clone(), earlier.name.clone()));
    let in_order = |earlier: &GroupProgress| is_done(earlier.phase) || had_passed(earlier);
    let mut earlier = groups.iter().filter(|earlier| earlier.order < here.order);
    if !earlier.all(in_order) {
        return Some(SKIPPED);
    }
    let mut others = state.store.rollouts.iter().filter(|(other, r)| {
        *other != id && r.spec.environment == rollout.spec.environment && r.status.phase == Phase::Progressing
    });
    let is_in = |r: &Rollout| r.status.groups.iter().any(|group| group.name == name && is_unjudged(group.phase));
    let has_units = |id: &RolloutId, r: &Rollout| {
        let memory = |unit| state.store.units.get(unit).and_then(|unit| unit.memory.get(&r.spec.environment));
        let mut units = r.spec.units.iter();
        units.all(|c| memory(&c.unit).is_some_and(|memory| memory.in_flight.as_ref() == Some(id)))
    };
    let shares = others.any(|(other, r)| (rollout.spec.alone || r.spec.alone) && is_in(r) && has_units(other, r));
    (shares && rollout.status.phase == Phase::Progressing && is_unjudged(here.phase)).then_some(ALONE)
}

/// A group passes on what was seen of just this; an attempt ends as its groups did.
fn status(state: &State, id: &RolloutId, status: &RolloutStatus, writer: Writer) -> Option<&'static str> {
    let stored = &state.store.rollouts[id];
    let (was, is) = (stored.status.phase, status.phase);
    let rolled_back =
        was == Phase::Succeeded && (stored.verbs.rollback.is_some() || status.cause == Some(Cause::RolledBack));
    if was.is_over() && !rolled_back {
        return Some(OVER);
    }
    let before = |name: &str| stored.status.groups.iter().find(|known| known.name == name).map(|known| known.phase);
    for progress in status.groups.iter().filter(|progress| before(&progress.name) != Some(progress.phase)) {
        let broken = match progress.phase {
            GroupPhase::Passed => pass(state, id, stored, progress, writer),
            GroupPhase::Skipped => {
                let group = state.store.groups.get(&progress.name).filter(|_| writer == Writer::Leader);
                let there =
                    |group: &sluice_rollout::Group| !group.optional || group.nodes.values().any(|node| node.live);
                group.is_some_and(there).then_some(SKIPPED)
            }
            _ => None,
        };
        if broken.is_some() {
            return broken;
        }
    }
    if was == is {
        return None;
    }
    match is {
        Phase::Succeeded => (!status.groups.iter().all(|group| is_done(group.phase))).then_some(PROVEN),
        Phase::Progressing if was == Phase::Pending => starts(state, stored),
        Phase::Reverting => (status.cause == Some(Cause::GateFailed) && is_shared(state, id, status)).then_some(JUST),
        Phase::Reverted | Phase::Aborted if was == Phase::Reverting => {
            let environment = stored.spec.environment;
            let back = stored.spec.units.iter().all(|change| {
                let Some(memory) = state.store.units[&change.unit].memory.get(&environment) else { return true };
                let stable = memory.stable.clone().unwrap_or(Target::Removed);
                memory.in_flight.as_ref() != Some(id) || is_told_everywhere(state, &change.unit, environment, &stable)
            });
            (!back && writer == Writer::Leader).then_some(STABLE)
        }
        _ => None,
    }
}

fn starts(state: &State, rollout: &Rollout) -> Option<&'static str> {
    let asks = state.store.repositories.values().all(|r| r.staging_evidence == StagingEvidence::InCluster);
    let passed = |unit: &UnitId, target: &Target| {
        let mut rollouts = state.store.rollouts.values();
        rollouts.any(|r| {
            let changes = r.spec.units.iter().any(|c| c.unit == *unit && c.target == *target);
            r.spec.environment == Environment::Staging && r.status.phase == Phase::Succeeded && changes
        })
    };
    let lacks = rollout.spec.units.iter().any(|change| !passed(&change.unit, &change.target));
    let asked = asks && rollout.spec.environment == Environment::Production && rollout.verbs.approve.is_none();
    (asked && lacks).then_some(EVIDENCE)
}

/// Whether what failed could as well be another's fault.
fn is_shared(state: &State, id: &RolloutId, status: &RolloutStatus) -> bool {
    status.groups.iter().filter(|group| group.phase == GroupPhase::Failed).any(|failed| {
        let Some(group) = state.store.groups.get(&failed.name) else { return false };
        let is_job = |key: &str| group.gates.iter().any(|gate| gate.name == key && gate.check == Check::Job);
        let by_job = failed.gates.iter().any(|(key, gate)| gate.verdict == Verdict::Fail && is_job(key));
        let others = state.store.rollouts.iter().filter(|(other, _)| *other != id);
        let mut others = others.filter(|(_, r)| matches!(r.status.phase, Phase::Progressing | Phase::Paused));
        // Told there, and not only about to be, by this very plan.
        let entries = group.assignment.as_ref().map(|assignment| &assignment.entries);
        let runs = |unit: &UnitId| entries.and_then(|entries| entries.get(unit)?.revision.clone());
        let told = |r: &Rollout| r.spec.units.iter().all(|c| Target::from(runs(&c.unit)) == c.target);
        let is_in =
            |r: &Rollout| r.status.groups.iter().any(|g| g.name == failed.name && is_unjudged(g.phase)) && told(r);
        by_job && others.any(|(_, r)| is_in(r))
    })
}

fn pass(
    state: &State,
    id: &RolloutId,
    rollout: &Rollout,
    progress: &GroupProgress,
    writer: Writer,
) -> Option<&'static str> {
    let Some(group) = state.store.groups.get(&progress.name) else { return Some(FRESH) };
    if writer == Writer::Leader {
        let entries = group.assignment.as_ref().map(|assignment| &assignment.entries);
        let told = rollout.spec.units.iter().all(|change| {
            let entry = entries.and_then(|entries| entries.get(&change.unit));
            let same = entry.and_then(|entry| entry.revision.as_ref()) == change.target.digest();
            same && entry.map(|entry| entry.since) == progress.since.get(&change.unit).copied()
        });
        if !told || !group.nodes.values().any(|node| node.live) {
            return Some(FRESH);
        }
    }
    for gate in &group.gates {
        for change in &rollout.spec.units {
            let since = progress.since.get(&change.unit).copied().unwrap_or(0);
            let at = GateRef { rollout: id.clone(), group: progress.name.clone(), gate: gate.name.clone(), since };
            match &gate.check {
                Check::Soak { duration, .. } => {
                    let ran = state.truth.ran.get(&(progress.name.clone(), change.unit.clone()));
                    let began = ran.filter(|ran| ran.since == since).and_then(|ran| ran.ran);
                    let soaked = began.map(|began| state.time.since(began) + TOLERANCE);
                    if soaked.is_none_or(|soaked| soaked < *duration) {
                        return Some(SOAK);
                    }
                }
                Check::Job | Check::Prometheus { .. } | Check::ErrorRate { .. } => {
                    if !state.truth.passes.contains(&at) {
                        return Some(FRESH);
                    }
                }
            }
        }
    }
    None
}

/// What a unit remembers changes only for a reason.
fn memory(
    state: &State,
    unit: &UnitId,
    memories: &BTreeMap<Environment, UnitMemory>,
    writer: Writer,
) -> Option<&'static str> {
    for (environment, new) in memories {
        let nothing = UnitMemory::default();
        let old = state.store.units[unit].memory.get(environment).unwrap_or(&nothing);
        let holder = old.in_flight.as_ref().and_then(|id| state.store.rollouts.get(id));
        let rolled_back = new.rejected.values().any(|rejection| Some(&rejection.by) == new.in_flight.as_ref());
        if let (Some(holder), true) = (holder, old.in_flight != new.in_flight && new.in_flight.is_some()) {
            let waits = *environment == Environment::Production && holder.status.phase == Phase::Progressing;
            if waits && !rolled_back && writer == Writer::Leader {
                return Some(QUEUE);
            }
        }
        if old.stable != new.stable && !rolled_back {
            let proven = holder.is_some_and(|holder| {
                let mut changes = holder.spec.units.iter();
                let same = changes.any(|c| c.unit == *unit && Some(&c.target) == new.stable.as_ref());
                same && holder.status.phase == Phase::Succeeded
            });
            if !proven {
                return Some(PROVEN);
            }
        }
        for (target, rejection) in new.rejected.iter().filter(|(target, _)| !old.rejected.contains_key(*target)) {
            let _ = target;
            if !state.truth.failed.contains(&rejection.by) {
                return Some(JUST);
            }
        }
        let mut lost = old.rejected.keys().filter(|target| !new.rejected.contains_key(*target));
        if lost.any(|target| state.truth.rejected.contains_key(&(unit.clone(), *environment, target.clone()))) {
            return Some(REJECTED);
        }
    }
    None
}
