//! One group of an attempt: told to run it, nodes have it, gates look, passed.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    About, Cause, Check, Event, GateProgress, GateRef, Group, GroupPhase, GroupProgress, OnGateFailure, Phase, Reason,
    Rollout, RolloutId, Severity, Target, Time, UnitId, Verdict, Waiting, Wanted,
    gates::{self, Gate},
    nodes::{self, Nodes},
    verdict::{self, Evidence},
    view::View,
};

/// A soak is looked at this often at least; see the longest gap that counts, in `verdict`.
const WATCH_EVERY: Duration = Duration::from_secs(15);

/// What stops an attempt.
pub(crate) struct Trouble {
    pub(crate) cause: Cause,
    pub(crate) message: String,
    /// Whether it goes back, or stops where it is.
    pub(crate) policy: OnGateFailure,
}

/// One group of one attempt, on its way to what it should be.
pub(crate) struct GroupStep<'a> {
    pub(crate) view: &'a View<'a>,
    pub(crate) id: &'a RolloutId,
    pub(crate) rollout: &'a Rollout,
    /// Whether it may be entered: every earlier group passed, nobody paused the attempt.
    pub(crate) is_next: bool,
    pub(crate) progress: GroupProgress,
    pub(crate) events: Vec<Event>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) observe: Vec<Wanted>,
    pub(crate) wake: Vec<Time>,
    pub(crate) trouble: Option<Trouble>,
}

