//! What may happen in a state, and what becomes of it.

use sluice_rollout::{GateRef, JobState, Phase, Time, UnitId, Verdict, Wanted};
use stateright::{Model, Property};

use super::{
    operator::in_flight,
    promises,
    setting::Checked,
    state::{Action, Cache, Noted, State},
};

impl Model for Checked {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.truth.broken.is_some() {
            return;
        }
        operators(state, actions);
        self.others(state, actions);
        self.nodes(state, actions);
        self.gates(state, actions);
        self.people(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.later();
        let left = &mut next.left;
        match action {
            Action::Acts => {
                let due = promises::due(state);
                next.act(&state.plan().effects, usize::MAX);
                promises::kept(&mut next, &due);
            }
            Action::Dies { after } => {
                left.crashes -= 1;
                next.die(&state.plan().effects, after);
            }
            Action::Stalls { after } => {
                left.stalls -= 1;
                next.stall(&state.plan().effects, after);
            }
            Action::Resumes => next.resume(),
            Action::Lags(cache) => {
                left.stale -= 1;
                next.lag(cache);
            }
            Action::ActsOnOld => next.act_on_old(),
            Action::Reports { node, refuses } => {
                left.refusals -= u8::from(refuses.is_some());
                if !next.report(&node, refuses.as_ref()) {
                    return None;
                }
            }
            Action::JobEnds { name, gate, state: how } => {
                let known = next.jobs.contains_key(&name);
                let left = &mut next.left;
                left.fails -= u8::from(!known && matches!(how, JobState::Failed(_)));
                left.errors -= u8::from(!known && matches!(how, JobState::Error(_)));
                next.job_ends(name, gate, how);
            }
            Action::Answers { gate, fails, early } => {
                left.fails -= u8::from(fails);
                left.early -= u8::from(early);
                next.answer(gate, fails, early);
            }
            Action::Pushed(line) => {
                left.pushes -= 1;
                if !next.push(line) {
                    return None;
                }
            }
            Action::Said { verb, rollout } => {
                left.verbs -= 1;
                next.said(verb, &rollout);
            }
            Action::Edited(line) => {
                left.edits -= 1;
                if !next.edited(line) {
                    return None;
                }
            }
            Action::Churned(line) => {
                left.churn -= 1;
                if !next.churned(line) {
                    return None;
                }
            }
            Action::Jumps { ms } => next.jumps(ms),
            Action::Sleeps => {
                left.ticks -= 1;
                let wake = state.plan().wake_at?;
                next.time = Time(wake.0 - state.skew_ms);
            }
        }
        promises::look(&mut next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises::properties()
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.store.rollouts.len() <= ROLLOUTS_MAX
    }
}

/// More attempts than the bounds of any setting can ask for.
const ROLLOUTS_MAX: usize = 14;

impl State {
    fn jumps(&mut self, ms: i64) {
        self.left.jumps -= 1;
        let soaking = in_flight(self).any(|(_, rollout)| rollout.status.groups.iter().any(|g| !g.gates.is_empty()));
        if soaking {
            self.truth.noted = Some(if ms < 0 { Noted::JumpedBackMidSoak } else { Noted::JumpedAheadMidSoak });
        }
        self.skew_ms += ms;
        // The operator notices: what its clock said before is another clock's time.
        self.watching_since = self.now();
    }
}

fn operators(state: &State, actions: &mut Vec<Action>) {
    let effects = state.plan().effects.len();
    if effects > 0 {
        actions.push(Action::Acts);
    }
    if state.left.crashes > 0 {
        // None at all, too: what was measured is lost.
        actions.extend((0..effects.max(1)).map(|after| Action::Dies { after }));
    }
    if state.left.stalls > 0 && state.stalled.is_empty() {
        actions.extend((0..effects).map(|after| Action::Stalls { after }));
    }
    if !state.stalled.is_empty() {
        actions.push(Action::Resumes);
    }
    if state.view.is_some() {
        actions.push(Action::ActsOnOld);
    }
}

impl Checked {
    fn others(&self, state: &State, actions: &mut Vec<Action>) {
        if state.left.stale > 0 && state.view.is_none() {
            actions.extend(self.caches.iter().map(|cache: &Cache| Action::Lags(*cache)));
        }
        let sleeps = state.plan().effects.is_empty() && state.plan().wake_at.is_some();
        if sleeps && state.left.ticks > 0 {
            actions.push(Action::Sleeps);
        }
        if state.left.jumps > 0 {
            actions.extend(self.jumps.iter().map(|ms| Action::Jumps { ms: *ms }));
        }
    }

