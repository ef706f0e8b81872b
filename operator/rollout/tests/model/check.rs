//! Runs the checker over a setting, and tells what it found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use super::{
    setting::{Checked, Setting},
    state::{Action, Budget, State},
};
use crate::sim::show;

/// What came out.
#[derive(Default)]
pub struct Outcome {
    pub states: usize,
    /// Promises that do not hold, and what must come up and does not.
    pub problems: Vec<String>,
    /// What came up of what must.
    seen: BTreeSet<&'static str>,
}

/// Which budgets of a setting are explored.
#[derive(Clone, Copy)]
pub enum Depth {
    Bounded,
    /// Depth first: breadth first, the states that are still to be looked at would take more memory than there is. What is
    /// found may take a detour.
    Deep,
    /// One, in which nothing has to come up: to see the shortest way to what was found.
    Only(Budget),
}

/// Explores all states of a setting, with one budget after the other.
pub fn check(setting: &Setting, depth: Depth, threads: usize) -> Outcome {
    let (budgets, shows): (Vec<Budget>, Vec<&str>) = match depth {
        Depth::Bounded => (setting.bounded.to_vec(), setting.shows.to_vec()),
        Depth::Deep => (setting.deep.to_vec(), [setting.shows, setting.shows_deep].concat()),
        Depth::Only(budget) => (vec![budget], Vec::new()),
    };
    let mut outcome = Outcome::default();
    for left in budgets {
        let (checker, began) = (setting.checked(left).checker().threads(threads), Instant::now());
        let checker = checker.finish_when(HasDiscoveries::AnyFailures);
        let (title, out) = (format!("{}, {left}", setting.name), &mut outcome);
        match depth {
            Depth::Bounded | Depth::Only(_) => explored(&checker.spawn_bfs().join(), &title, began, out),
            Depth::Deep => explored(&checker.spawn_dfs().join(), &title, began, out),
        }
        if !outcome.problems.is_empty() {
            return outcome;
        }
    }
    for missing in shows.into_iter().filter(|name| !outcome.seen.contains(name)) {
        println!("model: {}: never comes up: {missing}", setting.name);
        outcome.problems.push(format!("never comes up: {missing}"));
    }
    outcome
}

fn explored(checker: &impl Checker<Checked>, title: &str, began: Instant, out: &mut Outcome) {
    let model = checker.model();
    let states = checker.unique_state_count();
    out.states += states;
    println!(
        "model: {title}: {states} states, {} events deep, {:.1} s",
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    for (promise, path) in checker.discoveries() {
        if model.property(promise).expectation == Expectation::Sometimes {
            out.seen.insert(promise);
            continue;
        }
        println!("model: {title}: does not hold: {promise}");
        out.problems.push(promise.to_owned());
        tell(model, path.into_vec());
    }
}

/// A counterexample: each event, and the writes that it led to.
fn tell(model: &Checked, path: Vec<(State, Option<Action>)>) {
    let mut states = path.iter().map(|(state, _)| state).skip(1);
    for (state, action) in &path {
        let Some(action) = action else { continue };
        println!("> {}", event(action));
        if let Some(next) = states.next() {
            changes(state, next);
        }
    }
    model.told.store(true, std::sync::atomic::Ordering::Relaxed);
    if let Some((state, _)) = path.last()
        && let Err(why) = model.to_rest(state)
    {
        println!("  then, without faults: {why}");
    }
}

fn event(action: &Action) -> String {
    format!("{action:?}")
}

/// What of the stored objects changed, as scripts show it.
fn changes(before: &State, after: &State) {
    let plan = before.plan().effects.iter().chain(&before.stalled);
    for effect in plan {
        let taken = !crate::sim::server::accepts(&after.store, &effect.write);
        if let (true, Some(line)) = (taken, show::effect(&before.store, effect)) {
            println!("{line}");
        }
    }
    let phases = |state: &State| -> BTreeMap<String, String> {
        let rollouts = state.store.rollouts.iter();
        rollouts.map(|(id, r)| (id.to_string(), format!("{:?} {:?}", r.status.phase, r.status.cause))).collect()
    };
    let (before, after_phases) = (phases(before), phases(after));
    for (id, phase) in after_phases.iter().filter(|(id, phase)| before.get(*id) != Some(phase)) {
        println!("  = {id} | {phase}");
    }
    if let Some(broken) = after.truth.broken {
        println!("  ! not so: {broken}");
    }
}
