//! Once faults stop: from any state the run comes to rest, as desired, and then nothing is written.

use std::hash::Hasher;

use sluice_rollout::{
    Environment, Head, JobState, Phase, RolloutId, Said, StagingEvidence, Target, Time, UnitId, Verdict, Wanted,
};

use super::{happens::verdict, promises, setting::Checked, state::State};

/// Many more plans than any way to rest takes.
const ROUNDS_MAX: usize = 400;
/// So often a person decides about what waits for one.
const DECISIONS_MAX: usize = 6;

impl Checked {
    /// Whether the run from here ends as desired; what went before tells the rest.
    pub fn rests(&self, state: &State) -> bool {
        self.to_rest(state).is_ok()
    }

    /// Lets all be well from here on. Every state on the way is known as good if the end is.
    pub fn to_rest(&self, state: &State) -> Result<(), String> {
        if state.truth.broken.is_some() {
            return Ok(());
        }
        let mut state = state.later();
        state.stalled.clear();
        state.view = None;
        let mut way = Vec::new();
        let mut decisions = 0;
        for _ in 0..ROUNDS_MAX {
            let mut hasher = std::hash::DefaultHasher::new();
            state.hash_core(&mut hasher);
            hasher.write_usize(decisions);
            let known = hasher.finish();
            if self.rests.lock().unwrap().contains(&known) {
                self.rests.lock().unwrap().extend(way);
                return Ok(());
            }
            way.push(known);
            let moved = nodes(&mut state) | gates(&mut state);
            state = state.later();
            let due = promises::due(&state);
            let effects = state.plan().effects.clone();
            let wake = state.plan().wake_at;
            if !effects.is_empty() {
                if self.told.load(std::sync::atomic::Ordering::Relaxed) {
                    effects
                        .iter()
                        .filter_map(|effect| crate::sim::show::effect(&state.store, effect))
                        .for_each(|l| println!("  .{l}"));
                }
                state.act(&effects, usize::MAX);
                promises::kept(&mut state, &due);
                promises::look(&mut state);
                if let Some(broken) = state.truth.broken {
                    return Err(format!("on the way to rest: not {broken}"));
                }
            } else if !moved {
                let decided = decisions < DECISIONS_MAX && decide(&mut state);
                decisions += usize::from(decided);
                match wake {
                    _ if decided => {}
                    Some(wake) => state.time = Time(wake.0 - state.skew_ms),
                    None => {
                        self.desired(&state)?;
                        self.rests.lock().unwrap().extend(way);
                        return Ok(());
                    }
                }
            }
            state = state.later();
        }
        Err(format!("no rest after {ROUNDS_MAX} plans; still wanted: {:?}", state.plan().effects))
    }

    fn desired(&self, state: &State) -> Result<(), String> {
        let much_later = Time(state.now().0 + 86_400_000);
        let again = sluice_rollout::plan(&state.store, much_later);
        if !again.effects.is_empty() {
            return Err(format!("at rest, and a day later it writes {:?}", again.effects));
        }
        for id in state.store.units.keys() {
            for environment in Environment::ALL {
                unit(state, id, environment)?;
            }
        }
        Ok(())
    }
}

/// Nodes come back and do what they are told.
fn nodes(state: &mut State) -> bool {
    let groups = state.store.groups.iter();
    let all: Vec<(String, String, bool)> =
        groups.flat_map(|(g, group)| group.nodes.iter().map(|(n, node)| (g.clone(), n.clone(), node.live))).collect();
    let mut moved = false;
    for (group, name, live) in all {
        if !live {
            state.edit().groups.get_mut(&group).unwrap().nodes.get_mut(&name).unwrap().live = true;
        }
        moved |= state.report(&name, None) || !live;
    }
    promises::look(state);
    moved
}

/// Gates that are asked say that all is well.
fn gates(state: &mut State) -> bool {
    let observe = state.plan().observe.clone();
    *state = state.later();
    let mut moved = false;
    for wanted in observe {
        match wanted {
            Wanted::Job { name, gate, .. } => {
                let how = state.jobs.get(&name).map(|job| (job.state.clone(), job.gates.contains(&gate)));
                let (how, known) = how.unwrap_or((JobState::Succeeded, false));
                if !known {
                    state.job_ends(name, gate, how);
                    moved = true;
                }
            }
            Wanted::Query { gate, .. } => {
                let asked = verdict(state, &gate).is_some_and(|verdict| verdict != Verdict::Pass);
                if asked && !state.answers.contains_key(&gate) {
                    state.answer(gate, false, false);
                    moved = true;
                }
            }
            Wanted::Counters { .. } | Wanted::Evidence { .. } => {}
        }
    }
    moved
}

