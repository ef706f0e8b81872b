//! Does what plans say, as the real executor does: each write under the version that the plan saw.

use sluice_rollout::{Assignment, Basis, Effect, Rollout, RolloutStatus, Snapshot, Verbs, Write, plan};

use super::{cluster::Cluster, faults::Faults, show};

/// More plans than this without anything happening is no progress but a loop.
const ROUNDS_MAX: usize = 200;

impl Cluster {
    /// Plans and acts until nothing is left to do. `dies_after`: so many writes, then the operator starts anew.
    pub fn settle(&mut self, mut dies_after: Option<usize>) {
        let mut writes = 0;
        for _ in 0..ROUNDS_MAX {
            let moved = self.nodes_act();
            self.measure();
            if self.faults == Faults::Stale {
                let stale = self.before.clone();
                let effects = plan(&stale, self.now()).effects;
                for effect in effects {
                    self.apply(&effect);
                }
            }
            let planned = plan(&self.store, self.now());
            if !planned.effects.is_empty() {
                assert_eq!(planned, plan(&self.store, self.now()), "a plan is a function of its input");
            }
            let same = planned.observe == self.last_plan.observe;
            let effects = planned.effects.clone();
            self.last_plan = planned;
            if effects.is_empty() {
                if moved || !same {
                    continue;
                }
                return self.check_settled();
            }
            self.before = self.store.clone();
            for effect in &effects {
                writes += 1;
                if let Faults::Failing { at, of } = self.faults {
                    self.version += 1;
                    if self.version as usize % of == at {
                        continue;
                    }
                }
                self.apply(effect);
                if dies_after == Some(writes) {
                    self.say("-- the operator dies here; another takes over");
                    dies_after = None;
                    self.store.watching_since = self.now();
                    break;
                }
                if self.faults == Faults::Dying {
                    break;
                }
            }
        }
        let effects = &self.last_plan.effects;
        panic!("no fixed point after {ROUNDS_MAX} plans; still wanted: {effects:#?}\n{}", self.transcript.join("\n"));
    }

    /// Writes, if the stored object is the one that the plan saw. Answers whether it was.
    pub fn apply(&mut self, effect: &Effect) -> bool {
        let store = self.store.clone();
        let line = show::effect(&store, effect);
        if !self.write(&store, &effect.write) {
            return false;
        }
        match line {
            Some(line) => self.say(line),
            None => self.progress_writes += 1,
        }
        for event in &effect.events {
            let line = show::event(event);
            self.say(line);
        }
        true
    }

    fn write(&mut self, store: &Snapshot, write: &Write) -> bool {
        match write {
            Write::CreateRollout { rollout, spec } => {
                if store.rollouts.contains_key(rollout) {
                    return false;
                }
                let created = Rollout {
                    resource_version: self.next_version(),
                    spec: spec.clone(),
                    verbs: Verbs::default(),
                    status: RolloutStatus::default(),
                };
                self.store.rollouts.insert(rollout.clone(), created);
            }
            Write::UpdateUnit { unit, resource_version, memory } => {
                if store.units.get(unit).is_none_or(|unit| unit.resource_version != *resource_version) {
                    return false;
                }
                let version = self.next_version();
                let stored = self.store.units.get_mut(unit).unwrap();
                stored.resource_version = version;
                stored.memory.clone_from(memory);
            }
            Write::SetRolloutStatus { rollout, resource_version, status } => {
                if store.rollouts.get(rollout).is_none_or(|r| r.resource_version != *resource_version) {
                    return false;
                }
                self.check_status(rollout, status);
                let version = self.next_version();
                let stored = self.store.rollouts.get_mut(rollout).unwrap();
                stored.resource_version = version;
                stored.status = (**status).clone();
            }
            Write::KeepStable { node, resource_version, units } => {
                let next = self.next_version();
                let mut nodes = self.store.groups.values_mut().filter_map(|group| group.nodes.get_mut(node));
                let Some(stored) = nodes.find(|node| node.resource_version == *resource_version) else { return false };
                stored.resource_version = next;
                stored.keeps_stable.clone_from(units);
            }
            Write::WriteAssignment { group, resource_version, generation, entries, based_on } => {
                let Some(stored) = store.groups.get(group) else { return false };
                let version = stored.assignment.as_ref().map(|assignment| assignment.resource_version.clone());
                if version != *resource_version || !based_on.iter().all(|basis| holds(store, basis)) {
                    return false;
                }
                self.check_assignment(group, *generation, entries);
                let resource_version = self.next_version();
                let assignment = Assignment { resource_version, generation: *generation, entries: entries.clone() };
                self.store.groups.get_mut(group).unwrap().assignment = Some(assignment);
            }
        }
        true
    }
}

fn holds(store: &Snapshot, basis: &Basis) -> bool {
    match basis {
        Basis::Unit(unit, version) => store.units.get(unit).is_some_and(|u| u.resource_version == *version),
        Basis::Rollout(id, version) => {
            store.rollouts.get(id).map(|rollout| &rollout.resource_version) == version.as_ref()
        }
    }
}
