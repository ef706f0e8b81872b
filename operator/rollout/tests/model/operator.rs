//! What operators do with plans, as `operator/src/execute.rs` does it: each write in its order, under the version
//! that the plan saw; where an assignment is refused, nothing is said of how attempts go in its group.

use sluice_rollout::{Effect, Phase, Rollout, RolloutId, Sample, Snapshot, Time, plan};

use super::{
    state::{Cache, Noted, State, View},
    writes,
};
use crate::sim::server;

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// One that sees everything.
    Leader,
    /// One that does not.
    Other,
}

impl State {
    /// One write. Whether it was taken.
    pub fn write(&mut self, effect: &Effect, writer: Writer) -> bool {
        if !server::accepts(&self.store, &effect.write) {
            return false;
        }
        writes::before(self, &effect.write, writer);
        let version = self.next_version();
        server::store(self.edit(), &effect.write, version);
        true
    }

    /// The leader's plan, or its first writes.
    pub fn act(&mut self, effects: &[Effect], writes: usize) {
        server::each(effects.iter().take(writes), |effect| self.write(effect, Writer::Leader));
        self.forget_answers();
    }

    /// A new operator leads: what was measured and not stored is gone.
    pub fn take_over(&mut self) {
        self.answers.clear();
        self.watching_since = self.now();
    }

    pub fn die(&mut self, effects: &[Effect], after: usize) {
        let reverts = |state: &Self| state.store.rollouts.values().any(|r| r.status.phase == Phase::Reverting);
        let before = reverts(self);
        self.act(effects, after);
        if before && reverts(self) {
            self.truth.noted = Some(Noted::DiedMidRevert);
        }
        self.take_over();
    }

    pub fn stall(&mut self, effects: &[Effect], after: usize) {
        self.act(effects, after);
        self.stalled = effects[after..].to_vec();
        self.take_over();
    }

    pub fn resume(&mut self) {
        let effect = self.stalled.remove(0);
        let taken = self.write(&effect, Writer::Other);
        if let Some(group) = effect.write.assigns().filter(|_| !taken) {
            self.stalled.retain(|left| !left.write.is_about(group));
        }
        self.truth.noted = Some(if taken { Noted::Taken } else { Noted::Refused });
    }

    /// A second leader, whose clock is a little behind, acts on what it saw.
    pub fn act_on_old(&mut self) {
        let Some(view) = self.view.take() else { return };
        let now = Time(self.time.0 - SECOND_CLOCK_BEHIND_MS);
        let mut snapshot = view.snapshot(&self.store);
        (snapshot.samples, snapshot.watching_since) = (self.samples(), view.watching_since);
        let mut taken = None;
        server::each(&plan(&snapshot, now).effects, |effect| {
            let was_taken = self.write(effect, Writer::Other);
            taken = Some(taken.unwrap_or(true) && was_taken);
            was_taken
        });
        self.truth.noted = taken.map(|taken| if taken { Noted::Taken } else { Noted::Refused });
    }

    pub fn lag(&mut self, cache: Cache) {
        let watching_since = Time(self.time.0 - SECOND_CLOCK_BEHIND_MS);
        self.view = Some(View { cache, seen: std::sync::Arc::clone(&self.store), watching_since });
    }

    /// Answers of queries are offered until the status shows them. One that looks back too far is never shown: another
    /// is asked for.
    pub fn forget_answers(&mut self) {
        let rollouts = &self.store.rollouts;
        self.answers.retain(|gate, sample| {
            let groups = rollouts.get(&gate.rollout).map(|rollout| &rollout.status.groups);
            let mut groups = groups.into_iter().flatten();
            let progress = groups.find(|group| group.name == gate.group).and_then(|g| g.gates.get(&gate.gate));
            let Some(progress) = progress else { return false };
            let Sample::Queried(queried) = sample else { return true };
            queried.from >= progress.started_at && progress.last_sample_at.is_none_or(|stored| queried.at > stored)
        });
    }
}

/// Two operators' clocks may differ by nearly five seconds before either notices.
const SECOND_CLOCK_BEHIND_MS: i64 = 4_000;

impl View {
    /// What it sees now: what is stored, but for what lags.
    pub fn snapshot(&self, store: &Snapshot) -> Snapshot {
        let (now, then) = (store.clone(), Snapshot::clone(&self.seen));
        match self.cache {
            Cache::Everything => then,
            Cache::Units => Snapshot { units: then.units, ..now },
            Cache::Rollouts => Snapshot { rollouts: then.rollouts, ..now },
            Cache::Groups => Snapshot { groups: then.groups, ..now },
        }
    }
}

/// The attempts that go through groups, or are paused there.
pub fn in_flight(state: &State) -> impl Iterator<Item = (&RolloutId, &Rollout)> {
    let goes = |rollout: &Rollout| matches!(rollout.status.phase, Phase::Progressing | Phase::Paused);
    state.store.rollouts.iter().filter(move |(_, rollout)| goes(rollout))
}
