//! One group of an attempt: told to run it, nodes have it, gates look, passed.

use std::collections::BTreeMap;

use crate::{
    About, Cause, Event, Group, GroupPhase, GroupProgress, OnGateFailure, Reason, Rollout, RolloutId, Severity, Target,
    Time, UnitId, Waiting, Wanted, newcomers,
    nodes::{self, Nodes},
    start, together, verdict,
    view::View,
};

/// What stops an attempt.
pub(crate) struct Trouble {
    pub(crate) cause: Cause,
    pub(crate) message: String,
    /// Whether it goes back, or stops where it is.
    pub(crate) policy: OnGateFailure,
}

/// What of a group is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// All of it.
    Everything,
    /// Whether its nodes have it: that is what the attempt is paused for.
    Nodes,
    /// Whether a node refuses it: all that matters while a person is to decide.
    Refusals,
}

/// One group of one attempt, on its way to what it should be.
pub(crate) struct GroupStep<'a> {
    pub(crate) view: &'a View<'a>,
    pub(crate) id: &'a RolloutId,
    pub(crate) rollout: &'a Rollout,
    /// Whether it may be entered: every earlier group passed, nobody paused the attempt.
    pub(crate) is_next: bool,
    pub(crate) look: Look,
    /// Since when it could have been entered, but for what holds it.
    pub(crate) held_since: Time,
    /// Whether that goes on.
    pub(crate) held: bool,
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
        if self.progress.phase == GroupPhase::Skipped {
            self.unskip(group);
        }
        match self.progress.phase {
            GroupPhase::Waiting | GroupPhase::Skipped | GroupPhase::Failed => return,
            GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Passed => {}
        }
        // Until the assignment says so, there is nothing to look at.
        let Some(since) = since(self.rollout, group) else { return self.is_told_anew() };
        if self.progress.phase != GroupPhase::Deploying && self.progress.since != since {
            self.is_told_anew();
        }
        let kept = newcomers::kept(self.view, self.rollout, &self.progress, group);
        let nodes = nodes::look(self.view, &self.progress.name, group, &since, self.rollout, &kept);
        if let Some((node, message)) = &nodes.refused {
            let message = format!("{node} refuses it: {message}");
            return self.stop(Cause::Refused, message, group.on_gate_failure);
        }
        if self.progress.phase == GroupPhase::Deploying && self.look != Look::Refusals {
            self.deploy(group, since, &nodes);
        }
        if self.progress.phase == GroupPhase::Verifying && self.look == Look::Everything {
            self.verify(group, &nodes);
        }
    }

    pub(crate) fn say(&mut self, severity: Severity, reason: Reason, note: String) {
        let about = About::Rollout(self.id.clone());
        self.events.push(Event { about, severity, reason, note });
    }

    pub(crate) fn stop(&mut self, cause: Cause, message: String, policy: OnGateFailure) {
        match cause {
            Cause::GateFailed | Cause::Refused | Cause::Shared { .. } => self.progress.phase = GroupPhase::Failed,
            // Whoever retries finds the group as it is.
            Cause::NotApplied
            | Cause::HoldLimit
            | Cause::Person
            | Cause::RolledBack
            | Cause::HeadReturned
            | Cause::Superseded { .. } => {}
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
        let alone = together::kept_apart_by(self.view, self.id, self.rollout, &self.progress.name);
        let alone = alone.map(|rollout| Waiting::Alone { rollout });
        if let Some(waiting) = self.content().or(alone) {
            self.waiting.push(waiting);
            self.held = true;
            return self.hold(self.held_since.after(group.hold_limit), group);
        }
        self.progress.entered_at = Some(self.view.now);
        self.progress.told_at = Some(self.view.now);
        self.progress.behind_since = Some(self.view.now);
        self.progress.phase = GroupPhase::Deploying;
        if !self.skip_if_empty(group) {
            let note = format!("group {} is told to run it", self.progress.name);
            self.say(Severity::Normal, Reason::GroupStarted, note);
        }
    }

    /// A revision whose content nobody can read: its own gates would be passed over.
    pub(crate) fn content(&self) -> Option<Waiting> {
        self.rollout.spec.units.iter().find_map(|change| start::content(self.view, change))
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

    /// One that was left out because nobody was there is judged like any other once somebody is.
    fn unskip(&mut self, group: &Group) {
        let live = group.nodes.values().any(|node| node.live);
        let told = self.progress.entered_at.is_some() && self.look == Look::Everything;
        if !live || !told || together::kept_apart_by(self.view, self.id, self.rollout, &self.progress.name).is_some() {
            return;
        }
        restart(&mut self.progress, self.view.now);
        let note = format!("group {} has live nodes now: it is judged like any other", self.progress.name);
        self.say(Severity::Normal, Reason::GroupStarted, note);
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
            self.progress.behind_since = None;
            if !self.skip_if_empty(group) {
                self.waiting.push(Waiting::NoLiveNodes { group: self.progress.name.clone() });
                self.hold(entered_at.after(group.hold_limit), group);
            }
            return;
        }
        let needs = since.values().copied().max().unwrap_or(0);
        if let Some(nodes::Behind { node, has, says }) = nodes.behind.first().cloned() {
            let until = self.behind_since(group, nodes).after(group.apply_deadline);
            let (live, behind) = (nodes.live, nodes.behind.len());
            let behind = Waiting::Nodes { behind, live, node, has, needs, says };
            let (waiting, what) = match &nodes.trouble {
                Some((node, message)) => {
                    let (node, message) = (node.clone(), message.clone());
                    let what = format!("{node}: {message}");
                    (Waiting::NodeTrouble { node, message, until }, what)
                }
                None => {
                    let what = behind.text(now);
                    (behind, what)
                }
            };
            if now >= until {
                let message = format!("group {} is not ready in time: {what}", self.progress.name);
                self.stop(Cause::NotApplied, message, OnGateFailure::Pause);
            }
            self.wake.push(until);
            self.waiting.push(waiting);
            return;
        }
        self.progress.phase = GroupPhase::Verifying;
        self.progress.behind_since = None;
        if newcomers::are_all(&self.progress, group) {
            self.progress.told_at = Some(now);
        }
        self.progress.since = since;
        self.progress.gates_started_at = Some(now);
        for gate in self.progress.gates.values_mut() {
            // Left from a former round; another number keeps the Jobs of both rounds apart.
            *gate = verdict::start(now, gate.reruns.saturating_add(1));
        }
        let note = format!("group {}: on every live node ({}), its gates start", self.progress.name, nodes.live);
        self.say(Severity::Normal, Reason::GatesStarted, note);
    }

    /// Since when the nodes that are behind could have had it: one that joined later has its own time.
    fn behind_since(&mut self, group: &Group, nodes: &Nodes) -> Time {
        let now = self.view.now;
        // One from the future is a clock that went back.
        let since = self.progress.behind_since.filter(|since| *since <= now).unwrap_or(now);
        self.progress.behind_since = Some(since);
        let joined = nodes.behind.iter().map(|behind| group.nodes.get(&behind.node).and_then(|node| node.joined_at));
        let since_each = joined.map(|joined| joined.map_or(since, |joined| joined.min(now).max(since)));
        since_each.min().unwrap_or(since)
    }

    pub(crate) fn hold(&mut self, limit: Time, group: &Group) {
        self.wake.push(limit);
        if self.view.now >= limit {
            let what = self.waiting.last().map_or_else(String::new, |waiting| waiting.text(self.view.now));
            let hours = group.hold_limit.as_secs() / 3600;
            let message = format!("held for {hours} h: {what}");
            self.stop(Cause::HoldLimit, message, OnGateFailure::Pause);
        }
    }
}

