//! Which states are the same: those between which no planner can tell a difference that matters.
//!
//! Left out: texts for people, and tokens. Versions count only by whether somebody still holds them, generations only
//! by their order, times by whole seconds before the leader's now, and where the planner asks which of two came
//! first, by that. What is over keeps only what is still asked of it.

use std::hash::{Hash, Hasher};

use sluice_rollout::{
    Cause, Entry, Environment, Group, GroupPhase, GroupProgress, Head, JobState, Rollout, RolloutStatus, Sample,
    Snapshot, Time, Unit, UnitMemory, Write,
};

use super::state::State;

/// Further back than this is long ago.
const LONG_AGO_S: i64 = 4_000_000;

impl Hash for State {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.left.hash(h);
        self.hash_core(h);
        let canon = Canon::of(self);
        for effect in &self.stalled {
            canon.write(h, &effect.write);
        }
        if let Some(view) = &self.view {
            view.cache.hash(h);
            canon.view(h, &view.seen);
        }
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let of = |state: &Self| {
            let mut hasher = std::hash::DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        of(self) == of(other)
    }
}

impl State {
    /// What is the case, without what may still happen.
    pub fn hash_core<H: Hasher>(&self, h: &mut H) {
        let canon = Canon::of(self);
        canon.snapshot(h, &self.store);
        (self.skew_ms, canon.ago(self.watching_since)).hash(h);
        for (name, machine) in &self.machines {
            (name, &machine.group, canon.generation(machine.generation), &machine.runs, &machine.refuses).hash(h);
        }
        for job in self.jobs.values() {
            let open = job.gates.iter().filter(|gate| canon.is_open(&gate.rollout));
            for gate in open {
                (&gate.rollout, &gate.group, &gate.gate, canon.generation(gate.since), job_code(&job.state)).hash(h);
            }
        }
        for (gate, sample) in &self.answers {
            (&gate.rollout, &gate.group, &gate.gate, canon.generation(gate.since)).hash(h);
            canon.sample(h, sample);
        }
        for gate in self.truth.passes.iter().filter(|gate| canon.is_open(&gate.rollout)) {
            (&gate.rollout, &gate.group, &gate.gate, canon.generation(gate.since)).hash(h);
        }
        for (key, ran) in &self.truth.ran {
            let at = ran.ran.filter(|_| self.timed);
            (key, canon.generation(ran.since), ran.ran.is_some()).hash(h);
            at.map(|at| (self.time.0 - at.0 + 500) / 1000).hash(h);
        }
        self.truth.done.iter().filter(|(id, _)| canon.is_open(id)).for_each(|done| done.hash(h));
        for failed in self.truth.failed.iter().filter(|id| canon.is_open(id)) {
            failed.hash(h);
        }
        (&self.truth.rejected, self.truth.broken).hash(h);
    }
}

struct Canon<'a> {
    state: &'a State,
    generations: Vec<u64>,
}

impl<'a> Canon<'a> {
    fn of(state: &'a State) -> Self {
        let mut generations = Vec::with_capacity(32);
        for group in state.store.groups.values() {
            if let Some(assignment) = &group.assignment {
                generations.push(assignment.generation);
                generations.extend(assignment.entries.values().map(|entry| entry.since));
            }
            generations.extend(group.nodes.values().filter_map(|node| Some(node.report.as_ref()?.generation)));
        }
        generations.extend(state.machines.values().map(|machine| machine.generation));
        for rollout in state.store.rollouts.values().filter(|rollout| !rollout.status.phase.is_over()) {
            generations.extend(rollout.status.groups.iter().flat_map(|group| group.since.values()));
        }
        generations.sort_unstable();
        generations.dedup();
        Self { state, generations }
    }

    /// Its place among all that are known; one that is unknown lies between.
    fn generation(&self, generation: u64) -> (usize, bool) {
        match self.generations.binary_search(&generation) {
            Ok(at) => (at, true),
            Err(at) => (at, false),
        }
    }

    fn ago(&self, time: Time) -> i64 {
        ((self.state.now().0 - time.0 + 500).div_euclid(1000)).min(LONG_AGO_S)
    }

