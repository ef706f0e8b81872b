//! What a state of the model holds, and what may happen to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use sluice_rollout::{
    Digest, Effect, Environment, GateRef, JobState, NodeReport, Plan, RolloutId, Sample, Snapshot, Target, Time, UnitId,
};

/// How many more times something may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Operators that die between two writes.
    pub crashes: u8,
    /// Leaders that stop between two writes while another leads, and then go on.
    pub stalls: u8,
    /// Second leaders that plan on what one cache, or all, showed some time ago.
    pub stale: u8,
    /// Commits.
    pub pushes: u8,
    /// Gates that fail.
    pub fails: u8,
    /// Gates that cannot tell.
    pub errors: u8,
    /// Samples that reach back before their gate's start.
    pub early: u8,
    /// Nodes that refuse a revision.
    pub refusals: u8,
    /// What people say about rollouts.
    pub verbs: u8,
    /// Groups that are edited, created, deleted; assignments that are lost.
    pub edits: u8,
    /// Nodes that die, come back, join, leave, move.
    pub churn: u8,
    /// Clocks that jump.
    pub jumps: u8,
    /// Times that the operator sleeps until it has to look again.
    pub ticks: u8,
}

/// Only what is left.
impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = format!("{self:?}");
        let parts = all.trim_start_matches("Budget { ").trim_end_matches(" }").split(", ");
        let left: Vec<_> = parts.filter(|part| !part.ends_with(": 0")).map(|part| part.replace(':', "")).collect();
        f.write_str(&left.join(", "))
    }
}

/// What one event does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The leader plans and does every write.
    Acts,
    /// The same, but it dies after so many writes, and another takes over.
    Dies { after: usize },
    /// The same, but it stops after so many writes, and another takes over while it is away.
    Stalls { after: usize },
    /// The next write of the one that had stopped arrives.
    Resumes,
    /// From here on this cache of a second leader lags.
    Lags(Cache),
    /// That second leader plans, by its own clock, and does every write.
    ActsOnOld,
    /// A node takes its assignment and reports.
    Reports { node: String, refuses: Option<UnitId> },
    /// A Job ends.
    JobEnds { name: String, gate: GateRef, state: JobState },
    /// A query is answered.
    Answers { gate: GateRef, fails: bool, early: bool },
    /// A commit.
    Pushed(&'static str),
    /// A person says something about a rollout.
    Said { verb: &'static str, rollout: RolloutId },
    /// An admin edits something.
    Edited(&'static str),
    /// A node comes, goes, moves.
    Churned(&'static str),
    /// The leader's clock jumps.
    Jumps { ms: i64 },
    /// Nothing happens until the plan wants to be woken.
    Sleeps,
}

/// Which watch of the second leader lags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cache {
    Everything,
    Units,
    Rollouts,
    Groups,
}

/// What a second leader last saw.
#[derive(Clone, Debug)]
pub struct View {
    pub cache: Cache,
    pub seen: Arc<Snapshot>,
    /// By its own clock.
    pub watching_since: Time,
}

/// What a node really runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub group: String,
    pub generation: u64,
    pub runs: BTreeMap<UnitId, Digest>,
    pub refuses: BTreeSet<(UnitId, Digest)>,
}

/// A Job that ended, and the gates that asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub state: JobState,
    pub gates: BTreeSet<GateRef>,
}

/// An entry of a group, and its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    pub since: u64,
    /// When the group was told.
    pub told: Time,
    /// When all live nodes that were there then ran it.
    pub ran: Option<Time>,
}

/// What really happened, which no planner sees: what promises are checked against.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// Gates that passed on what every live node of the group ran.
    pub passes: BTreeSet<GateRef>,
    /// Each group's unproven entry of a unit.
    pub ran: BTreeMap<(String, UnitId), Ran>,
    /// Groups that an attempt had behind it at some time.
    pub done: BTreeSet<(RolloutId, String)>,
    /// Attempts with a failure of their own, or ended by a person.
    pub failed: BTreeSet<RolloutId>,
    /// What must not come back by itself.
    pub rejected: BTreeMap<(UnitId, Environment, Target), RolloutId>,
    /// The promise that the last event broke.
    pub broken: Option<&'static str>,
    /// What the last event was, where that is worth knowing; no part of a state's identity.
    pub noted: Option<Noted>,
}

