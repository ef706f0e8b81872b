//! What each group should run: a function of memory and of the attempts in flight, and of nothing else.
//!
//! A group runs the target of the attempt that has the unit, if that attempt reached the group and goes
//! forward, and stable in all other cases. So every way back (a failure, an abort, a newer revision, a
//! deleted object) is the same: the attempt no longer holds the group.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    About, Basis, Digest, Effect, Entry, Environment, Event, Group, GroupPhase, Phase, Reason, Rollout, Severity,
    Target, UnitId, Write, adopt, nodes, rollback,
    view::{View, target_of},
};

/// What an entry says, revision and stable; an absent one is `None`.
type Content<'a> = Option<(Option<&'a Digest>, Option<&'a Digest>)>;

fn content(entry: &Entry) -> (Option<&Digest>, Option<&Digest>) {
    (entry.revision.as_ref(), entry.stable.as_ref())
}

/// Writes the assignments that differ from what they should be.
pub(crate) fn writes(view: &View<'_>) -> Vec<Effect> {
    let mut generation = highest_generation(view);
    let mut effects = Vec::new();
    for (name, group) in &view.snapshot.groups {
        if let Some(effect) = write(view, name, group, generation.saturating_add(1)) {
            generation = generation.saturating_add(1);
            effects.push(effect);
        }
    }
    effects
}

/// The highest generation that any assignment or any node shows.
fn highest_generation(view: &View<'_>) -> u64 {
    let groups = view.snapshot.groups.values();
    let shown = groups.map(|group| {
        let assigned = group.assignment.as_ref().map_or(0, |assignment| assignment.generation);
        assigned.max(nodes::highest_generation(view, group))
    });
    shown.max().unwrap_or(0)
}

fn write(view: &View<'_>, name: &str, group: &Group, generation: u64) -> Option<Effect> {
    let none = BTreeMap::new();
    let current = group.assignment.as_ref().map_or(&none, |assignment| &assignment.entries);
    // An assignment older than what its nodes run came back from a backup: nobody knows what changed
    // meanwhile, so all of it counts as new.
    let restored = group.assignment.as_ref().is_some_and(|assignment| {
        let mut nodes = group.nodes.iter().filter_map(|(node, state)| Some((node, nodes::report(view, name, state)?)));
        nodes.any(|(_, report)| report.generation > assignment.generation)
    });
    // What a group runs of a unit that nobody remembers stays.
    let changes = view.snapshot.units.keys().filter_map(|unit| {
        let told = current.get(unit).map(content);
        let wanted = desired(view, unit, name, group, told);
        (wanted != told).then_some((unit, wanted))
    });
    let changes: Vec<(&UnitId, Content<'_>)> = changes.collect();
    // A restored one may be empty, and its nodes run what it has not: it is written in any case.
    if group.assignment.is_some() && !restored && changes.is_empty() {
        return None;
    }
    let based_on: BTreeSet<Basis> = changes.iter().flat_map(|(unit, _)| basis(view, unit, group.environment)).collect();
    let mut entries = current.clone();
    if restored {
        entries.values_mut().for_each(|entry| entry.since = generation);
    }
    for (unit, wanted) in changes {
        let entry = wanted.map(|(revision, stable)| Entry {
            revision: revision.cloned(),
            stable: stable.cloned(),
            since: generation,
        });
        match entry {
            Some(entry) => entries.insert(unit.clone(), entry),
            None => entries.remove(unit),
        };
    }
    let write = Write::WriteAssignment {
        group: name.to_owned(),
        resource_version: group.assignment.as_ref().map(|assignment| assignment.resource_version.clone()),
        generation,
        entries,
        based_on: based_on.into_iter().collect(),
    };
    let events = if restored { vec![restored_event(name)] } else { Vec::new() };
    Some(Effect { write, events })
}

fn restored_event(name: &str) -> Event {
    Event {
        about: About::Group(name.to_owned()),
        severity: Severity::Warning,
        reason: Reason::AssignmentRestored,
        note: "nodes run a newer assignment than the one stored (a restored backup?): it is written anew".to_owned(),
    }
}

fn basis(view: &View<'_>, unit: &UnitId, environment: Environment) -> Vec<Basis> {
    let Some(known) = view.unit(unit) else { return Vec::new() };
    let mut basis = vec![Basis::Unit(unit.clone(), known.resource_version.clone())];
    if let Some(id) = &view.memory(unit, environment).in_flight {
        let version = view.rollout(id).map(|rollout| rollout.resource_version.clone());
        basis.push(Basis::Rollout(id.clone(), version));
    }
    basis
}

/// What a group should run of a unit that is told to run `current` of it.
fn desired<'a>(view: &'a View<'_>, unit: &UnitId, name: &str, group: &Group, current: Content<'a>) -> Content<'a> {
    let environment = group.environment;
    if let Some((id, rollout)) = view.in_flight(unit, environment) {
        let target = target_of(rollout, unit);
        let taken_back = rollback::is_taken_back(view.memory(unit, environment), id, rollout, unit);
        if let Some(target) = target.filter(|_| holds(rollout, name) && !taken_back) {
            return Some((target.digest(), view.stable_digest(unit, environment)));
        }
        if rollout.status.phase == Phase::Pending && is_handed_over(view, unit, environment, current) {
            return current;
        }
    }
    match &view.memory(unit, environment).stable {
        Some(Target::Revision(digest)) => Some((Some(digest), Some(digest))),
        Some(Target::Removed) => None,
        None => current.filter(|(revision, stable)| {
            let target = Target::from(revision.cloned());
            stable.is_some() || adopt::unexplained(view, unit, environment, &target)
        }),
    }
}

/// Whether an attempt reached a group and goes forward.
fn holds(rollout: &Rollout, group: &str) -> bool {
    let mut groups = rollout.status.groups.iter();
    let reached = groups.any(|progress| progress.name == group && was_told(progress.phase, progress.entered_at));
    rollout.status.phase.holds_groups() && reached
}

fn was_told(phase: GroupPhase, entered_at: Option<crate::Time>) -> bool {
    match phase {
        GroupPhase::Waiting => false,
        GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Passed | GroupPhase::Failed => true,
        // An optional group gets it all the same, for the nodes that come later.
        GroupPhase::Skipped => entered_at.is_some(),
    }
}

/// Whether a group still runs the attempt that a newer one is about to replace: it goes straight from one
/// to the other, unless what it runs has failed.
fn is_handed_over(view: &View<'_>, unit: &UnitId, environment: Environment, current: Content<'_>) -> bool {
    let Some((revision, _)) = current else { return false };
    let target = Target::from(revision.cloned());
    let former = view.last_attempt_at(unit, environment, &target);
    former.is_some_and(|(_, rollout)| rollout.status.phase == Phase::Progressing)
}

/// Whether all groups of an environment are told to run a unit's stable.
pub(crate) fn is_stable_everywhere(view: &View<'_>, unit: &UnitId, environment: Environment) -> bool {
    let stable = view.stable_digest(unit, environment);
    let mut groups = view.snapshot.groups.values().filter(|group| group.environment == environment);
    groups.all(|group| runs(group, unit, stable))
}

/// Whether a group is told to run just this of a unit.
pub(crate) fn runs(group: &Group, unit: &UnitId, stable: Option<&Digest>) -> bool {
    let entry = group.assignment.as_ref().and_then(|assignment| assignment.entries.get(unit));
    match (entry, stable) {
        (None, None) => true,
        (Some(entry), Some(_)) => entry.revision.as_ref() == stable,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
