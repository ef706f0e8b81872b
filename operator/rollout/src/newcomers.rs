//! Nodes that join a group while an attempt is in it. One gets what the group runs; many at once keep
//! stable until the verdict: whoever relabels half the fleet must not hand it to an unproven revision.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    About, Effect, Environment, Event, Group, GroupPhase, GroupProgress, Reason, Rollout, RolloutId, Severity, UnitId,
    Write, assign, view::View,
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
        let kept = kept(view, environment, progress, group);
        let units: BTreeSet<_> = rollout.spec.units.iter().map(|change| change.unit.clone()).collect();
        if let Some(first) = kept.iter().find(|node| !group.nodes[**node].keeps_stable.is_superset(&units)) {
            events.entry(first).or_default().push(event(id, rollout, name, kept.len()));
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
    let attempt = view.in_flight(unit, group.environment).map(|(_, rollout)| rollout);
    let in_group = |rollout: &Rollout| rollout.status.groups.iter().any(|progress| progress.name == name);
    attempt.is_some_and(|rollout| rollout.status.phase.holds_groups() && in_group(rollout))
        || assign::runs(group, unit, &view.stable_digest(unit, group.environment))
}

fn event(id: &RolloutId, rollout: &Rollout, group: &str, nodes: usize) -> Event {
    let environment = rollout.spec.environment;
    Event {
        about: About::Rollout(id.clone()),
        severity: Severity::Warning,
        reason: Reason::NodesKeptOnStable,
        note: format!(
            "{nodes} nodes joined group {group} meanwhile, over {SHARE_MAX}% of {environment}: they stay on stable until \
             the group's verdict"
        ),
    }
}

/// The nodes of a group that keep an attempt's units on stable.
pub(crate) fn kept<'a>(
    view: &View<'_>,
    environment: Environment,
    progress: &GroupProgress,
    group: &'a Group,
) -> BTreeSet<&'a str> {
    let newcomers = newcomers(progress, group);
    let groups = view.snapshot.groups.values().filter(|group| group.environment == environment);
    let all: usize = groups.map(|group| group.nodes.len()).sum();
    if newcomers.len() > 1 && newcomers.len() * 100 > all * SHARE_MAX { newcomers } else { BTreeSet::new() }
}

/// The nodes that came after those that the attempt is judged on.
fn newcomers<'a>(progress: &GroupProgress, group: &'a Group) -> BTreeSet<&'a str> {
    let unproven = match progress.phase {
        GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Failed => true,
        GroupPhase::Waiting | GroupPhase::Passed | GroupPhase::Skipped => false,
    };
    let Some(entered_at) = progress.entered_at.filter(|_| unproven) else { return BTreeSet::new() };
    let after = |time| {
        let joined = group.nodes.iter().filter(move |(_, node)| node.joined_at.is_some_and(|joined| joined > time));
        joined.map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>()
    };
    let newcomers = after(entered_at);
    if newcomers.len() < group.nodes.len() {
        return newcomers;
    }
    // It was entered without nodes: those that were there when its gates started are the ones to judge it on.
    progress.gates_started_at.map(after).unwrap_or_default()
}
