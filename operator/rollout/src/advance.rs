//! What becomes of a rollout: from what its status says to what it should say.

use std::time::Duration;

use crate::{
    About, Cause, Event, GroupPhase, OnGateFailure, Phase, Reason, Rollout, RolloutId, RolloutStatus, Severity, Time,
    Waiting, Wanted,
    group::{self, GroupStep, Look, Trouble},
    report, revert, rollback,
    view::View,
};

/// Where no group says how long an attempt may hold.
const HOLD_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A rollout on its way to what it should be.
pub(crate) struct Step<'a> {
    pub(crate) view: &'a View<'a>,
    pub(crate) id: &'a RolloutId,
    pub(crate) rollout: &'a Rollout,
    pub(crate) status: RolloutStatus,
    pub(crate) events: Vec<Event>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) observe: Vec<Wanted>,
    pub(crate) wake: Vec<Time>,
}

impl<'a> Step<'a> {
    /// Everything that follows for one rollout at this moment.
    pub(crate) fn of(view: &'a View<'a>, id: &'a RolloutId, rollout: &'a Rollout) -> Self {
        let mut step = Self {
            view,
            id,
            rollout,
            status: rollout.status.clone(),
            events: Vec::new(),
            waiting: Vec::new(),
            observe: Vec::new(),
            wake: Vec::new(),
        };
        match rollout.status.phase {
            Phase::Pending => step.pending(),
            Phase::Progressing | Phase::Paused => step.in_flight(),
            Phase::Reverting => revert::confirm(&mut step),
            Phase::Succeeded => rollback::step(&mut step),
            Phase::Reverted | Phase::Aborted | Phase::Superseded => {}
        }
        report::tell(&mut step);
        step
    }

    /// Says something once the status is stored.
    pub(crate) fn say(&mut self, severity: Severity, reason: Reason, note: String) {
        let about = About::Rollout(self.id.clone());
        self.events.push(Event { about, severity, reason, note });
    }

    /// Ends it without anything to take back.
    pub(crate) fn end(&mut self, phase: Phase, cause: Option<Cause>, message: String) {
        self.status.phase = phase;
        self.status.cause = cause;
        self.status.message = message;
        self.status.ended_at.get_or_insert(self.view.now);
        self.waiting.clear();
        self.observe.clear();
    }

    fn in_flight(&mut self) {
        let mut units = self.rollout.spec.units.iter();
        if let Some(lost) = units.find(|change| self.view.unit(&change.unit).is_none()) {
            // Nobody knows whether it still has its unit: what runs keeps running.
            self.waiting.push(Waiting::UnitMemory { unit: lost.unit.clone() });
            return;
        }
        if !self.view.has_its_units(self.id, self.rollout) {
            return self.superseded();
        }
        if let Some(said) = self.rollout.verbs.abort.clone() {
            let message = format!("aborted by {}: {}", said.by, said.reason);
            return revert::begin(self, Cause::Person, message);
        }
        if let Some(stable) = self.head_returned() {
            let message = format!("the branch went back to {stable}");
            return revert::begin(self, Cause::HeadReturned, message);
        }
        if let Some((accuser, other)) = self.view.accuser(self.id) {
            let message = format!("with {accuser}: {}", other.status.message);
            return revert::begin(self, Cause::Shared { with: vec![accuser.clone()] }, message);
        }
        self.retry();
        if let Some(trouble) = self.walk() {
            return self.stop(trouble);
        }
        self.is_applied();
        self.settle();
    }

    /// Goes on by itself once all nodes have what it was paused for. What had passed by then is looked at
    /// anew: nobody has watched meanwhile.
    fn is_applied(&mut self) {
        let mut groups = self.status.groups.iter();
        let stuck = groups.any(|group| match group.phase {
            GroupPhase::Deploying | GroupPhase::Failed => true,
            GroupPhase::Waiting | GroupPhase::Verifying | GroupPhase::Passed | GroupPhase::Skipped => false,
        });
        if stuck || self.status.cause != Some(Cause::NotApplied) {
            return;
        }
        for progress in &mut self.status.groups {
            if progress.phase == GroupPhase::Verifying && progress.gates_started_at != Some(self.view.now) {
                group::restart(progress, self.view.now);
            }
        }
        self.goes_on("every live node has it: it goes on".to_owned());
    }

