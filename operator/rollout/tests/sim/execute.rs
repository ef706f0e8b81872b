//! Does what plans say, as the real executor does: each write under the version that the plan saw.

use sluice_rollout::{Effect, Snapshot, Write, plan};

use super::{cluster::Cluster, faults::Faults, server, show};

/// More plans than this without anything happening is no progress but a loop.
const ROUNDS_MAX: usize = 200;

impl Cluster {
    /// Plans and acts until nothing is left to do. `dies_after`: so many writes, then the operator starts anew.
    pub fn settle(&mut self, mut dies_after: Option<usize>) {
        let mut writes = 0;
        for _ in 0..ROUNDS_MAX {
            let moved = self.nodes_act();
            self.measure();
            if self.is_away {
                return;
            }
            if self.faults == Faults::Stale {
                self.plan_once(&self.before.clone());
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
                if self.is_watched {
                    self.check_settled();
                }
                return;
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

    /// One plan of an operator that sees this, and all of its writes. Answers how many were not done.
    pub fn plan_once(&mut self, seen: &Snapshot) -> usize {
        let effects = plan(seen, self.now()).effects;
        let mut taken = 0;
        server::each(&effects, |effect| {
            let is_taken = self.apply(effect);
            taken += usize::from(is_taken);
            is_taken
        });
        effects.len() - taken
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
        if !server::accepts(store, write) {
            return false;
        }
        match write {
            Write::SetRolloutStatus { rollout, status, .. } if self.is_watched => self.check_status(rollout, status),
            Write::WriteAssignment { group, generation, entries, .. } if self.is_watched => {
                self.check_assignment(group, *generation, entries);
            }
            Write::UpdateUnit { unit, memory, .. } if self.is_watched => self.check_hand_over(unit, memory),
            Write::SetRolloutStatus { .. }
            | Write::WriteAssignment { .. }
            | Write::CreateRollout { .. }
            | Write::UpdateUnit { .. }
            | Write::KeepStable { .. } => {}
        }
        let version = self.next_version();
        server::store(&mut self.store, write, version);
        true
    }
}
