//! The promises, checked at every write and at every rest.

use std::collections::{BTreeMap, BTreeSet};

use sluice_rollout::{
    Cause, Check, Entry, Environment, GroupPhase, GroupProgress, JobState, Phase, Rollout, RolloutId, RolloutStatus,
    Target, Time, UnitId, UnitMemory, Verdict, Wanted,
};

use super::{cluster::Cluster, faults::Faults, show};

fn is_done(phase: GroupPhase) -> bool {
    matches!(phase, GroupPhase::Passed | GroupPhase::Skipped)
}

impl Cluster {
    /// Before an assignment is written: generations only grow, no group is skipped, an unproven revision
    /// comes from the attempt in flight.
    pub fn check_assignment(&mut self, name: &str, generation: u64, entries: &BTreeMap<UnitId, Entry>) {
        let group = &self.store.groups[name];
        for other in self.store.groups.values() {
            let assigned = other.assignment.as_ref().map_or(0, |assignment| assignment.generation);
            assert!(generation > assigned, "generation {generation} of {name} is not above {assigned}");
        }
        let old = group.assignment.as_ref().map(|assignment| &assignment.entries);
        let mut told = Vec::new();
        for (unit, entry) in entries {
            let known = old.and_then(|entries| entries.get(unit));
            let memory = &self.store.units.get(unit).and_then(|u| u.memory.get(&group.environment));
            let stable = memory.and_then(|memory| memory.stable.clone()).unwrap_or(Target::Removed);
            let target = Target::from(entry.revision.clone());
            if known.is_some_and(|known| known.revision == entry.revision) || target == stable {
                continue;
            }
            let id = memory.and_then(|memory| memory.in_flight.clone());
            let id = id.unwrap_or_else(|| panic!("{name} is told to run {target:?} of {unit} for no attempt"));
            let rollout = &self.store.rollouts[&id];
            assert!(rollout.status.phase.holds_groups(), "{id} holds no group, and {name} is told to run it");
            assert!(rollout.spec.units.iter().any(|change| change.target == target && change.unit == *unit));
            let mut earlier = rollout.status.groups.iter().filter(|earlier| earlier.order < group.order);
            // One that was left out may have got a node since: it is caught up with.
            let mut here = rollout.status.groups.iter().filter(|group| group.name == name);
            let entered_at = here.next().and_then(|here| here.entered_at);
            let in_order = |earlier: &GroupProgress| is_done(earlier.phase) || earlier.entered_at >= entered_at;
            assert!(earlier.all(in_order), "{id} skips a group before {name}");
            told.push((id.to_string(), name.to_owned()));
        }
        for key in told {
            self.told_at.insert(key, self.time);
        }
    }

    /// Before a unit is given to an attempt: its Repository is there, and where it is to be removed, all of its commit is seen.
    pub fn check_hand_over(&self, unit: &UnitId, memory: &BTreeMap<Environment, UnitMemory>) {
        let stored = &self.store.units[unit];
        for (environment, next) in memory {
            let before = stored.memory.get(environment).and_then(|memory| memory.in_flight.as_ref());
            let given = next.in_flight.as_ref().filter(|next| before != Some(next));
            let Some(rollout) = given.and_then(|id| self.store.rollouts.get(id)) else { continue };
            // A plan made from what was a moment ago saw what was whole then; what is taken back asks nobody.
            if self.faults == Faults::Stale || rollout.status.phase != Phase::Pending {
                continue;
            }
            let repository = self.store.repositories.get(&stored.repository);
            assert!(repository.is_some(), "{unit} starts something and its Repository is gone");
            let is_whole = repository.is_some_and(|repository| repository.whole.contains(environment));
            let mut changes = rollout.spec.units.iter();
            let is_removal = changes.any(|change| change.unit == *unit && change.target == Target::Removed);
            assert!(is_whole || !is_removal, "{unit} is removed and not all of its commit is seen");
        }
    }