    fn goes_on(&mut self, note: String) {
        self.status.phase = Phase::Progressing;
        self.status.cause = None;
        self.status.message = String::new();
        self.status.held_since = None;
        self.say(Severity::Normal, Reason::Resumed, note);
    }

    fn superseded(&mut self) {
        let environment = self.rollout.spec.environment;
        let units = self.rollout.spec.units.iter();
        let mut holders = units.filter_map(|change| self.view.memory(&change.unit, environment).in_flight.clone());
        let by = holders.find(|holder| holder != self.id);
        let taken_back = |by: &RolloutId| {
            let holder = self.view.rollout(by);
            holder.is_some_and(|holder| {
                let mut units = holder.spec.units.iter().map(|change| &change.unit);
                let is_taken = |unit| rollback::is_taken_back(self.view.memory(unit, environment), by, holder, unit);
                holder.status.cause == Some(Cause::RolledBack) || units.any(is_taken)
            })
        };
        let message = match &by {
            Some(by) if taken_back(by) => format!("{by}, on which it was built, is rolled back"),
            Some(by) => format!("superseded by {by}"),
            None => "the unit's memory does not know it".to_owned(),
        };
        self.say(Severity::Normal, Reason::Superseded, message.clone());
        self.end(Phase::Superseded, Some(Cause::Superseded { by }), message);
    }

    /// The stable that the branch went back to.
    fn head_returned(&self) -> Option<String> {
        let environment = self.rollout.spec.environment;
        self.rollout.spec.units.iter().find_map(|change| {
            let wanted = self.view.wanted(&change.unit, environment)?;
            let returned = wanted == self.view.stable(&change.unit, environment) && *wanted != change.target;
            returned.then(|| wanted.short().to_owned())
        })
    }

    fn retry(&mut self) {
        let Some(said) = self.rollout.new_retry().cloned() else { return };
        self.status.retried = Some(said.token);
        if !self.status.awaits_decision() {
            return;
        }
        for progress in &mut self.status.groups {
            match progress.phase {
                GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Failed => {
                    group::restart(progress, self.view.now);
                }
                GroupPhase::Waiting | GroupPhase::Passed | GroupPhase::Skipped => {}
            }
        }
        self.goes_on(format!("its group is judged anew ({}: {})", said.by, said.reason));
    }

    /// What of its groups is looked at: who waits for a person need not measure.
    fn look(&self) -> Look {
        if !self.status.awaits_decision() {
            Look::Everything
        } else if self.status.cause == Some(Cause::NotApplied) {
            Look::Nodes
        } else {
            Look::Refusals
        }
    }

    /// Takes every group as far as it goes; answers with what stops the attempt, worst first.
    pub(crate) fn walk(&mut self) -> Option<Trouble> {
        let may_enter = self.rollout.verbs.pause.is_none() && !self.status.awaits_decision();
        let mut worst: Option<Trouble> = None;
        let mut waiting: Vec<(String, Vec<Waiting>)> = Vec::new();
        let mut held = false;
        for index in 0..self.status.groups.len() {
            let progress = self.status.groups[index].clone();
            // One that runs alone enters a group only when all can see that it is about to.
            let known = if self.rollout.spec.alone { &self.rollout.status.groups } else { &self.status.groups };
            let mut earlier = known.iter().filter(|group| group.order < progress.order);
            let is_next = may_enter && earlier.all(|group| group::is_done(group.phase));
            let mut step = GroupStep {
                view: self.view,
                id: self.id,
                rollout: self.rollout,
                is_next,
                look: self.look(),
                held_since: self.status.held_since.unwrap_or(self.view.now),
                held: false,
                progress,
                events: Vec::new(),
                waiting: Vec::new(),
                observe: Vec::new(),
                wake: Vec::new(),
                trouble: None,
            };
            step.step();
            if !step.waiting.is_empty() {
                waiting.push((step.progress.name.clone(), step.waiting));
            }
            held |= step.held;
            self.status.groups[index] = step.progress;
            self.events.extend(step.events);
            self.observe.extend(step.observe);
            self.wake.extend(step.wake);
            let reverts = |trouble: &Trouble| trouble.policy == OnGateFailure::Revert;
            if let Some(trouble) = step.trouble
                && (worst.is_none() || (reverts(&trouble) && !worst.as_ref().is_some_and(reverts)))
            {
                worst = Some(trouble);
            }
        }
        held |= self.status.groups.iter().all(|group| group.phase == GroupPhase::Skipped);
        self.status.held_since = held.then(|| self.status.held_since.unwrap_or(self.view.now));
        let several = waiting.len() > 1;
        for (group, whats) in waiting {
            self.waiting.extend(whats.into_iter().map(|what| match several {
                true => Waiting::In { group: group.clone(), what: Box::new(what) },
                false => what,
            }));
        }
        worst
    }

