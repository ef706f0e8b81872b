//! What a group's nodes say about what they were told to run.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ExceptionKind, Group, Node, NodeReport, Rollout, UnitId,
    view::{View, target_of},
};

/// A group's nodes as one attempt sees them.
#[derive(Default)]
pub(crate) struct Nodes {
    /// How many are live.
    pub(crate) live: usize,
    /// Live ones that do not have what is needed.
    pub(crate) behind: Vec<Behind>,
    /// A live one that refuses a digest, and what it says.
    pub(crate) refused: Option<(String, String)>,
    /// A live one that has trouble of its own, and what it says.
    pub(crate) trouble: Option<(String, String)>,
}

/// A live node that does not have what is needed.
#[derive(Clone)]
pub(crate) struct Behind {
    /// Its name.
    pub(crate) node: String,
    /// The generation that it has.
    pub(crate) has: u64,
    /// What it says about that.
    pub(crate) says: Option<String>,
}

/// The report of a node about the group that it is in now.
pub(crate) fn report<'a>(view: &View<'_>, name: &str, node: &'a Node) -> Option<&'a NodeReport> {
    let report = node.report.as_ref();
    report.filter(|report| report.group == name && report.generation <= view.generation_max)
}

/// The highest generation that any node reports, about any group.
pub(crate) fn highest_generation(view: &View<'_>, group: &Group) -> u64 {
    let reports = group.nodes.values().filter_map(|node| node.report.as_ref());
    let generations = reports.map(|report| report.generation);
    generations.filter(|generation| *generation <= view.generation_max).max().unwrap_or(0)
}

/// What a node that is behind says about it.
fn says(view: &View<'_>, node: &Node) -> Option<String> {
    let report = node.report.as_ref()?;
    if report.generation > view.generation_max {
        return Some(format!("it reports {}, more than was ever assigned", report.generation));
    }
    report.last_error.clone()
}

/// What the nodes say about an attempt whose entries last changed at these generations. An exception of a
/// report that is older than that is about something else. Nodes that keep stable say nothing about it.
pub(crate) fn look(
    view: &View<'_>,
    name: &str,
    group: &Group,
    since: &BTreeMap<UnitId, u64>,
    rollout: &Rollout,
    kept: &BTreeSet<&str>,
) -> Nodes {
    let needs = since.values().copied().max().unwrap_or(0);
    let mut nodes = Nodes::default();
    let judged = group.nodes.iter().filter(|(name, node)| node.live && !kept.contains(name.as_str()));
    for (node_name, node) in judged {
        nodes.live += 1;
        let report = report(view, name, node);
        let has = report.map_or(0, |report| report.generation);
        let exceptions = report.map_or(&[][..], |report| &report.exceptions);
        let mut troubled = false;
        let mut listed = BTreeSet::new();
        for exception in exceptions {
            let told = since.get(&exception.unit).is_some_and(|since| has >= *since);
            let target = target_of(rollout, &exception.unit).and_then(|target| target.digest());
            if !told || target != Some(&exception.digest) {
                continue;
            }
            listed.insert(&exception.unit);
            let says = Some((node_name.clone(), exception.message.clone()));
            match exception.kind {
                ExceptionKind::Refused => nodes.refused = nodes.refused.or(says),
                ExceptionKind::LocalTrouble => {
                    troubled = true;
                    nodes.trouble = nodes.trouble.or(says);
                }
            }
        }
        let mut runs = rollout.spec.units.iter().filter(|change| change.target.digest().is_some());
        let unlisted = report.filter(|report| report.unlisted && has >= needs);
        if let Some(report) = unlisted.filter(|_| runs.any(|change| !listed.contains(&change.unit))) {
            // It may be among those that it does not list: that is no word for it.
            troubled = true;
            let why = report.last_error.as_ref().map_or_else(String::new, |error| format!(" ({error})"));
            let message = format!("has trouble with more units than it lists{why}");
            nodes.trouble = nodes.trouble.or(Some((node_name.clone(), message)));
        }
        if has < needs || troubled {
            nodes.behind.push(Behind { node: node_name.clone(), has, says: says(view, node) });
        }
    }
    nodes
}