impl GroupStep<'_> {
    /// Goes as far as possible at this moment.
    pub(crate) fn step(&mut self) {
        let Some(group) = self.view.group(&self.progress.name, self.rollout.spec.environment) else {
            return self.deleted();
        };
        if self.progress.phase == GroupPhase::Waiting && self.is_next {
            self.enter(group);
        }
        match self.progress.phase {
            GroupPhase::Waiting | GroupPhase::Skipped | GroupPhase::Failed => return,
            GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Passed => {}
        }
        // Until the assignment says so, there is nothing to look at.
        let Some(since) = self.since(group) else { return self.is_told_anew() };
        if self.progress.phase != GroupPhase::Deploying && self.progress.since != since {
            self.is_told_anew();
        }
        let nodes = nodes::look(&self.progress.name, group, &since, self.rollout);
        if let Some((node, message)) = &nodes.refused {
            let message = format!("{node} refuses it: {message}");
            return self.stop(Cause::Refused, message, group.on_gate_failure);
        }
        if self.progress.phase == GroupPhase::Deploying {
            self.deploy(group, since, &nodes);
        }
        if self.progress.phase == GroupPhase::Verifying {
            self.verify(group, &nodes);
        }
    }

    fn say(&mut self, severity: Severity, reason: Reason, note: String) {
        let about = About::Rollout(self.id.clone());
        self.events.push(Event { about, severity, reason, note });
    }

    fn stop(&mut self, cause: Cause, message: String, policy: OnGateFailure) {
        match cause {
            Cause::GateFailed | Cause::Refused | Cause::Shared { .. } => self.progress.phase = GroupPhase::Failed,
            // Whoever retries finds the group as it is.
            Cause::NotApplied | Cause::HoldLimit | Cause::Person | Cause::HeadReturned | Cause::Superseded { .. } => {}
        }
        self.trouble = Some(Trouble { cause, message, policy });
    }

    fn deleted(&mut self) {
        match self.progress.phase {
            GroupPhase::Passed | GroupPhase::Skipped => {}
            GroupPhase::Waiting | GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Failed => {
                self.progress.phase = GroupPhase::Skipped;
                self.progress.entered_at = None;
                let note = format!("group {} is skipped: it was deleted", self.progress.name);
                self.say(Severity::Warning, Reason::GroupSkipped, note);
            }
        }
    }

    fn enter(&mut self, group: &Group) {
        if let Some(rollout) = self.keeps_apart() {
            self.waiting.push(Waiting::Alone { rollout });
            return;
        }
        self.progress.entered_at = Some(self.view.now);
        self.progress.phase = GroupPhase::Deploying;
        if !self.skip_if_empty(group) {
            let note = format!("group {} is told to run it", self.progress.name);
            self.say(Severity::Normal, Reason::GroupStarted, note);
        }
    }

    /// Another attempt that must not be in this group together with this one.
    fn keeps_apart(&self) -> Option<RolloutId> {
        let alone = self.rollout.spec.alone;
        let others = self
            .view
            .snapshot
            .rollouts
            .iter()
            .filter(|(id, other)| *id != self.id && other.spec.environment == self.rollout.spec.environment);
        let mut others = others.filter(|(id, other)| self.view.has_its_units(id, other));
        let found = others.find(|(_, other)| match other.status.phase {
            // One that is paused keeps nobody waiting: a person may take days.
            Phase::Progressing => {
                (alone && is_in(other, &self.progress.name))
                    || (other.spec.alone && is_in_or_about_to(other, &self.progress.name))
            }
            Phase::Pending | Phase::Paused | Phase::Reverting => false,
            Phase::Succeeded | Phase::Reverted | Phase::Aborted | Phase::Superseded => false,
        });
        found.map(|(id, _)| id.clone())
    }

    fn skip_if_empty(&mut self, group: &Group) -> bool {
        let empty = !group.nodes.values().any(|node| node.live);
        if group.optional && empty {
            self.progress.phase = GroupPhase::Skipped;
            let note = format!("group {} is skipped: it is optional and has no live nodes", self.progress.name);
            self.say(Severity::Normal, Reason::GroupSkipped, note);
        }
        group.optional && empty
    }

    /// Since when the assignment has it, per unit; none if it does not.
    fn since(&self, group: &Group) -> Option<BTreeMap<UnitId, u64>> {
        let entries = &group.assignment.as_ref()?.entries;
        let units = self.rollout.spec.units.iter().map(|change| {
            let entry = entries.get(&change.unit)?;
            let same = Target::from(entry.revision.clone()) == change.target;
            same.then(|| (change.unit.clone(), entry.since))
        });
        units.collect()
    }

    /// What the group runs was or will be written anew: what was seen before says nothing about it.
    fn is_told_anew(&mut self) {
        match self.progress.phase {
            GroupPhase::Verifying | GroupPhase::Passed => {
                restart(&mut self.progress, self.view.now);
                let note = format!("group {}: what it runs was written anew, its gates start over", self.progress.name);
                self.say(Severity::Warning, Reason::GatesRestarted, note);
            }
            GroupPhase::Waiting | GroupPhase::Deploying | GroupPhase::Skipped | GroupPhase::Failed => {}
        }
    }

    fn deploy(&mut self, group: &Group, since: BTreeMap<UnitId, u64>, nodes: &Nodes) {
        let now = self.view.now;
        let entered_at = self.progress.entered_at.unwrap_or(now);
        if nodes.live == 0 {
            if !self.skip_if_empty(group) {
                self.waiting.push(Waiting::NoLiveNodes { group: self.progress.name.clone() });
                self.hold(entered_at.after(group.hold_limit), group);
            }
            return;
        }
        let needs = since.values().copied().max().unwrap_or(0);
        if let Some((node, has)) = nodes.behind.first() {
            let until = entered_at.after(group.apply_deadline);
            let behind =
                Waiting::Nodes { behind: nodes.behind.len(), live: nodes.live, node: node.clone(), has: *has, needs };
            let waiting = match &nodes.trouble {
                Some((node, message)) => Waiting::NodeTrouble { node: node.clone(), message: message.clone(), until },
                None => behind,
            };
            if now >= until {
                let what = match &waiting {
                    Waiting::NodeTrouble { node, message, .. } => format!("{node}: {message}"),
                    other => other.text(now),
                };
                let message = format!("group {} is not ready in time: {what}", self.progress.name);
                self.stop(Cause::NotApplied, message, OnGateFailure::Pause);
            }
            self.wake.push(until);
            self.waiting.push(waiting);
            return;
        }
        self.progress.phase = GroupPhase::Verifying;
        self.progress.since = since;
        self.progress.gates_started_at = Some(now);
        for gate in self.progress.gates.values_mut() {
            // Left from a former round; another number keeps the Jobs of both rounds apart.
            *gate = verdict::start(now, gate.reruns.saturating_add(1));
        }
        let note = format!("group {}: on every live node ({}), its gates start", self.progress.name, nodes.live);
        self.say(Severity::Normal, Reason::GatesStarted, note);
    }

    fn hold(&mut self, limit: Time, group: &Group) {
        self.wake.push(limit);
        if self.view.now >= limit {
            let what = self.waiting.last().map_or_else(String::new, |waiting| waiting.text(self.view.now));
            let hours = group.hold_limit.as_secs() / 3600;
            let message = format!("held for {hours} h: {what}");
            self.stop(Cause::HoldLimit, message, OnGateFailure::Pause);
        }
    }

    fn verify(&mut self, group: &Group, nodes: &Nodes) {
        let now = self.view.now;
        let started_at = self.progress.gates_started_at.unwrap_or(now);
        let gates = gates::of(self.view, group, self.rollout);
        let before = std::mem::take(&mut self.progress.gates);
        let mut longest = Duration::ZERO;
        let mut failed: Option<(&Gate<'_>, String)> = None;
        for gate in &gates {
            let known = before.get(&gate.key).cloned();
            let mut progress = known.unwrap_or_else(|| verdict::start(now, 0));
            self.judge(gate, &mut progress, nodes);
            if let Check::Soak { duration, .. } = gate.check {
                longest = longest.max(*duration);
            }
            if progress.verdict == Verdict::Fail && failed.is_none() {
                failed = Some((gate, format!("{}: {}", gate.key, progress.message)));
            }
            self.progress.gates.insert(gate.key.clone(), progress);
        }
        if let Some((gate, message)) = failed {
            return self.fail(gate, message, group, started_at);
        }
        let passed = self.progress.gates.values().all(|gate| gate.verdict == Verdict::Pass);
        if nodes.live == 0 {
            // Whatever else it waits for, nobody is there to show it.
            self.waiting = vec![Waiting::NoLiveNodes { group: self.progress.name.clone() }];
        } else if passed {
            self.progress.phase = GroupPhase::Passed;
            self.waiting.clear();
            self.observe.clear();
            let note = format!("group {} passed", self.progress.name);
            return self.say(Severity::Normal, Reason::GroupPassed, note);
        }
        self.hold(started_at.after(longest).after(group.hold_limit), group);
    }

    /// Judges one gate, and says what it waits for and what is to be measured.
    fn judge(&mut self, gate: &Gate<'_>, progress: &mut GateProgress, nodes: &Nodes) {
        let at = GateRef {
            rollout: self.id.clone(),
            group: self.progress.name.clone(),
            gate: gate.key.clone(),
            since: self.progress.since.get(&gate.change.unit).copied().unwrap_or(0),
        };
        let now = self.view.now;
        let evidence = Evidence {
            now,
            samples: self.view.snapshot.samples.get(&at).map_or(&[], Vec::as_slice),
            live: nodes.live > 0,
            counts: gates::counts_requests(gate.change),
            job: &gates::job_name(&at, progress.reruns),
        };
        let stored = progress.clone();
        verdict::judge(progress, gate.check, &evidence);
        match gate.check {
            Check::Soak { duration, min_requests } => {
                let left = duration.saturating_sub(progress.watched);
                let until = (!left.is_zero()).then(|| now.after(left));
                self.wake.extend(until);
                self.wake.extend(until.map(|_| now.after(WATCH_EVERY)));
                let requests = min_requests.filter(|_| evidence.counts).map(|min| (progress.requests, min));
                if progress.verdict != Verdict::Pass {
                    self.waiting.push(Waiting::Soak { until, requests });
                }
            }
            Check::ErrorRate { .. } | Check::Prometheus { .. } | Check::Job => {
                if let (Check::Job, Some(failed_at)) = (gate.check, progress.last_sample_at) {
                    self.wake.push(failed_at.after(verdict::RERUN_AFTER));
                }
                if progress.verdict != Verdict::Pass {
                    let message = progress.message.clone();
                    self.waiting.push(Waiting::Gate { gate: gate.key.clone(), message });
                }
            }
        }
        self.observe.extend(wanted(gate, &stored, progress, at, evidence.counts));
    }

    /// A gate failed. One that cannot tell units apart accuses all attempts that were there since it began.
    fn fail(&mut self, gate: &Gate<'_>, message: String, group: &Group, started_at: Time) {
        let others = self.view.snapshot.rollouts.iter();
        let others = others.filter(|(id, other)| {
            *id != self.id
                && other.spec.environment == self.rollout.spec.environment
                && was_in(other, &self.progress.name, started_at)
        });
        let with: Vec<_> = others.map(|(id, _)| id.clone()).collect();
        let cause = match group.on_gate_failure {
            OnGateFailure::Revert if gate.is_shared() && !with.is_empty() => Cause::Shared { with },
            OnGateFailure::Revert | OnGateFailure::Pause => Cause::GateFailed,
        };
        self.stop(cause, message, group.on_gate_failure);
    }
}

