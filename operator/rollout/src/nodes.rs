//! What a group's nodes say about what they were told to run.

use std::collections::{BTreeMap, BTreeSet};

use crate::{ExceptionKind, Group, Node, NodeReport, Rollout, UnitId, view::target_of};

/// A generation at or above this is no generation: no assignment changes so often, and one node that
/// writes nonsense must not use up the numbers.
const GENERATION_MAX: u64 = 1 << 53;

/// A group's nodes as one attempt sees them.
#[derive(Default)]
pub(crate) struct Nodes {
    /// How many are live.
    pub(crate) live: usize,
    /// Live ones that do not report what is needed: name and generation.
    pub(crate) behind: Vec<(String, u64)>,
    /// A live one that refuses a digest, and what it says.
    pub(crate) refused: Option<(String, String)>,
    /// A live one that has trouble of its own, and what it says.
    pub(crate) trouble: Option<(String, String)>,
}

/// The report of a node about the group that it is in now.
pub(crate) fn report<'a>(name: &str, node: &'a Node) -> Option<&'a NodeReport> {
    let report = node.report.as_ref();
    report.filter(|report| report.group == name && report.generation < GENERATION_MAX)
}

/// The highest generation that any node reports, about any group.
pub(crate) fn highest_generation(group: &Group) -> u64 {
    let reports = group.nodes.values().filter_map(|node| node.report.as_ref());
    let generations = reports.map(|report| report.generation);
    generations.filter(|generation| *generation < GENERATION_MAX).max().unwrap_or(0)
}

/// What the nodes say about an attempt whose entries last changed at these generations. An exception of a
/// report that is older than that is about something else. Nodes that keep stable say nothing about it.
pub(crate) fn look(
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
        let report = report(name, node);
        let has = report.map_or(0, |report| report.generation);
        let exceptions = report.map_or(&[][..], |report| &report.exceptions);
        let mut troubled = false;
        for exception in exceptions {
            let told = since.get(&exception.unit).is_some_and(|since| has >= *since);
            let target = target_of(rollout, &exception.unit).and_then(|target| target.digest());
            if !told || target != Some(&exception.digest) {
                continue;
            }
            let says = Some((node_name.clone(), exception.message.clone()));
            match exception.kind {
                ExceptionKind::Refused => nodes.refused = nodes.refused.or(says),
                ExceptionKind::LocalTrouble => {
                    troubled = true;
                    nodes.trouble = nodes.trouble.or(says);
                }
            }
        }
        if has < needs || troubled {
            nodes.behind.push((node_name.clone(), has));
        }
    }
    nodes
}