/// A person lets go on what waits for one.
fn decide(state: &mut State) -> bool {
    let rollouts = state.store.rollouts.iter();
    let mut waits = rollouts.filter(|(_, rollout)| !rollout.status.phase.is_over());
    let found = waits.find_map(|(id, rollout)| {
        let resumes = rollout.verbs.pause.is_some();
        (resumes || rollout.status.phase == Phase::Paused).then(|| (id.clone(), resumes))
    });
    let Some((id, resumes)) = found else { return false };
    let token = state.next_version();
    let rollout = state.edit().rollouts.get_mut(&id).unwrap();
    rollout.resource_version.clone_from(&token);
    match resumes {
        true => rollout.verbs.pause = None,
        false => rollout.verbs.retry = Some(Said { token, by: "grace".into(), reason: "go on".into() }),
    }
    true
}

/// What a unit should be at in the end, and whether all of the cluster is there.
fn unit(state: &State, id: &UnitId, environment: Environment) -> Result<(), String> {
    let unit = &state.store.units[id];
    let Some(Head::Wants { target: wanted, .. }) = unit.heads.get(&environment) else { return Ok(()) };
    let groups = state.store.groups.iter().filter(|(_, group)| group.environment == environment);
    if groups.clone().next().is_none() {
        // Nothing is judged where there is no group: it waits for one, or for a person, as long as it takes.
        return Ok(());
    }
    let memory = unit.memory.get(&environment).cloned().unwrap_or_default();
    let stable = memory.stable.clone().unwrap_or(Target::Removed);
    let rejected = state.truth.rejected.contains_key(&(id.clone(), environment, wanted.clone()));
    let at = format!("{id} in {environment}");
    if rejected && !memory.rejected.contains_key(wanted) {
        return Err(format!("{at}: {} failed, and nobody remembers", wanted.short()));
    }
    if !rejected && stable != *wanted && !lacks_evidence(state, id, environment, wanted) {
        return Err(format!("{at}: the branch wants {}, and {} is stable", wanted.short(), stable.short()));
    }
    for (name, group) in groups {
        let entry = group.assignment.as_ref().and_then(|assignment| assignment.entries.get(id));
        if Target::from(entry.and_then(|entry| entry.revision.clone())) != stable {
            return Err(format!("{at}: {name} is not told to run stable"));
        }
        let mut nodes = group.nodes.keys().filter_map(|node| state.machines.get(node));
        if !nodes.all(|machine| machine.runs.get(id) == stable.digest()) {
            return Err(format!("{at}: a node of {name} does not run stable"));
        }
    }
    let in_flight = memory.in_flight.as_ref();
    let mut rollouts = state.store.rollouts.iter().filter(|(_, rollout)| {
        rollout.spec.environment == environment && rollout.spec.units.iter().any(|change| change.unit == *id)
    });
    let open = rollouts.find(|(id, rollout)| !rollout.status.phase.is_over() && !waits_for_staging(state, id));
    match (in_flight, open) {
        (Some(id), _) | (None, Some((id, _))) => Err(format!("{at}: {id} is not over")),
        (None, None) => Ok(()),
    }
}

fn waits_for_staging(state: &State, id: &RolloutId) -> bool {
    let rollout = &state.store.rollouts[id];
    let mut units = rollout.spec.units.iter();
    rollout.status.phase == Phase::Pending
        && units.any(|change| lacks_evidence(state, &change.unit, rollout.spec.environment, &change.target))
}

/// Whether production has to wait for staging.
fn lacks_evidence(state: &State, id: &UnitId, environment: Environment, target: &Target) -> bool {
    let asks = state.store.repositories.values().all(|r| r.staging_evidence == StagingEvidence::InCluster);
    let staging = state.store.units[id].memory.get(&Environment::Staging);
    let passed =
        target.digest().is_some_and(|digest| staging.is_some_and(|staging| staging.passed.contains_key(digest)));
    environment == Environment::Production && asks && !passed
}
