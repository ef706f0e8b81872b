//! A rollout that has not started: it starts, waits, or is over before it began.

use std::collections::BTreeMap;

use crate::{
    Cause, GroupPhase, GroupProgress, Phase, Reason, Rejection, RolloutId, Severity, advance::Step, start, wish,
};

impl Step<'_> {
    /// Starts it once it has its units; until then, says what it waits for.
    pub(crate) fn pending(&mut self) {
        if self.view.has_its_units(self.id, self.rollout) {
            self.start();
            if !self.somebody_runs_alone() && self.rollout.verbs.abort.is_none() {
                // Straight on: a group goes from the attempt that this one replaces to this one.
                let stopped = self.walk();
                debug_assert!(stopped.is_none(), "what has just been told cannot have failed");
            }
            return;
        }
        if let Some(said) = self.rollout.verbs.abort.clone() {
            if self.is_rejected() {
                let message = format!("aborted by {}: {}", said.by, said.reason);
                self.say(Severity::Normal, Reason::Aborted, message.clone());
                self.end(Phase::Aborted, Some(Cause::Person), message);
            }
            return;
        }
        if let Some(message) = self.is_forbidden().or_else(|| self.is_elsewhere()) {
            self.say(Severity::Normal, Reason::Superseded, message.clone());
            return self.end(Phase::Superseded, Some(Cause::Superseded { by: None }), message);
        }
        if let Some(by) = self.is_overtaken() {
            let message = by.as_ref().map_or_else(
                || "the branch went back to what runs".to_owned(),
                |by| format!("superseded by {by} before it started"),
            );
            self.say(Severity::Normal, Reason::Superseded, message.clone());
            return self.end(Phase::Superseded, Some(Cause::Superseded { by }), message);
        }
        self.waiting.extend(start::queue(self.view, self.id, self.rollout));
        self.waiting.extend(start::blockers(self.view, self.id, self.rollout));
        self.observe.extend(start::to_ask(self.view, self.rollout));
    }

    /// Whether the units' memory holds it as rejected: only then may it end, else it would be made anew.
    fn is_rejected(&self) -> bool {
        let environment = self.rollout.spec.environment;
        self.rollout.spec.units.iter().all(|change| {
            let rejected = &self.view.memory(&change.unit, environment).rejected;
            rejected.get(&change.target).is_some_and(|rejection| rejection.by == *self.id)
        })
    }

    /// Whether another attempt at the same failed. One that saw too little to know of that made this.
    fn is_forbidden(&self) -> Option<String> {
        let environment = self.rollout.spec.environment;
        let wishes = self.rollout.spec.units.iter().filter_map(|c| wish::of(self.view, &c.unit, environment).ok()?);
        let mut same = wishes.filter(|wish| wish.changes == self.rollout.spec.units);
        same.find_map(|wish| {
            let (change, Rejection { by, .. }) = wish.rejected(self.view, environment)?;
            (by != self.id).then(|| format!("{} was rejected by {by} before it started", change.target.short()))
        })
    }

    /// Whether it is for another cluster to try. One that was made while this cluster still had a staging is left over.
    fn is_elsewhere(&self) -> Option<String> {
        let environment = self.rollout.spec.environment;
        let mut units = self.rollout.spec.units.iter();
        let elsewhere = units.any(|change| start::is_elsewhere(self.view, &change.unit, environment));
        elsewhere.then(|| format!("{environment} of its Repository is another cluster: nothing is tried here"))
    }

    /// Whether the branch moved on, and to which attempt.
    fn is_overtaken(&self) -> Option<Option<RolloutId>> {
        let environment = self.rollout.spec.environment;
        for change in &self.rollout.spec.units {
            let Ok(Some(wish)) = wish::of(self.view, &change.unit, environment) else { continue };
            let newest = wish.last_attempt(self.view, environment);
            if wish.changes == self.rollout.spec.units {
                // Two attempts at one target: the newest is it.
                if newest.is_some_and(|(id, _)| id != self.id) {
                    return newest.map(|(id, _)| Some(id.clone()));
                }
                continue;
            }
            let nothing_follows = !wish.changes(&change.unit) || wish.rejected(self.view, environment).is_some();
            let newest = newest.filter(|(_, rollout)| !rollout.status.phase.is_over());
            match newest {
                Some((id, _)) => return Some(Some(id.clone())),
                None if nothing_follows => return Some(None),
                // Its successor is about to be created; wait, to be able to name it.
                None => {}
            }
        }
        None
    }

    /// Whether this or any other attempt keeps groups to itself. Then groups are entered only in a plan in
    /// which all see that this one has started.
    fn somebody_runs_alone(&self) -> bool {
        self.view.alone().any(|(_, rollout)| rollout.spec.environment == self.rollout.spec.environment)
    }

    /// Leaves Pending.
    fn start(&mut self) {
        let environment = self.rollout.spec.environment;
        let groups = self.groups();
        let units = self.rollout.spec.units.iter();
        self.status.stable = units
            .map(|change| (change.unit.clone(), self.view.stable_digest(&change.unit, environment).cloned()))
            .collect();
        self.status.phase = Phase::Progressing;
        self.status.started_at = Some(self.view.now);
        let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
        self.say(Severity::Normal, Reason::Started, format!("goes through {}", names.join(", ")));
        self.status.groups = groups;
        let units = &self.rollout.spec.units;
        let lacks = units.iter().any(|change| start::lacks_evidence(self.view, change, environment));
        if let (true, Some(said)) = (lacks, self.rollout.verbs.approve.clone()) {
            let note = format!("has not passed staging; {} starts it all the same: {}", said.by, said.reason);
            self.say(Severity::Warning, Reason::EvidenceOverridden, note);
        }
    }

    /// The groups that there are now, in order, none of them entered.
    pub(crate) fn groups(&self) -> Vec<GroupProgress> {
        let environment = self.rollout.spec.environment;
        let groups = self.view.snapshot.groups.iter();
        let mut groups: Vec<_> = groups
            .filter(|(_, group)| group.environment == environment)
            .map(|(name, group)| GroupProgress {
                name: name.clone(),
                order: group.order,
                phase: GroupPhase::Waiting,
                entered_at: None,
                told_at: None,
                behind_since: None,
                since: BTreeMap::new(),
                gates_started_at: None,
                gates: BTreeMap::new(),
            })
            .collect();
        groups.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
        groups
    }
}