/// Judges a group anew, from the moment its nodes have what they are told.
pub(crate) fn restart(progress: &mut GroupProgress, now: Time) {
    progress.phase = GroupPhase::Deploying;
    progress.entered_at = Some(now);
    progress.gates_started_at = None;
    progress.since.clear();
}

/// What is to be measured for a gate. Counters and Jobs go on from what is stored: what is only in this
/// plan is forgotten with it. Answers of queries are offered again until they are stored.
fn wanted(gate: &Gate<'_>, stored: &GateProgress, now: &GateProgress, at: GateRef, counts: bool) -> Option<Wanted> {
    let unit = gate.change.unit.clone();
    let target = gate.change.target.clone();
    match gate.check {
        Check::Soak { min_requests: None, .. } => None,
        Check::Soak { min_requests: Some(_), .. } | Check::ErrorRate { .. } => {
            let revision = target.digest().cloned().filter(|_| counts)?;
            let from = stored.last_sample_at.unwrap_or(stored.started_at);
            Some(Wanted::Counters { gate: at, unit, revision, from })
        }
        Check::Prometheus { interval, range, .. } => {
            let first = now.started_at.after(*range);
            let due = now.last_sample_at.map_or(first, |last| last.after(*interval).max(first));
            Some(Wanted::Query { gate: at, spec: gate.origin.clone(), unit, target, due })
        }
        Check::Job => match stored.verdict {
            Verdict::Running | Verdict::Inconclusive => {
                let name = gates::job_name(&at, now.reruns);
                Some(Wanted::Job { gate: at, spec: gate.origin.clone(), name, unit, target })
            }
            Verdict::Pass | Verdict::Fail => None,
        },
    }
}

