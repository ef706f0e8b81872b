//! What gates would measure: traffic, queries, Jobs.

use std::collections::BTreeMap;

use sluice_rollout::{
    Counted, Elsewhere, Environment, Group, Head, JobState, Queried, QueryOutcome, RolloutId, Sample, Time, UnitChange,
    UnitId, UnitKind, Wanted, WorstNode,
};

use super::cluster::Cluster;

/// Requests a second through a revision in each group, and errors among a thousand.
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    pub per_second: u64,
    pub errors_per_thousand: u64,
}

/// How Jobs of a gate end.
#[derive(Clone)]
pub enum JobScript {
    Passes,
    Fails(String),
    /// Fails while the group runs this digest of this unit.
    FailsWhile(UnitId, String),
    Errors(String),
    Runs,
}

#[derive(Default)]
pub struct World {
    pub traffic: BTreeMap<(UnitId, String), Traffic>,
    pub queries: BTreeMap<String, QueryOutcome>,
    pub jobs: BTreeMap<String, JobScript>,
    /// Running and finished Jobs by name: rollout, group, gate, end, state.
    pub running_jobs: BTreeMap<String, RunningJob>,
    pub counters_down: bool,
    /// What another cluster's staging has written to the commits' statuses.
    pub statuses: BTreeMap<UnitChange, Elsewhere>,
    pub statuses_down: bool,
}

pub struct RunningJob {
    pub rollout: RolloutId,
    pub group: String,
    pub gate: String,
    pub ends_at: Time,
    pub state: JobState,
    pub reported: bool,
}

/// Every Job takes this long.
const JOB_MS: i64 = 20_000;
/// Counters are read this often (a second in truth); more rarely in long waits, to keep simulated days short.
const POLL_MS: i64 = 5_000;
const POLL_LONG_MS: i64 = 15_000;

impl Cluster {
    /// When something would be measured next, if nothing else happens.
    pub fn next_measurement(&self, end: Time) -> Option<Time> {
        let poll = if end.0 - self.time.0 > 600_000 { POLL_LONG_MS } else { POLL_MS };
        let mut times = Vec::new();
        for wanted in &self.last_plan.observe {
            match wanted {
                Wanted::Counters { .. } => times.push(Time(self.time.0 + poll)),
                Wanted::Query { due, .. } => times.push(Time((due.0 - self.skew_ms).max(self.time.0))),
                Wanted::Job { name, .. } => {
                    let job = self.world.running_jobs.get(name).filter(|job| !job.reported);
                    times.extend(job.map(|job| job.ends_at));
                }
                // They change only when a script says so.
                Wanted::Evidence { .. } => {}
            }
        }
        times.into_iter().min()
    }

    /// Measures what the last plan wants, just as the operator would.
    pub fn measure(&mut self) {
        let now = self.now();
        let wanted = self.last_plan.observe.clone();
        self.forget_stored_samples();
        self.read_statuses();
        for wanted in wanted {
            let (gate, sample) = match wanted {
                Wanted::Evidence { .. } => continue,
                Wanted::Counters { gate, unit, revision, from } => {
                    if self.world.counters_down || from.0 >= now.0 {
                        continue;
                    }
                    let key = (unit, revision.short().to_owned());
                    let traffic = self.world.traffic.get(&key).copied().unwrap_or_default();
                    let group = &self.store.groups[&gate.group];
                    let counted = count(traffic, from, now, group);
                    (gate, Sample::Counted(counted))
                }
                Wanted::Query { gate, due, .. } => {
                    if due > now {
                        continue;
                    }
                    let good = QueryOutcome::Value { fails: false, shown: "0.1 ≤ 0.25".to_owned() };
                    let outcome = self.world.queries.get(plain(&gate.gate)).cloned().unwrap_or(good);
                    // The queries of scripts look two minutes back.
                    let from = Time(now.0 - 120_000);
                    let queried = Sample::Queried(Queried { from, at: now, outcome });
                    if self.store.samples.get(&gate).is_some_and(|samples| samples.contains(&queried)) {
                        continue;
                    }
                    (gate, queried)
                }
                Wanted::Job { gate, name, .. } => {
                    let ends_at = Time(self.time.0 + JOB_MS);
                    self.world.running_jobs.entry(name.clone()).or_insert(RunningJob {
                        rollout: gate.rollout.clone(),
                        group: gate.group.clone(),
                        gate: gate.gate.clone(),
                        ends_at,
                        state: JobState::Running,
                        reported: false,
                    });
                    let state = self.job_state(&name);
                    (gate, Sample::Job { name, state })
                }
            };
            self.store.samples.entry(gate).or_default().push(sample);
        }
    }