    fn is_open(&self, id: &sluice_rollout::RolloutId) -> bool {
        self.state.store.rollouts.get(id).is_some_and(|rollout| !rollout.status.phase.is_over())
    }

    fn snapshot<H: Hasher>(&self, h: &mut H, snapshot: &Snapshot) {
        for (name, group) in &snapshot.groups {
            name.hash(h);
            self.group(h, group);
        }
        let mut suspects = Vec::new();
        for (id, unit) in &snapshot.units {
            id.hash(h);
            self.unit(h, unit);
            for (environment, memory) in &unit.memory {
                suspects.extend(memory.suspect.as_ref().map(|suspect| (suspect.since, id, environment)));
            }
        }
        suspects.sort();
        suspects.iter().for_each(|(_, id, environment)| (id, environment.as_str()).hash(h));
        for (id, rollout) in &snapshot.rollouts {
            id.hash(h);
            self.rollout(h, rollout);
            self.orders(h, snapshot, rollout);
        }
    }

    fn group<H: Hasher>(&self, h: &mut H, group: &Group) {
        (group.order, group.gates.len(), group.on_gate_failure as u8, group.nodes.len()).hash(h);
        for (name, node) in &group.nodes {
            (name, node.live, &node.keeps_stable, node.joined_at.map(|at| self.ago(at))).hash(h);
            if let Some(report) = &node.report {
                (&report.group, self.generation(report.generation), report.exceptions.len()).hash(h);
            }
        }
        if let Some(assignment) = &group.assignment {
            self.generation(assignment.generation).hash(h);
            self.entries(h, &assignment.entries);
        }
    }