    /// Before a status is written: a group passes only on what was seen of just this; progress is paced.
    pub fn check_status(&mut self, id: &RolloutId, status: &RolloutStatus) {
        for progress in status.groups.iter().filter(|progress| progress.phase != GroupPhase::Waiting) {
            // A group that ran it already (an object was lost) is not told again.
            self.told_at.entry((id.to_string(), progress.name.clone())).or_insert(self.time);
        }
        let stored = &self.store.rollouts[id];
        let ordered = stored.status.phase == Phase::Succeeded && stored.verbs.rollback.is_some();
        assert!(ordered || !stored.status.phase.is_over(), "{id} was over and changes again");
        for progress in status.groups.iter().filter(|progress| progress.phase == GroupPhase::Passed) {
            let known = stored.status.groups.iter().find(|known| known.name == progress.name);
            if known.is_none_or(|known| known.phase != GroupPhase::Passed) {
                self.check_pass(id, stored, progress);
            }
        }
        let progress_only = show::skeleton(&stored.status) == show::skeleton(status);
        if let (true, Some(before), Some(after)) = (progress_only, stored.status.written_at, status.written_at) {
            let soon = after >= before && after.0 < before.0 + 15_000;
            let reruns = stored.status.waiting_for != status.waiting_for;
            assert!(!soon, "{id}: progress written after {} ms ({reruns})", after.0 - before.0);
        }
    }

    fn check_pass(&self, id: &RolloutId, rollout: &Rollout, progress: &GroupProgress) {
        let at = format!("{id} in {}", progress.name);
        let group = &self.store.groups[&progress.name];
        let assignment = group.assignment.as_ref().unwrap();
        for change in &rollout.spec.units {
            let entry = &assignment.entries[&change.unit];
            assert_eq!(Target::from(entry.revision.clone()), change.target, "{at}: passes on something else");
            assert_eq!(entry.since, progress.since[&change.unit], "{at}: passes on an older entry");
        }
        let needs = progress.since.values().copied().max().unwrap();
        let told = self.told_at[&(id.to_string(), progress.name.clone())];
        // A plan made from what was a moment ago cannot know of a node that has left since.
        let live = self.faults == Faults::Stale || group.nodes.values().any(|node| node.live);
        assert!(live, "{at}: no live node");
        let ran = group.nodes.keys().filter(|node| self.truth(node) >= needs).count();
        assert!(self.faults == Faults::Stale || ran > 0, "{at}: no node really ran it");
        for gate in &group.gates {
            let Some(known) = progress.gates.get(&gate.name) else { continue };
            assert_eq!(known.verdict, Verdict::Pass, "{at}: {} did not pass", gate.name);
            match &gate.check {
                Check::Soak { .. } if self.is_known_good(rollout, progress) => {}
                Check::Soak { duration, .. } => {
                    let soaked = self.time.since(told);
                    assert!(soaked >= *duration, "{at}: soaked {soaked:?} of {duration:?}");
                }
                Check::Job => self.check_job(id, progress, &gate.name, told),
                Check::ErrorRate { min_requests, .. } => assert!(known.requests >= *min_requests),
                Check::Prometheus { .. } => assert!(known.samples > 0),
            }
        }
    }

    /// Whether a rollback window makes a soak unnecessary.
    fn is_known_good(&self, rollout: &Rollout, progress: &GroupProgress) -> bool {
        let Some(window) = self.store.groups[&progress.name].rollback_window else { return false };
        let started_at = progress.gates_started_at.unwrap();
        rollout.spec.units.iter().all(|change| {
            let memory = self.store.units[&change.unit].memory.get(&rollout.spec.environment);
            let passed = change.target.digest().and_then(|digest| memory.and_then(|m| m.passed.get(digest)));
            passed.is_some_and(|at| *at <= started_at && started_at.since(*at) <= window)
        })
    }

    fn check_job(&self, id: &RolloutId, progress: &GroupProgress, gate: &str, told: Time) {
        let jobs = self.world.running_jobs.values();
        let mut jobs = jobs.filter(|job| job.rollout == *id && job.group == progress.name && job.gate == gate);
        let fresh = jobs.any(|job| job.state == JobState::Succeeded && job.ends_at > told);
        assert!(fresh, "{id}: no Job of {gate} succeeded since {} was told", progress.name);
    }

