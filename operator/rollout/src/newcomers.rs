//! Nodes that join a group while an attempt is in it. One gets what the group runs; many at once keep
//! stable until the verdict: whoever relabels half the fleet must not hand it to an unproven revision.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    About, Effect, Event, Group, GroupPhase, GroupProgress, Reason, Rollout, RolloutId, Severity, UnitId, Write,
    assign, view::View,
};

/// So many of an environment's nodes may join at once, in percent; one may in any case.
const SHARE_MAX: usize = 10;

/// Writes what nodes keep on stable, where it differs from what they should keep.
pub(crate) fn writes(view: &View<'_>) -> Vec<Effect> {
    view.snapshot.groups.iter().flat_map(|(name, group)| of_group(view, name, group)).collect()
}

fn of_group(view: &View<'_>, name: &str, group: &Group) -> Vec<Effect> {
    let mut keeps: BTreeMap<&str, BTreeSet<UnitId>> = BTreeMap::new();
    let mut events: BTreeMap<&str, Vec<Event>> = BTreeMap::new();
    for (id, rollout) in &view.snapshot.rollouts {
        let environment = rollout.spec.environment;
        if !rollout.status.phase.holds_groups() || environment != group.environment || !view.has_its_units(id, rollout)
        {
            continue;
        }
        let Some(progress) = rollout.status.groups.iter().find(|progress| progress.name == name) else { continue };
        let kept = kept(view, rollout, progress, group);
        let units: BTreeSet<_> = rollout.spec.units.iter().map(|change| change.unit.clone()).collect();
        if let Some(first) = kept.iter().find(|node| !group.nodes[**node].keeps_stable.is_superset(&units)) {
            events.entry(first).or_default().push(event(id, rollout, name, joined(view, rollout)));
        }
        for node in kept {
            keeps.entry(node).or_default().extend(units.iter().cloned());
        }
    }
    let nodes = group.nodes.iter().filter_map(|(node_name, node)| {
        let mut units = keeps.remove(node_name.as_str()).unwrap_or_default();
        units.extend(node.keeps_stable.iter().filter(|unit| !is_safe(view, name, group, unit)).cloned());
        if units == node.keeps_stable {
            return None;
        }
        let resource_version = node.resource_version.clone();
        let write = Write::KeepStable { node: node_name.clone(), resource_version, units };
        Some(Effect { write, events: events.remove(node_name.as_str()).unwrap_or_default() })
    });
    nodes.collect()
}

/// Whether a node may run what its group is told of a unit: an attempt vouches for it, or it is stable. On
/// the way back the assignment has to be written first.
fn is_safe(view: &View<'_>, name: &str, group: &Group, unit: &UnitId) -> bool {
    if view.unit(unit).is_none() {
        // What the group runs of it stays. Nobody will ever judge that, once no attempt of it is left.
        let mut attempts = view.attempts(unit, group.environment).iter();
        let entry = group.assignment.as_ref().and_then(|assignment| assignment.entries.get(unit));
        return entry.is_none_or(|entry| entry.revision == entry.stable)
            || attempts.all(|(_, rollout)| rollout.status.phase.is_over());
    }
    let attempt = view.in_flight(unit, group.environment).map(|(_, rollout)| rollout);
    let in_group = |rollout: &Rollout| rollout.status.groups.iter().any(|progress| progress.name == name);
    attempt.is_some_and(|rollout| rollout.status.phase.holds_groups() && in_group(rollout))
        || assign::runs(group, unit, view.stable_digest(unit, group.environment))
}

fn event(id: &RolloutId, rollout: &Rollout, group: &str, nodes: usize) -> Event {
    let environment = rollout.spec.environment;
    Event {
        about: About::Rollout(id.clone()),
        severity: Severity::Warning,
        reason: Reason::NodesKeptOnStable,
        note: format!(
            "{nodes} nodes joined its groups meanwhile, over {SHARE_MAX}% of {environment}: those in group {group} stay \
             on stable until the group's verdict"
        ),
    }
}

/// The nodes of a group that keep an attempt's units on stable: its newcomers, if there are too many in all the
/// groups that it is on trial in.
pub(crate) fn kept<'a>(
    view: &View<'_>,
    rollout: &Rollout,
    progress: &GroupProgress,
    group: &'a Group,
) -> BTreeSet<&'a str> {
    let mine = newcomers(progress, group);
    if mine.is_empty() {
        return mine;
    }
    let others = rollout.status.groups.iter().filter(|other| other.name != progress.name);
    let joined = mine.len() + sum(view, rollout, others);
    let groups = view.snapshot.groups.values().filter(|group| group.environment == rollout.spec.environment);
    let all: usize = groups.map(|group| group.nodes.len()).sum();
    if joined > 1 && joined * 100 > all * SHARE_MAX { mine } else { BTreeSet::new() }
}

/// How many newcomers there are in all the groups that an attempt is on trial in.
fn joined(view: &View<'_>, rollout: &Rollout) -> usize {
    sum(view, rollout, rollout.status.groups.iter())
}

fn sum<'p>(view: &View<'_>, rollout: &Rollout, groups: impl Iterator<Item = &'p GroupProgress>) -> usize {
    let group = |name| view.group(name, rollout.spec.environment);
    groups.filter_map(|progress| Some(newcomers(progress, group(&progress.name)?).len())).sum()
}

/// Whether all of a group's nodes came after it was told to run it.
pub(crate) fn are_all(progress: &GroupProgress, group: &Group) -> bool {
    let told_at = progress.told_at.or(progress.entered_at);
    group.nodes.values().all(|node| told_at.zip(node.joined_at).is_some_and(|(told_at, joined)| joined > told_at))
}

/// The nodes that came after those that the attempt is judged on.
fn newcomers<'a>(progress: &GroupProgress, group: &'a Group) -> BTreeSet<&'a str> {
    let unproven = match progress.phase {
        GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Failed => true,
        GroupPhase::Waiting | GroupPhase::Passed | GroupPhase::Skipped => false,
    };
    // Where none is left that was told: it is judged on those that come first, until its gates start.
    let nobody_left = progress.gates_started_at.is_none() && are_all(progress, group);
    let Some(told_at) = progress.told_at.or(progress.entered_at).filter(|_| unproven && !nobody_left) else {
        return BTreeSet::new();
    };
    let joined = group.nodes.iter().filter(|(_, node)| node.joined_at.is_some_and(|joined| joined > told_at));
    joined.map(|(name, _)| name.as_str()).collect()
}
