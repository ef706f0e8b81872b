//! The way back: every group that an attempt touched runs stable, at once, whatever else there is.

use crate::{Cause, GroupPhase, Phase, Reason, Severity, UnitChange, Waiting, advance::Step, assign, memory, nodes};

/// Sends an attempt back. From here on it holds no group, so that all assignments fall back to stable.
pub(crate) fn begin(step: &mut Step<'_>, cause: Cause, message: String) {
    let stable = step
        .status
        .stable
        .values()
        .map(|stable| stable.as_ref().map_or("nothing (it never succeeded here)", |digest| digest.short()));
    let stable: Vec<_> = stable.collect();
    let shared = matches!(cause, Cause::Shared { .. });
    let again = if shared { "; whose fault it is nobody can tell: it runs again, alone" } else { "" };
    let note = format!("{message}; every group goes back to {}{again}", stable.join(", "));
    let severity = match cause {
        Cause::Person | Cause::RolledBack | Cause::HeadReturned => Severity::Normal,
        Cause::GateFailed
        | Cause::Refused
        | Cause::NotApplied
        | Cause::HoldLimit
        | Cause::Shared { .. }
        | Cause::Superseded { .. } => Severity::Warning,
    };
    step.say(severity, Reason::Reverting, note);
    step.end(Phase::Reverting, Some(cause), message);
}

/// Ends the way back once every group is told, and every live node has said that it is back. Nodes that
/// say nothing do not hold it for longer than the groups give them to apply anything.
pub(crate) fn confirm(step: &mut Step<'_>) {
    let units = theirs(step);
    if units.is_empty() {
        if memory::is_to_be_rejected(step.rollout) && !is_rejected(step) {
            // Its units take over why it failed, by this very plan; nobody would know once it is over.
            return;
        }
        // A newer attempt has the units; what the groups run is its affair.
        return finish(step, "its units went on to a newer attempt".to_owned());
    }
    let now = step.view.now;
    let ended_at = step.status.ended_at.unwrap_or(now);
    let environment = step.rollout.spec.environment;
    let mut until = ended_at;
    let mut behind: Vec<String> = Vec::new();
    for progress in step.status.groups.iter().filter(|group| group.phase != GroupPhase::Waiting) {
        let Some(group) = step.view.group(&progress.name, environment) else { continue };
        until = until.max(ended_at.after(group.apply_deadline));
        let mut needs = 0;
        for change in &units {
            let stable = step.view.stable_digest(&change.unit, environment);
            if !assign::runs(group, &change.unit, stable) {
                // Not told yet: it will be, by this very plan.
                return;
            }
            let assignment = group.assignment.as_ref();
            let entry = assignment.and_then(|assignment| assignment.entries.get(&change.unit));
            let generation = assignment.map_or(0, |assignment| assignment.generation);
            needs = needs.max(entry.map_or(generation, |entry| entry.since));
        }
        for (name, node) in group.nodes.iter().filter(|(_, node)| node.live) {
            let has = nodes::report(step.view, &progress.name, node).map_or(0, |report| report.generation);
            if has < needs {
                behind.push(name.clone());
            }
        }
    }
    match behind.first().cloned() {
        None => finish(step, "every group is back".to_owned()),
        Some(node) if now >= until => {
            let others = if behind.len() > 1 { format!(" and {} more", behind.len() - 1) } else { String::new() };
            let note = format!("{node}{others} did not confirm to be back; told to, and left at that");
            step.say(Severity::Warning, Reason::RevertUnconfirmed, note);
            finish(step, "every group is told to go back".to_owned());
        }
        Some(node) => {
            step.wake.push(until);
            step.waiting.push(Waiting::Return { behind: behind.len(), node, until });
        }
    }
}

/// The units that it has yet: all, or none. Of one that is rolled back, some may have gone on long before.
fn theirs<'a>(step: &Step<'a>) -> Vec<&'a UnitChange> {
    let (view, environment) = (step.view, step.rollout.spec.environment);
    let units = step.rollout.spec.units.iter();
    let has = |change: &&UnitChange| view.memory(&change.unit, environment).in_flight.as_ref() == Some(step.id);
    let theirs: Vec<_> = units.filter(has).collect();
    let enough = theirs.len() == step.rollout.spec.units.len() || step.status.cause == Some(Cause::RolledBack);
    if enough { theirs } else { Vec::new() }
}

/// Whether each of its units that still exists knows that what it tried is rejected.
fn is_rejected(step: &Step<'_>) -> bool {
    let environment = step.rollout.spec.environment;
    let mut units = step.rollout.spec.units.iter();
    units.all(|change| {
        let exists = step.view.unit(&change.unit).is_some();
        !exists || step.view.memory(&change.unit, environment).rejected.contains_key(&change.target)
    })
}

fn finish(step: &mut Step<'_>, note: String) {
    let (phase, reason) = match step.status.cause {
        Some(Cause::Person) => (Phase::Aborted, Reason::Aborted),
        Some(
            Cause::GateFailed
            | Cause::Refused
            | Cause::NotApplied
            | Cause::HoldLimit
            | Cause::RolledBack
            | Cause::HeadReturned
            | Cause::Shared { .. }
            | Cause::Superseded { .. },
        )
        | None => (Phase::Reverted, Reason::Reverted),
    };
    step.status.phase = phase;
    step.say(Severity::Normal, reason, note);
}