    /// What passed is known as long as it is asked for, also where nobody answers any more.
    fn read_statuses(&mut self) {
        let known = std::mem::take(&mut self.store.elsewhere);
        for wanted in &self.last_plan.observe {
            let Wanted::Evidence { change } = wanted else { continue };
            let there = match known.get(change) {
                Some(Elsewhere::Passed) if self.world.statuses_down => Elsewhere::Passed,
                _ if self.world.statuses_down => {
                    Elsewhere::Unreadable { why: "git.example cannot be reached".to_owned() }
                }
                _ => self.world.statuses.get(change).cloned().unwrap_or_else(|| self.untold(change)),
            };
            self.store.elsewhere.insert(change.clone(), there);
        }
    }

    /// No status speaks of it; perhaps one speaks of another revision of the unit.
    fn untold(&self, change: &UnitChange) -> Elsewhere {
        let unit = self.store.units.get(&change.unit);
        let commit = match unit.and_then(|unit| unit.heads.get(&Environment::Production)) {
            Some(Head::Wants { commit, .. }) => Some(short(commit)),
            Some(Head::Unknown { .. }) | None => None,
        };
        let mut passed = self.world.statuses.iter().filter(|(_, there)| **there == Elsewhere::Passed);
        let other = passed.find(|(other, _)| other.unit == change.unit);
        let says = other.map(|(other, _)| format!("success: {}: passed 1 of 1 groups", other.target.short()));
        Elsewhere::Untold { context: context(&change.unit), commit, others: 0, says }
    }

    /// Answers of queries are offered until the status shows them; counters and Jobs are read anew.
    fn forget_stored_samples(&mut self) {
        let rollouts = &self.store.rollouts;
        for (gate, samples) in &mut self.store.samples {
            let groups = rollouts.get(&gate.rollout).map(|rollout| &rollout.status.groups);
            let mut groups = groups.into_iter().flatten();
            let progress = groups.find(|group| group.name == gate.group).and_then(|g| g.gates.get(&gate.gate));
            let stored = progress.and_then(|progress| progress.last_sample_at);
            samples.retain(|sample| match sample {
                Sample::Queried(queried) => stored.is_none_or(|stored| queried.at > stored),
                Sample::Counted(_) | Sample::Job { .. } => false,
            });
        }
    }

    fn job_state(&mut self, name: &str) -> JobState {
        let job = &self.world.running_jobs[name];
        if self.time < job.ends_at || job.state != JobState::Running {
            return job.state.clone();
        }
        let script = self.world.jobs.get(plain(&job.gate)).cloned().unwrap_or(JobScript::Passes);
        let state = match script {
            JobScript::Passes => JobState::Succeeded,
            JobScript::Fails(why) => JobState::Failed(why),
            JobScript::Errors(why) => JobState::Error(why),
            JobScript::Runs => JobState::Running,
            JobScript::FailsWhile(unit, short) => {
                let group = self.store.groups.get(&job.group);
                let assignment = group.and_then(|group| group.assignment.as_ref());
                let entry = assignment.and_then(|assignment| assignment.entries.get(&unit));
                let digest = entry.and_then(|entry| entry.revision.as_ref());
                if digest.is_some_and(|digest| digest.short() == short) {
                    JobState::Failed("checkout answers 500".to_owned())
                } else {
                    JobState::Succeeded
                }
            }
        };
        let job = self.world.running_jobs.get_mut(name).unwrap();
        job.reported = true;
        job.state = state.clone();
        state
    }
}

/// Of commits, eight characters are shown.
pub fn short(commit: &str) -> String {
    commit.replace('-', "")
}

/// The status that speaks of a unit in staging.
pub fn context(unit: &UnitId) -> String {
    match unit.kind {
        UnitKind::Worker => format!("sluice/staging/{}", unit.name),
        UnitKind::Routes => format!("sluice/staging/routes/{}", unit.name),
        UnitKind::Config => format!("sluice/staging/config/{}", unit.name),
    }
}

/// The name of a gate in its key.
fn plain(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

fn count(traffic: Traffic, from: Time, to: Time, group: &Group) -> Counted {
    // Counted on a grid, so that two ranges that meet add up to one.
    let at = |time: Time, per_second: u64| (time.0 / 1000) as u64 * per_second;
    let requests = at(to, traffic.per_second) - at(from, traffic.per_second);
    let errors = requests * traffic.errors_per_thousand / 1000;
    let node = group.nodes.keys().next_back().cloned().unwrap_or_default();
    let worst = (errors > 0).then_some(WorstNode { node, requests, errors });
    Counted { from, to, requests, errors, worst }
}