/// Whether an attempt is in a group and has not passed it.
fn is_in(rollout: &Rollout, group: &str) -> bool {
    let mut groups = rollout.status.groups.iter();
    groups.any(|progress| {
        let unjudged = match progress.phase {
            GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Failed => true,
            GroupPhase::Waiting | GroupPhase::Passed | GroupPhase::Skipped => false,
        };
        unjudged && progress.name == group
    })
}

/// The same, or it is the group's turn.
fn is_in_or_about_to(rollout: &Rollout, group: &str) -> bool {
    let groups = &rollout.status.groups;
    let Some(order) = groups.iter().find(|progress| progress.name == group).map(|p| p.order) else { return false };
    let mut earlier = groups.iter().filter(|progress| progress.order < order);
    let turn = earlier.all(|progress| is_done(progress.phase));
    let waits = groups.iter().any(|progress| progress.name == group && progress.phase == GroupPhase::Waiting);
    is_in(rollout, group) || (turn && waits)
}

/// Whether an attempt was in a group, unjudged, at some moment after `since`.
fn was_in(rollout: &Rollout, group: &str, since: Time) -> bool {
    let there = match rollout.status.phase {
        Phase::Pending | Phase::Succeeded => false,
        Phase::Progressing | Phase::Paused => true,
        Phase::Reverting | Phase::Reverted | Phase::Aborted | Phase::Superseded => {
            rollout.status.ended_at.is_some_and(|ended_at| ended_at > since)
        }
    };
    there && is_in(rollout, group)
}

/// Whether later groups may start.
pub(crate) fn is_done(phase: GroupPhase) -> bool {
    match phase {
        GroupPhase::Passed | GroupPhase::Skipped => true,
        GroupPhase::Waiting | GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Failed => false,
    }
}