/// Since when a group's assignment has what an attempt is for, per unit; none if it does not.
fn since(rollout: &Rollout, group: &Group) -> Option<BTreeMap<UnitId, u64>> {
    let entries = &group.assignment.as_ref()?.entries;
    let units = rollout.spec.units.iter().map(|change| {
        let entry = entries.get(&change.unit)?;
        let same = Target::from(entry.revision.clone()) == change.target;
        same.then(|| (change.unit.clone(), entry.since))
    });
    units.collect()
}

/// Whether every live node of a group has what an attempt told it to run.
pub(crate) fn has_arrived(view: &View<'_>, rollout: &Rollout, progress: &GroupProgress) -> bool {
    let group = view.group(&progress.name, rollout.spec.environment);
    let Some((group, since)) = group.and_then(|group| Some((group, since(rollout, group)?))) else { return false };
    let kept = newcomers::kept(view, rollout, progress, group);
    let nodes = nodes::look(view, &progress.name, group, &since, rollout, &kept);
    nodes.live > 0 && nodes.behind.is_empty()
}

/// Judges a group anew, from the moment its nodes have what they are told.
pub(crate) fn restart(progress: &mut GroupProgress, now: Time) {
    progress.phase = GroupPhase::Deploying;
    progress.entered_at = Some(now);
    progress.behind_since = Some(now);
    progress.gates_started_at = None;
    progress.since.clear();
}

/// Whether later groups may start.
pub(crate) fn is_done(phase: GroupPhase) -> bool {
    match phase {
        GroupPhase::Passed | GroupPhase::Skipped => true,
        GroupPhase::Waiting | GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Failed => false,
    }
}
