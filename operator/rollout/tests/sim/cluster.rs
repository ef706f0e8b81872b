//! The stored objects, the nodes, and the time.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_rollout::{Assignment, Exception, ExceptionKind, Node, NodeReport, Plan, Snapshot, Time, UnitId};

use super::{faults::Faults, world::World};

/// 2026-11-23 12:00:00 UTC.
pub const NOON: Time = Time(1_795_435_200_000);

/// How a node treats what it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    pub lags: bool,
    pub trouble: Option<String>,
    /// What it says that it has, whatever it has.
    pub claims: Option<u64>,
    /// So many exceptions are listed at most.
    pub lists: Option<usize>,
    /// Why it refuses assignments as a whole.
    pub error: Option<String>,
    /// Unit and digest that it refuses, and what it says.
    pub refuses: Vec<(UnitId, String, String)>,
}

/// What a node really runs, whatever is stored about it.
#[derive(Clone, Debug, Default)]
pub struct Running {
    pub group: String,
    pub generation: u64,
    pub exceptions: Vec<Exception>,
}

pub struct Cluster {
    /// What is stored; handed to the planner as it is.
    pub store: Snapshot,
    pub running: BTreeMap<String, Running>,
    pub behaviour: BTreeMap<String, Behaviour>,
    pub world: World,
    /// True time.
    pub time: Time,
    /// How far the operator's clock is ahead of it.
    pub skew_ms: i64,
    pub version: u64,
    pub pushes: u64,
    pub last_plan: Plan,
    /// Whether promises are looked at.
    pub is_watched: bool,
    pub transcript: Vec<String>,
    pub progress_writes: usize,
    /// True time at which a group was last told something, per rollout and group.
    pub told_at: BTreeMap<(String, String), Time>,
    pub faults: Faults,
    pub backup: Option<Snapshot>,
    pub before: Snapshot,
    /// What a second operator's watches show.
    pub lagging: Snapshot,
    /// Whether the leader does nothing.
    pub is_away: bool,
}

impl Cluster {
    pub fn new(faults: Faults) -> Self {
        Self {
            store: Snapshot::default(),
            running: BTreeMap::new(),
            behaviour: BTreeMap::new(),
            world: World::default(),
            time: NOON,
            skew_ms: 0,
            version: 0,
            pushes: 0,
            last_plan: Plan::default(),
            is_watched: true,
            transcript: Vec::new(),
            progress_writes: 0,
            told_at: BTreeMap::new(),
            faults,
            backup: None,
            before: Snapshot::default(),
            lagging: Snapshot::default(),
            is_away: false,
        }
    }

    /// The operator's clock.
    pub fn now(&self) -> Time {
        Time(self.time.0 + self.skew_ms)
    }

    pub fn say(&mut self, line: impl Into<String>) {
        self.transcript.push(line.into());
    }

    pub fn next_version(&mut self) -> String {
        self.version += 1;
        format!("{}", self.version)
    }

    /// Every node applies what it is told, unless it behaves otherwise, and reports on change.
    /// Answers whether anything changed.
    pub fn nodes_act(&mut self) -> bool {
        let mut changed = false;
        let groups: Vec<String> = self.store.groups.keys().cloned().collect();
        for group_name in groups {
            let group = &self.store.groups[&group_name];
            let assignment = group.assignment.clone();
            let nodes: Vec<String> = group.nodes.keys().cloned().collect();
            for name in nodes {
                changed |= self.node_acts(&group_name, &name, assignment.as_ref());
            }
        }
        changed
    }

    fn node_acts(&mut self, group: &str, name: &str, assignment: Option<&Assignment>) -> bool {
        let behaviour = self.behaviour.get(name).cloned().unwrap_or_default();
        let running = self.running.entry(name.to_owned()).or_default();
        if running.group != group {
            // Another DaemonSet, another pod, an empty disk.
            *running = Running { group: group.to_owned(), ..Running::default() };
        }
        let node: &mut Node = self.store.groups.get_mut(group).unwrap().nodes.get_mut(name).unwrap();
        if !node.live {
            return false;
        }
        if let Some(assignment) =
            assignment.filter(|a| a.generation >= running.generation && !behaviour.lags && behaviour.error.is_none())
        {
            running.generation = assignment.generation;
            running.exceptions = exceptions(assignment, &behaviour);
        }
        let listed = behaviour.lists.unwrap_or(usize::MAX);
        let report = NodeReport {
            group: group.to_owned(),
            generation: behaviour.claims.unwrap_or(running.generation),
            exceptions: running.exceptions.iter().take(listed).cloned().collect(),
            unlisted: running.exceptions.len() > listed,
            last_error: behaviour.error.clone(),
        };
        if node.report.as_ref() == Some(&report) {
            return false;
        }
        node.report = Some(report);
        true
    }

    /// Lets a node do nothing else than report what it really runs (after a restored backup).
    pub fn truth(&self, name: &str) -> u64 {
        self.running.get(name).map_or(0, |running| running.generation)
    }
}

fn exceptions(assignment: &Assignment, behaviour: &Behaviour) -> Vec<Exception> {
    let mut exceptions = Vec::new();
    for (unit, entry) in &assignment.entries {
        let Some(digest) = &entry.revision else { continue };
        let refused = behaviour.refuses.iter().find(|(u, short, _)| u == unit && digest.short() == short);
        if let Some((_, _, message)) = refused {
            exceptions.push(Exception {
                unit: unit.clone(),
                digest: digest.clone(),
                kind: ExceptionKind::Refused,
                message: message.clone(),
            });
        } else if let Some(message) = behaviour.trouble.as_ref().filter(|_| entry.stable != entry.revision) {
            // What is on its disk already runs on; only new revisions meet the trouble.
            exceptions.push(Exception {
                unit: unit.clone(),
                digest: digest.clone(),
                kind: ExceptionKind::LocalTrouble,
                message: message.clone(),
            });
        }
    }
    exceptions
}

/// A span as scripts write it: `500ms`, `30s`, `10m`, `24h`.
pub fn span(text: &str) -> Duration {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().unwrap_or_else(|_| panic!("`{text}` is no duration"));
    match &text[split..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3600),
        other => panic!("`{other}` in `{text}` is no unit of time"),
    }
}
