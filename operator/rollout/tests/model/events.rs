//! What happens around operators: nodes, gates, commits, people, admins.

use sluice_rollout::{
    GateRef, Head, JobState, Node, OnGateFailure, Phase, Queried, QueryOutcome, RolloutId, Said, Sample, Time, UnitId,
};

use super::state::{Job, State};
use crate::sim::parse;

impl State {
    /// A node takes what it is told, and says so.
    pub fn report(&mut self, name: &str, refuses: Option<&UnitId>) -> bool {
        let Some((machine, report)) = self.report_of(name, refuses) else { return false };
        let group = machine.group.clone();
        if self.machines.get(name) == Some(&machine)
            && self.store.groups[&group].nodes[name].report.as_ref() == Some(&report)
        {
            return false;
        }
        for (unit, digest) in &machine.refuses {
            let attempts = self.store.rollouts.iter().filter(|(_, rollout)| {
                let mut changes = rollout.spec.units.iter();
                changes.any(|change| change.unit == *unit && change.target.digest() == Some(digest))
            });
            let attempts: Vec<RolloutId> = attempts.map(|(id, _)| id.clone()).collect();
            self.truth.failed.extend(attempts);
        }
        self.machines.insert(name.to_owned(), machine);
        let version = self.next_version();
        let groups = &mut self.edit().groups;
        let node = groups.get_mut(&group).unwrap().nodes.get_mut(name).unwrap();
        node.report = Some(report);
        node.resource_version = version;
        true
    }

    pub fn job_ends(&mut self, name: String, gate: GateRef, state: JobState) {
        // It was run for the gate that asked first; whoever takes its word later takes another's.
        if !self.jobs.contains_key(&name) {
            self.truly(&gate, !matches!(state, JobState::Failed(_)), state == JobState::Succeeded);
        }
        let job = self.jobs.entry(name).or_insert(Job { state, gates: Default::default() });
        job.gates.insert(gate);
    }

    /// An answer; an early one looks back to before the gate's start.
    pub fn answer(&mut self, gate: GateRef, fails: bool, early: bool) {
        let at = self.now();
        let from = if early { Time(at.0 - 3_600_000) } else { at };
        if !early {
            self.truly(&gate, !fails, !fails);
        }
        let outcome = QueryOutcome::Value { fails, shown: "0.1".to_owned() };
        self.answers.insert(gate, Sample::Queried(Queried { from, at, outcome }));
    }

    /// What a gate's word is worth: a pass counts for what every live node ran by then.
    fn truly(&mut self, gate: &GateRef, well: bool, passes: bool) {
        if !well {
            self.truth.failed.insert(gate.rollout.clone());
            return;
        }
        let Some(rollout) = self.store.rollouts.get(&gate.rollout).filter(|_| passes) else { return };
        let assignment = self.store.groups.get(&gate.group).and_then(|group| group.assignment.as_ref());
        let Some(assignment) = assignment else { return };
        let all = rollout.spec.units.iter().all(|change| {
            let entry = assignment.entries.get(&change.unit);
            let same = entry.and_then(|entry| entry.revision.as_ref()) == change.target.digest();
            let since = entry.map_or(0, |entry| entry.since);
            let ran = self.truth.ran.get(&(gate.group.clone(), change.unit.clone()));
            same && (entry.is_none() || ran.is_some_and(|ran| ran.since == since && ran.ran.is_some()))
        });
        let since = rollout.spec.units.iter().filter_map(|change| Some(assignment.entries.get(&change.unit)?.since));
        if all && since.max().unwrap_or(0) == gate.since {
            self.truth.passes.insert(gate.clone());
        }
    }

    /// `production a:v2`. Answers whether the branch wants something else now.
    pub fn push(&mut self, line: &str) -> bool {
        let (environment, word) = line.split_once(' ').unwrap();
        let environment = parse::environment(environment);
        let (unit, target) = parse::target(word);
        if let Some(Head::Wants { target: known, .. }) = self.store.units[&unit].heads.get(&environment)
            && *known == target
        {
            return false;
        }
        let version = self.next_version();
        let store = self.edit();
        if let Some(digest) = target.digest() {
            store.revisions.entry(digest.clone()).or_default();
        }
        let known = store.units.get_mut(&unit).unwrap();
        known.resource_version = version;
        let (commit, author) = (word.to_owned(), "ada".to_owned());
        known.heads.insert(environment, Head::Wants { target, commit, author, together: None });
        true
    }