    fn nodes(&self, state: &State, actions: &mut Vec<Action>) {
        for (name, group) in &state.store.groups {
            for (node, stored) in group.nodes.iter().filter(|(_, node)| node.live) {
                let Some((machine, report)) = state.report_of(node, None) else { continue };
                if stored.report.as_ref() == Some(&report) && state.machines.get(node) == Some(&machine) {
                    continue;
                }
                actions.push(Action::Reports { node: node.clone(), refuses: None });
                let entries = group.assignment.iter().flat_map(|assignment| &assignment.entries);
                let unproven = entries.filter(|(_, entry)| entry.revision.is_some() && entry.revision != entry.stable);
                if state.left.refusals > 0 && !name.is_empty() {
                    let refuse = |unit: &UnitId| Action::Reports { node: node.clone(), refuses: Some(unit.clone()) };
                    actions.extend(unproven.map(|(unit, _)| refuse(unit)));
                }
            }
        }
    }

    fn gates(&self, state: &State, actions: &mut Vec<Action>) {
        for wanted in &state.plan().observe {
            match wanted {
                Wanted::Job { name, gate, .. } => job(state, name, gate, actions),
                Wanted::Query { gate, .. } if !state.answers.contains_key(gate) => {
                    let answer = |fails, early| Action::Answers { gate: gate.clone(), fails, early };
                    // Nothing is asked before it is stored that the gate has begun.
                    let Some(verdict) = verdict(state, gate) else { continue };
                    if verdict != Verdict::Pass {
                        actions.push(answer(false, false));
                        actions.extend((state.left.early > 0).then(|| answer(false, true)));
                    }
                    actions.extend((state.left.fails > 0).then(|| answer(true, false)));
                }
                Wanted::Query { .. } | Wanted::Counters { .. } | Wanted::Evidence { .. } => {}
            }
        }
    }

    fn people(&self, state: &State, actions: &mut Vec<Action>) {
        let left = &state.left;
        actions.extend(self.pushes.iter().filter(|_| left.pushes > 0).map(|line| Action::Pushed(line)));
        actions.extend(self.edits.iter().filter(|_| left.edits > 0).map(|line| Action::Edited(line)));
        actions.extend(self.churn.iter().filter(|_| left.churn > 0).map(|line| Action::Churned(line)));
        for verb in self.verbs.iter().filter(|_| left.verbs > 0) {
            let rollouts = state.store.rollouts.keys().filter(|id| state.may_say(verb, id));
            actions.extend(rollouts.map(|id| Action::Said { verb, rollout: id.clone() }));
        }
    }
}

fn job(state: &State, name: &str, gate: &GateRef, actions: &mut Vec<Action>) {
    let ends = |how| Action::JobEnds { name: name.to_owned(), gate: gate.clone(), state: how };
    if let Some(known) = state.jobs.get(name) {
        if !known.gates.contains(gate) {
            actions.push(ends(known.state.clone()));
        }
        return;
    }
    actions.push(ends(JobState::Succeeded));
    if state.left.fails > 0 {
        actions.push(ends(JobState::Failed("no".to_owned())));
    }
    if state.left.errors > 0 {
        actions.push(ends(JobState::Error("evicted".to_owned())));
    }
}

/// What is stored of a gate.
pub fn verdict(state: &State, gate: &GateRef) -> Option<Verdict> {
    let rollout = state.store.rollouts.get(&gate.rollout).filter(|r| r.status.phase != Phase::Reverting)?;
    let progress = rollout.status.groups.iter().find(|group| group.name == gate.group)?;
    progress.gates.get(&gate.gate).map(|gate| gate.verdict)
}