    /// What failed is remembered, until somebody asks for it again.
    fn check_rejections(&self) {
        for (id, rollout) in &self.store.rollouts {
            let over = matches!(rollout.status.phase, Phase::Reverted | Phase::Aborted);
            let causes =
                |cause: &Cause| matches!(cause, Cause::GateFailed | Cause::Refused | Cause::Person | Cause::RolledBack);
            let fails = rollout.status.cause.as_ref().is_some_and(causes);
            if !over || !fails || rollout.verbs.retry.is_some() {
                continue;
            }
            for change in &rollout.spec.units {
                let Some(unit) = self.store.units.get(&change.unit) else { continue };
                let memory = unit.memory.get(&rollout.spec.environment);
                let known = memory.is_some_and(|memory| memory.rejected.contains_key(&change.target));
                // Memory may be lost; then what is known of attempts is lost, too.
                let remembers = memory.is_some_and(|memory| memory.attempts >= rollout.spec.attempt);
                let again = self
                    .store
                    .rollouts
                    .values()
                    .any(|other| other.spec.attempt > rollout.spec.attempt && other.spec.units.contains(change));
                assert!(known || again || !remembers, "{id} failed, and {} is not rejected", change.unit);
            }
        }
    }

    /// Nothing is measured for one that waits for a person's decision.
    fn check_measured(&self) {
        for wanted in &self.last_plan.observe {
            let (Wanted::Counters { gate, .. } | Wanted::Query { gate, .. } | Wanted::Job { gate, .. }) = wanted else {
                continue;
            };
            let status = &self.store.rollouts[&gate.rollout].status;
            let awaits = status.phase == Phase::Paused && status.cause != Some(Cause::Person);
            assert!(!awaits, "{} awaits a decision, and is measured", gate.rollout);
        }
    }

    /// When nothing is left to do.
    pub fn check_settled(&self) {
        self.check_rejections();
        self.check_measured();
        if self.store.rollouts.values().all(|rollout| rollout.status.phase.is_over()) {
            assert_eq!(self.last_plan.wake_at, None, "nothing is under way, and yet the planner wakes");
            assert!(self.last_plan.observe.is_empty(), "nothing is under way, and yet something is measured");
        }
        for (name, group) in &self.store.groups {
            let generation = group.assignment.as_ref().map_or(0, |assignment| assignment.generation);
            // Of one that lies nobody can know.
            let honest = |node: &&String| self.behaviour.get(*node).is_none_or(|behaviour| behaviour.claims.is_none());
            let nodes = group.nodes.keys().filter(honest);
            let mut nodes = nodes.filter(|node| self.running.get(*node).is_some_and(|running| running.group == *name));
            assert!(nodes.all(|node| self.truth(node) <= generation), "{name} runs what nobody stored");
        }
        for (unit, known) in &self.store.units {
            for environment in sluice_rollout::Environment::ALL {
                let memory = known.memory.get(&environment).cloned().unwrap_or_default();
                let stable = memory.stable.clone().unwrap_or(Target::Removed);
                let groups = self.store.groups.values().filter(|group| group.environment == environment);
                let running: BTreeSet<Target> = groups
                    .filter_map(|group| group.assignment.as_ref())
                    .map(|a| a.entries.get(unit).and_then(|entry| entry.revision.clone()).into())
                    .filter(|target| *target != stable)
                    .collect();
                assert!(running.len() <= 1, "{unit} runs {running:?} beside stable");
                assert!(
                    running.is_empty() || memory.in_flight.is_some(),
                    "{unit} runs {running:?} and nothing is in flight\n{}",
                    self.transcript.join("\n")
                );
                let mine = |rollout: &&Rollout| {
                    rollout.spec.environment == environment
                        && rollout.spec.units.iter().any(|change| change.unit == *unit)
                        && matches!(rollout.status.phase, Phase::Progressing | Phase::Paused | Phase::Reverting)
                };
                assert!(self.store.rollouts.values().filter(mine).count() <= 1, "{unit}: two attempts in flight");
            }
        }
    }
}