    fn stop(&mut self, trouble: Trouble) {
        match trouble.policy {
            OnGateFailure::Revert => revert::begin(self, trouble.cause, trouble.message),
            OnGateFailure::Pause if self.status.awaits_decision() && !self.is_worse(&trouble) => self.settle(),
            OnGateFailure::Pause => {
                self.status.phase = Phase::Paused;
                self.status.cause = Some(trouble.cause);
                self.status.message = trouble.message.clone();
                self.say(Severity::Warning, Reason::Paused, trouble.message);
                self.settle();
            }
        }
    }

    /// Whether it is no longer a matter of time or of nodes.
    fn is_worse(&self, trouble: &Trouble) -> bool {
        let waited = matches!(self.status.cause, Some(Cause::NotApplied | Cause::HoldLimit));
        waited && matches!(trouble.cause, Cause::Refused | Cause::GateFailed)
    }

    /// Every group was left out: that is no success. It begins anew over the groups that there are now; where
    /// these are the same, it waits for somebody to be there.
    fn nobody_looked(&mut self) {
        let (now, environment) = (self.view.now, self.rollout.spec.environment);
        let groups = self.groups();
        let known = |name: &str| {
            let mut known = self.status.groups.iter();
            known.any(|group| group.name == name && group.entered_at.is_some())
        };
        if groups.iter().any(|group| !known(&group.name)) {
            let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
            let note = format!("no group was left to judge it: it begins anew, through {}", names.join(", "));
            self.say(Severity::Warning, Reason::Started, note);
            self.status.groups = groups;
            return;
        }
        let first = groups.first().map(|group| Waiting::NoLiveNodes { group: group.name.clone() });
        let waiting = first.unwrap_or(Waiting::NoGroups { environment });
        let limits = groups.iter().filter_map(|group| Some(self.view.group(&group.name, environment)?.hold_limit));
        let limit = limits.max().unwrap_or(HOLD_LIMIT);
        let until = self.status.held_since.unwrap_or(now).after(limit);
        let text = waiting.text(now);
        self.wake.push(until);
        self.waiting.push(waiting);
        if now >= until {
            let message = format!("held for {} h: {text}", limit.as_secs() / 3600);
            self.stop(Trouble { cause: Cause::HoldLimit, message, policy: OnGateFailure::Pause });
        }
    }

    /// Paused, going on, or done.
    fn settle(&mut self) {
        if self.status.awaits_decision() {
            let why = self.status.message.clone();
            self.waiting = vec![Waiting::Decision { why }];
            return;
        }
        let was_paused = self.status.phase == Phase::Paused;
        if let Some(said) = self.rollout.verbs.pause.clone() {
            if !was_paused {
                let note = format!("paused by {}: {}", said.by, said.reason);
                self.say(Severity::Normal, Reason::Paused, note.clone());
                self.status.message = note;
            }
            self.status.phase = Phase::Paused;
            self.status.cause = Some(Cause::Person);
            self.waiting.insert(0, Waiting::Resume { by: said.by });
            return;
        }
        if was_paused {
            self.say(Severity::Normal, Reason::Resumed, "goes on".to_owned());
        }
        self.status.phase = Phase::Progressing;
        self.status.cause = None;
        self.status.message = String::new();
        let groups = &self.status.groups;
        if !groups.iter().all(|group| group::is_done(group.phase)) {
            return;
        }
        if !groups.iter().any(|group| group.phase == GroupPhase::Passed) {
            return self.nobody_looked();
        }
        let passed = groups.iter().filter(|group| group.phase == GroupPhase::Passed).count();
        self.say(Severity::Normal, Reason::Succeeded, format!("passed {passed} of {} groups", groups.len()));
        self.end(Phase::Succeeded, None, String::new());
    }
}