    pub fn said(&mut self, verb: &str, id: &RolloutId) {
        let version = self.next_version();
        let said = Some(Said { token: version.clone(), by: "grace".into(), reason: "because".into() });
        let rollout = self.edit().rollouts.get_mut(id).unwrap();
        rollout.resource_version = version;
        let over = rollout.status.phase.is_over();
        match verb {
            "pause" => rollout.verbs.pause = said,
            "resume" => rollout.verbs.pause = None,
            "abort" => rollout.verbs.abort = said,
            "retry" => rollout.verbs.retry = said,
            "approve" => rollout.verbs.approve = said,
            "rollback" => rollout.verbs.rollback = said,
            other => panic!("`{other}` is no verb"),
        }
        match verb {
            "abort" | "rollback" => drop(self.truth.failed.insert(id.clone())),
            "retry" if over => self.truth.rejected.retain(|_, by| by != id),
            _ => {}
        }
    }

    /// Whether a person may say this of a rollout.
    pub fn may_say(&self, verb: &str, id: &RolloutId) -> bool {
        let rollout = &self.store.rollouts[id];
        let (verbs, phase) = (&rollout.verbs, rollout.status.phase);
        match verb {
            "pause" => verbs.pause.is_none() && !phase.is_over() && phase != Phase::Reverting,
            "resume" => verbs.pause.is_some() && !phase.is_over(),
            "abort" => verbs.abort.is_none() && !phase.is_over() && phase != Phase::Reverting,
            "approve" => verbs.approve.is_none() && phase == Phase::Pending,
            "retry" => matches!(phase, Phase::Reverted | Phase::Aborted) && verbs.retry.is_none(),
            "rollback" => verbs.rollback.is_none() && phase == Phase::Succeeded,
            other => panic!("`{other}` is no verb"),
        }
    }

    /// `lose g1`: its assignment; `delete g1`; `create g3 production 30 n3`; `order g1 30`; `pauses g1`.
    pub fn edited(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split(' ').collect();
        let known = self.store.groups.contains_key(words[1]);
        let groups = &mut self.edit().groups;
        match words.as_slice() {
            ["lose", name] if known => groups.get_mut(*name).unwrap().assignment.take().is_some(),
            ["delete", name] => groups.remove(*name).is_some(),
            ["order", name, order] if known => {
                let order = order.parse().unwrap();
                std::mem::replace(&mut groups.get_mut(*name).unwrap().order, order) != order
            }
            ["pauses", name] if known => {
                let group = groups.get_mut(*name).unwrap();
                std::mem::replace(&mut group.on_gate_failure, OnGateFailure::Pause) != OnGateFailure::Pause
            }
            ["create", name, order, node] if !known => {
                let Some(like) = groups.values().next().cloned() else { return false };
                let mut group = sluice_rollout::Group { assignment: None, order: order.parse().unwrap(), ..like };
                group.nodes = [((*node).to_owned(), new_node(None))].into();
                groups.insert((*name).to_owned(), group);
                true
            }
            _ => false,
        }
    }

    /// `down n1`, `up n1`, `leaves n1`, `joins n4 g1` (a new one, or from another group).
    pub fn churned(&mut self, line: &str) -> bool {
        let (now, version) = (self.now(), self.next_version());
        let words: Vec<&str> = line.split(' ').collect();
        let name = words[1];
        let groups = &mut self.edit().groups;
        let at = groups.iter().find(|(_, group)| group.nodes.contains_key(name)).map(|(group, _)| group.clone());
        match (words.as_slice(), at) {
            ([verb @ ("down" | "up"), _], Some(at)) => {
                let node = groups.get_mut(&at).unwrap().nodes.get_mut(name).unwrap();
                node.resource_version = version;
                std::mem::replace(&mut node.live, *verb == "up") != (*verb == "up")
            }
            (["leaves", _], Some(at)) if groups[&at].nodes.len() > 1 => {
                groups.get_mut(&at).unwrap().nodes.remove(name).is_some()
            }
            (["joins", _, to], at) if at.as_deref() != Some(*to) && groups.contains_key(*to) => {
                if at.as_ref().is_some_and(|at| groups[at].nodes.len() < 2) {
                    return false;
                }
                let moved = at.and_then(|at| groups.get_mut(&at).unwrap().nodes.remove(name));
                let report = moved.and_then(|node| node.report);
                let node = Node { resource_version: version, report, ..new_node(Some(now)) };
                groups.get_mut(*to).unwrap().nodes.insert(name.to_owned(), node);
                true
            }
            _ => false,
        }
    }
}

fn new_node(joined_at: Option<Time>) -> Node {
    Node { live: true, report: None, resource_version: String::new(), joined_at, keeps_stable: Default::default() }
}