/// What shows that the model tries what it is meant to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// A write of one that had stopped, or saw too little, was refused.
    Refused,
    /// A write of such a one was taken.
    Taken,
    DiedMidRevert,
    JumpedBackMidSoak,
    JumpedAheadMidSoak,
}

/// One state.
#[derive(Clone, Debug)]
pub struct State {
    pub store: Arc<Snapshot>,
    /// True time.
    pub time: Time,
    /// How far the leader's clock is ahead of it.
    pub skew_ms: i64,
    /// By the leader's clock.
    pub watching_since: Time,
    pub version: u64,
    pub machines: BTreeMap<String, Machine>,
    pub jobs: BTreeMap<String, Job>,
    pub answers: BTreeMap<GateRef, Sample>,
    pub stalled: Vec<Effect>,
    pub view: Option<View>,
    pub left: Budget,
    /// Whether how much time passed is a part of a state's identity, and not only what came first.
    pub timed: bool,
    pub truth: Truth,
    /// What the leader would do now.
    pub planned: OnceLock<Arc<Plan>>,
}

impl State {
    /// The leader's clock.
    pub fn now(&self) -> Time {
        Time(self.time.0 + self.skew_ms)
    }

    /// What the leader would do now.
    pub fn plan(&self) -> &Plan {
        self.planned.get_or_init(|| {
            let samples = self.samples();
            let mut snapshot = Snapshot::clone(&self.store);
            (snapshot.samples, snapshot.watching_since) = (samples, self.watching_since);
            Arc::new(sluice_rollout::plan(&snapshot, self.now()))
        })
    }

    /// What the leader has measured.
    pub fn samples(&self) -> BTreeMap<GateRef, Vec<Sample>> {
        let mut samples: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, job) in &self.jobs {
            for gate in &job.gates {
                let sample = Sample::Job { name: name.clone(), state: job.state.clone() };
                samples.entry(gate.clone()).or_default().push(sample);
            }
        }
        for (gate, sample) in &self.answers {
            samples.entry(gate.clone()).or_default().push(sample.clone());
        }
        samples
    }

    /// The next resource version.
    pub fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// The stored objects, to be changed.
    pub fn edit(&mut self) -> &mut Snapshot {
        Arc::make_mut(&mut self.store)
    }

    /// A copy a moment later, nothing known of its plan.
    pub fn later(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            time: Time(self.time.0 + 1),
            planned: OnceLock::new(),
            truth: Truth { noted: None, ..self.truth.clone() },
            machines: self.machines.clone(),
            jobs: self.jobs.clone(),
            answers: self.answers.clone(),
            stalled: self.stalled.clone(),
            view: self.view.clone(),
            ..*self
        }
    }

    /// What a node would report, and would then run.
    pub fn report_of(&self, node: &str, refuses: Option<&UnitId>) -> Option<(Machine, NodeReport)> {
        let (name, group) = self.store.groups.iter().find(|(_, group)| group.nodes.contains_key(node))?;
        if !group.nodes[node].live {
            return None;
        }
        let known = self.machines.get(node).cloned().unwrap_or_default();
        let mut machine =
            if known.group == *name { known } else { Machine { group: name.clone(), ..Machine::default() } };
        let newer = group.assignment.as_ref().filter(|assignment| assignment.generation >= machine.generation);
        let mut exceptions = Vec::new();
        if let Some(assignment) = newer {
            machine.generation = assignment.generation;
            let former = std::mem::take(&mut machine.runs);
            for (unit, entry) in &assignment.entries {
                let Some(digest) = entry.revision.clone() else { continue };
                let unproven = entry.stable.as_ref() != Some(&digest);
                if refuses == Some(unit) && unproven {
                    machine.refuses.insert((unit.clone(), digest.clone()));
                }
                if machine.refuses.contains(&(unit.clone(), digest.clone())) {
                    machine.runs.extend(former.get(unit).map(|digest| (unit.clone(), digest.clone())));
                    exceptions.push(sluice_rollout::Exception {
                        unit: unit.clone(),
                        digest,
                        kind: sluice_rollout::ExceptionKind::Refused,
                        message: "does not compile".to_owned(),
                    });
                } else {
                    machine.runs.insert(unit.clone(), digest);
                }
            }
        }
        let report = NodeReport {
            group: name.clone(),
            generation: machine.generation,
            exceptions,
            unlisted: false,
            last_error: None,
        };
        Some((machine, report))
    }
}