    fn entries<'e, H: Hasher>(
        &self,
        h: &mut H,
        entries: impl IntoIterator<Item = (&'e sluice_rollout::UnitId, &'e Entry)>,
    ) {
        for (unit, entry) in entries {
            (unit, &entry.revision, &entry.stable, self.generation(entry.since)).hash(h);
        }
    }

    fn unit<H: Hasher>(&self, h: &mut H, unit: &Unit) {
        for (environment, head) in &unit.heads {
            if let Head::Wants { target, together, .. } = head {
                (environment.as_str(), target, together.is_some()).hash(h);
            }
        }
        self.memory(h, &unit.memory);
    }

    fn memory<H: Hasher>(&self, h: &mut H, memory: &std::collections::BTreeMap<Environment, UnitMemory>) {
        for (environment, memory) in memory {
            (environment.as_str(), &memory.stable, memory.attempts, &memory.in_flight).hash(h);
            memory.passed.keys().for_each(|digest| digest.hash(h));
            memory.rejected.iter().for_each(|(target, rejection)| (target, &rejection.by).hash(h));
            memory.suspect.iter().for_each(|suspect| suspect.target.hash(h));
        }
    }

    fn rollout<H: Hasher>(&self, h: &mut H, rollout: &Rollout) {
        let (verbs, status) = (&rollout.verbs, &rollout.status);
        (verbs.pause.is_some(), verbs.abort.is_some(), verbs.approve.is_some(), rollout.spec.alone).hash(h);
        for (said, answered) in [(&verbs.retry, &status.retried), (&verbs.rollback, &status.rollback_answered)] {
            let token = said.as_ref().map(|said| &said.token);
            (token.is_some(), token == answered.as_ref()).hash(h);
        }
        self.status(h, status);
    }

    fn status<H: Hasher>(&self, h: &mut H, status: &RolloutStatus) {
        (status.phase as u8).hash(h);
        if let Some(cause) = &status.cause {
            std::mem::discriminant(cause).hash(h);
            if let Cause::Shared { with } = cause {
                with.hash(h);
            }
        }
        let over = status.phase.is_over();
        status.stable.values().for_each(|stable| stable.hash(h));
        for progress in &status.groups {
            (&progress.name, progress.order, progress.phase as u8).hash(h);
            if !over {
                self.progress(h, progress);
            }
        }
        if !over {
            let times = [status.ended_at, status.held_since, status.written_at.filter(|_| self.state.timed)];
            times.map(|time| time.map(|time| self.ago(time))).hash(h);
        }
    }

    fn progress<H: Hasher>(&self, h: &mut H, progress: &GroupProgress) {
        let times = [progress.entered_at, progress.told_at, progress.behind_since, progress.gates_started_at];
        let passed = progress.phase == GroupPhase::Passed;
        times.map(|time| time.filter(|_| !passed).map(|time| self.ago(time))).hash(h);
        progress.since.iter().for_each(|(unit, since)| (unit, self.generation(*since)).hash(h));
        for (key, gate) in &progress.gates {
            (key, gate.reruns).hash(h);
            if passed {
                continue;
            }
            (gate.verdict as u8, gate.samples.min(2), gate.consecutive_failures, gate.watched).hash(h);
            let times = [Some(gate.started_at), gate.watched_until, gate.last_sample_at];
            times.map(|time| time.map(|time| self.ago(time))).hash(h);
        }
    }

    /// Which of two came first, where that is asked.
    fn orders<H: Hasher>(&self, h: &mut H, snapshot: &Snapshot, rollout: &Rollout) {
        for progress in rollout.status.groups.iter().filter(|_| !rollout.status.phase.is_over()) {
            if let Some(since) = progress.gates_started_at {
                let others = snapshot.rollouts.values().filter_map(|other| other.status.ended_at);
                others.for_each(|ended_at| (ended_at > since).hash(h));
            }
            if let (Some(told_at), Some(group)) = (progress.told_at, snapshot.groups.get(&progress.name)) {
                let joined = group.nodes.values().filter_map(|node| node.joined_at);
                joined.for_each(|joined| (joined > told_at).hash(h));
            }
        }
    }

    fn sample<H: Hasher>(&self, h: &mut H, sample: &Sample) {
        if let Sample::Queried(queried) = sample {
            (self.ago(queried.at), queried.from == queried.at, format!("{:?}", queried.outcome)).hash(h);
        }
    }

    /// A write that may still come. One whose object has changed will be refused, whatever it says.
    fn write<H: Hasher>(&self, h: &mut H, write: &Write) {
        std::mem::discriminant(write).hash(h);
        let accepted = crate::sim::server::accepts(&self.state.store, write);
        accepted.hash(h);
        match write {
            _ if !accepted && !matches!(write, Write::WriteAssignment { .. }) => {}
            Write::CreateRollout { rollout, .. } => rollout.hash(h),
            Write::UpdateUnit { unit, memory, .. } => {
                unit.hash(h);
                self.memory(h, memory);
            }
            Write::SetRolloutStatus { rollout, status, .. } => {
                rollout.hash(h);
                self.status(h, status);
            }
            Write::KeepStable { node, units, .. } => (node, units).hash(h),
            Write::WriteAssignment { group, generation, entries, .. } => {
                (group, self.generation(*generation)).hash(h);
                self.entries(h, entries);
            }
        }
    }

    /// What somebody sees who does not see all: only what differs from what is stored.
    fn view<H: Hasher>(&self, h: &mut H, seen: &Snapshot) {
        let store = &self.state.store;
        for (name, group) in &seen.groups {
            let version = |g: &Group| {
                let assigned = g.assignment.as_ref().map(|assignment| assignment.resource_version.clone());
                let nodes: Vec<_> =
                    g.nodes.iter().map(|(n, node)| (n.clone(), node.resource_version.clone())).collect();
                (assigned, nodes, g.order, g.gates.len(), g.on_gate_failure)
            };
            if store.groups.get(name).is_none_or(|known| version(known) != version(group)) {
                name.hash(h);
                self.group(h, group);
            }
        }
        for (id, unit) in &seen.units {
            if store.units.get(id).is_none_or(|known| known.resource_version != unit.resource_version) {
                id.hash(h);
                self.unit(h, unit);
            }
        }
        for (id, rollout) in &seen.rollouts {
            if store.rollouts.get(id).is_none_or(|known| known.resource_version != rollout.resource_version) {
                id.hash(h);
                self.rollout(h, rollout);
            }
        }
        (seen.rollouts.len(), seen.groups.len()).hash(h);
    }
}

fn job_code(state: &JobState) -> u8 {
    match state {
        JobState::Running => 0,
        JobState::Succeeded => 1,
        JobState::Failed(_) => 2,
        JobState::Error(_) => 3,
    }
}
