//! The control loop: the one owner of what this node wants, has loaded, and has in force.
//!
//! Inputs come in over one channel (assignments, finished loads, finished writes); each batch of
//! them is followed by one [`Control::step`]: start what must be loaded, decide, swap, save, report.
//! A step does no I/O and awaits nothing, so a revert, whose revision is loaded already, is in force
//! within the step that its watch event causes.

mod loads;
mod saver;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_chain::Runtime;
use sluice_config::{Digest, Environment, Exception, NodeReport, Revision, UnitKind, UnitRef};
use tokio::sync::{mpsc, watch};

use crate::{
    cache::Cache,
    decide::{self, Decision, Inputs, Key},
    desired::{Accepted, Desired, Want},
    load::{LoadError, Loaded, Loader},
    logging,
    metrics::Metrics,
    report::{self, Identity},
    snapshot::{self, InForce, Member, Retired},
};
use loads::{Loads, Place};
use saver::Saver;

/// What the control loop is told.
pub(crate) enum Input {
    /// An assignment, from the API server or a file.
    Assignment(Accepted),
    /// There is one, but it cannot be read.
    AssignmentTrouble(String),
    /// Units that this node keeps on stable.
    KeepStable(BTreeSet<UnitRef>),
    /// A load found out what its revision says.
    Known(Key, Arc<Revision>),
    /// A load ended.
    Loaded(Key, Result<Loaded, LoadError>),
    /// A load was broken off: nobody wants its revision any more.
    GivenUp,
    /// A write of the state file ended.
    Saved(Result<(), String>),
    /// The disk cache was swept.
    Swept(Result<(), String>),
}

/// Units without anything to run hold up the first snapshot for so long; then the rest is served, and those answer as
/// their `onFailure` says.
const PATIENCE: Duration = Duration::from_secs(60);
/// While more is being loaded, making snapshots takes at most one in so many parts of the time: each goes over all units,
/// and a thousand may come one by one.
const SWAP_SHARE: u32 = 10;
/// Replaced snapshots, ended series and instances that wait are looked after this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// What the loop works with.
pub(crate) struct Parts {
    pub(crate) who: Identity,
    pub(crate) cache: Arc<Cache>,
    pub(crate) loader: Arc<Loader>,
    pub(crate) runtime: Runtime,
    pub(crate) in_force: InForce,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) reports: watch::Sender<NodeReport>,
}

/// What the snapshot in force was made from.
type Fingerprint = (Environment, Vec<String>, BTreeMap<UnitRef, (Digest, bool)>);

pub(crate) struct Control {
    parts: Parts,
    desired: Desired,
    loads: Loads,
    saver: Saver,
    /// What is in force, or was before the restart.
    current: BTreeMap<UnitRef, Digest>,
    fingerprint: Option<Fingerprint>,
    /// What the snapshot in force could not give effect to.
    warnings: Vec<(UnitRef, String)>,
    retired: Retired,
    accepted_at: Instant,
    started_at: Instant,
    /// Newest generation all of whose entries were dealt with and that is on disk.
    applied_generation: u64,
    assignment_error: Option<String>,
    look_again: Option<Instant>,
    /// What is new waits until then for what is still being loaded, to be swapped in together.
    swap_after: Instant,
    sweep_after: Instant,
}

impl Control {
    /// A loop that loads and saves through `inputs`.
    pub(crate) fn new(parts: Parts, inputs: mpsc::Sender<Input>) -> Self {
        let now = Instant::now();
        Self {
            loads: Loads::new(Arc::clone(&parts.loader), inputs.clone()),
            saver: Saver::new(Arc::clone(&parts.cache), Arc::clone(&parts.loader), inputs),
            parts,
            desired: Desired::default(),
            current: BTreeMap::new(),
            fingerprint: None,
            warnings: Vec::new(),
            retired: Retired::default(),
            accepted_at: now,
            started_at: now,
            applied_generation: 0,
            assignment_error: None,
            look_again: None,
            swap_after: now,
            sweep_after: now,
        }
    }

    /// Runs until nobody sends inputs any more.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        self.restore();
        loop {
            self.step(Instant::now());
            let wake = self.next_wake();
            tokio::select! {
                input = inputs.recv() => {
                    let Some(input) = input else { return };
                    self.take(input);
                    while let Ok(more) = inputs.try_recv() {
                        self.take(more);
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Starts from what is on disk: the API server may be away.
    fn restore(&mut self) {
        let Some(saved) = self.parts.cache.state() else { return };
        match self.desired.accept(saved.accepted.clone()) {
            Ok(_) => {
                tracing::info!(
                    generation = self.desired.generation(),
                    units = saved.running.len(),
                    "starting from the assignment on disk"
                );
                self.desired.keep_stable(saved.keep_stable.iter().cloned().collect());
                self.current = saved.running.iter().cloned().collect();
                self.saver.restored(saved);
            }
            Err(error) => tracing::warn!(%error, "the assignment on disk is of no use"),
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Assignment(new) => self.take_assignment(new),
            Input::AssignmentTrouble(error) => {
                tracing::warn!(error, "what runs keeps running");
                self.assignment_error = Some(error);
            }
            Input::KeepStable(units) => {
                if self.desired.keep_stable(units) {
                    tracing::info!(units = self.desired.kept_stable().len(), "units kept on stable changed");
                    self.accepted_at = Instant::now();
                }
            }
            Input::Known(key, revision) => self.loads.known(&key, revision),
            Input::Loaded(key, result) => {
                if !self.loads.ended(&key, result, Instant::now()) {
                    self.saver.left_behind();
                }
            }
            Input::GivenUp => {
                self.loads.given_up();
                self.saver.left_behind();
            }
            Input::Saved(result) => self.saver.ended(result, Instant::now()),
            Input::Swept(result) => self.saver.swept(result, Instant::now()),
        }
    }

    fn take_assignment(&mut self, new: Accepted) {
        let generation = new.assignment.generation;
        match self.desired.accept(new) {
            Ok(changed) => {
                self.assignment_error = None;
                if changed {
                    tracing::info!(generation, "assignment accepted");
                    self.accepted_at = Instant::now();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "assignment not taken; what runs keeps running");
                self.assignment_error = Some(error.to_string());
            }
        }
    }

    fn step(&mut self, now: Instant) {
        let wants = self.desired.wants();
        let needs = decide::needs(&wants, &self.current);
        self.loads.keep_only(&needs);
        if let Some(accepted) = self.desired.accepted().filter(|_| !self.saver.is_sweeping()) {
            self.loads.start(&needs, accepted.assignment.environment, now);
        }
        let decision = self.decide(&wants, now);
        self.look_again = decision.look_again;
        if self.swap(&wants, &decision, now) {
            self.save(&decision, &needs, now);
        }
        self.publish(decision.exceptions);
        self.retired.sweep(now);
        self.sweep_instances(now);
        self.parts.metrics.end_unused(now);
    }

    fn decide(&self, wants: &BTreeMap<UnitRef, Want>, now: Instant) -> Decision {
        let Some(place) = self.place() else { return Decision::default() };
        decide::decide(&Inputs {
            wants,
            progress: &|unit, digest| self.loads.progress(unit, digest, &place, now),
            current: &self.current,
            fresh: self.fingerprint.is_none(),
            accepted_at: self.accepted_at,
            now,
        })
    }

    fn place(&self) -> Option<Place<'_>> {
        let assignment = &self.desired.accepted()?.assignment;
        Some(Place { stages: &assignment.stages, environment: assignment.environment })
    }

    /// Puts the decision in force, if it differs from what is. Whether it is in force.
    fn swap(&mut self, wants: &BTreeMap<UnitRef, Want>, decision: &Decision, now: Instant) -> bool {
        let Some(accepted) = self.desired.accepted() else { return false };
        let members = self.members(wants, decision);
        if self.fingerprint.is_none() && !self.may_begin(wants, decision, &members, now) {
            return false;
        }
        let (environment, stages) = (accepted.assignment.environment, accepted.assignment.stages.clone());
        let summary = members.iter().map(|(u, m)| (u.clone(), (m.digest.clone(), m.code.is_ok()))).collect();
        let fingerprint = (environment, stages, summary);
        if self.fingerprint.as_ref() != Some(&fingerprint) {
            let generation = accepted.assignment.generation;
            let is_revert = self.goes_back(wants, &fingerprint);
            let more_comes = self.fingerprint.is_some() && !self.loads.none_in_flight();
            if more_comes && !is_revert && !self.takes_away(&fingerprint) && now < self.swap_after {
                self.look_again = Some(self.look_again.map_or(self.swap_after, |at| at.min(self.swap_after)));
                return false;
            }
            let began = Instant::now();
            let (snapshot, warnings) = snapshot::build(&self.parts.runtime, environment, &fingerprint.1, &members);
            self.swap_after = now + began.elapsed() * SWAP_SHARE;
            if let Some(old) = self.parts.in_force.swap(Some(snapshot)) {
                self.retired.push(old, is_revert, now);
            }
            tracing::info!(
                generation,
                units = members.len(),
                after_us = logging::micros(now.duration_since(self.accepted_at)),
                retired = self.retired.len(),
                "snapshot in force"
            );
            for warning in &warnings {
                tracing::warn!(unit = %warning.unit, message = warning.message, "without effect");
            }
            self.warnings = warnings.into_iter().map(|w| (w.unit, w.message)).collect();
            self.fingerprint = Some(fingerprint);
            self.parts.ready.send_replace(true);
        }
        // A unit of which nothing is loaded yet keeps its last good revision in mind.
        self.current = wants
            .iter()
            .filter(|(_, want)| want.run.is_some())
            .filter_map(|(unit, _)| {
                let digest = decision.running.get(unit).or(self.current.get(unit))?;
                Some((unit.clone(), digest.clone()))
            })
            .collect();
        true
    }

    /// Whether a unit goes from something else to its stable revision.
    fn goes_back(&self, wants: &BTreeMap<UnitRef, Want>, to: &Fingerprint) -> bool {
        self.fingerprint.iter().flat_map(|(_, _, served)| served).any(|(unit, (from, _))| {
            let stable = wants.get(unit).and_then(|want| want.stable.as_ref());
            to.2.get(unit).is_some_and(|(digest, _)| digest != from && Some(digest) == stable)
        })
    }

    /// Whether a unit that serves would be gone.
    fn takes_away(&self, to: &Fingerprint) -> bool {
        self.fingerprint.iter().flat_map(|(_, _, served)| served.keys()).any(|unit| !to.2.contains_key(unit))
    }

    /// What the decision puts in force.
    fn members(&self, wants: &BTreeMap<UnitRef, Want>, decision: &Decision) -> BTreeMap<UnitRef, Member> {
        let mut members = BTreeMap::new();
        for (unit, digest) in &decision.running {
            if let Some(loaded) = self.loads.loaded(unit, digest) {
                let (revision, code) = (Arc::clone(&loaded.revision), Ok(loaded.code.clone()));
                members.insert(unit.clone(), Member { digest: digest.clone(), revision, code });
            }
        }
        for (unit, digest) in &decision.not_loaded {
            // What serves goes on without a unit that is new here and on its way; a start does not.
            let is_new = self.fingerprint.as_ref().is_some_and(|(_, _, served)| !served.contains_key(unit));
            if is_new && self.loads.is_loading(unit, digest) {
                continue;
            }
            // Any revision of it tells which requests it guards, and what they get while it is not there.
            let run = wants.get(unit).and_then(|want| want.run.as_ref());
            let known = [Some(digest), self.current.get(unit), run].into_iter().flatten().find_map(|digest| {
                let (revision, why) = self.loads.without_code(unit, digest, &self.place()?)?;
                Some(Member { digest: digest.clone(), revision, code: Err(why) })
            });
            members.extend(known.map(|member| (unit.clone(), member)));
        }
        members
    }

    /// The first snapshot waits until every unit runs what it should, or what it ran before the
    /// restart: a new pod is not ready without a worker that others have, and a restart does not
    /// show an older revision for a moment. But not for ever, unless it is unknown which requests a
    /// proven worker guards: then none is served, and the pod before this one goes on.
    fn may_begin(
        &self,
        wants: &BTreeMap<UnitRef, Want>,
        decision: &Decision,
        members: &BTreeMap<UnitRef, Member>,
        now: Instant,
    ) -> bool {
        let complete = wants.iter().filter(|(_, want)| want.run.is_some()).all(|(unit, want)| {
            let runs = decision.running.get(unit);
            runs.is_some() && (runs == want.run.as_ref() || runs == self.current.get(unit))
        });
        let guarded = || decision.not_loaded.keys().all(|u| u.kind != UnitKind::Worker || members.contains_key(u));
        complete
            || (decision.settled && decision.not_loaded.is_empty())
            || (now >= self.started_at + PATIENCE && guarded())
    }

    fn save(&mut self, decision: &Decision, needs: &BTreeSet<Key>, now: Instant) {
        let Some(accepted) = self.desired.accepted() else { return };
        if self.fingerprint.is_none() {
            return;
        }
        let saved = self.saver.save(accepted, &self.current, self.desired.kept_stable(), now);
        if !saved {
            return;
        }
        if decision.settled {
            self.applied_generation = accepted.assignment.generation;
        }
        if self.loads.none_in_flight() {
            self.saver.sweep(needs, self.loads.artifacts(), now);
        }
    }

    /// Of workers that nobody calls any more.
    fn sweep_instances(&mut self, now: Instant) {
        if now < self.sweep_after {
            return;
        }
        self.sweep_after = now + HOUSEKEEPING;
        if let Some(snapshot) = self.parts.in_force.load_full() {
            // Nobody waits for it: it frees memory and ends.
            drop(tokio::task::spawn_blocking(move || snapshot.sweep(now)));
        }
    }

    fn publish(&self, mut exceptions: Vec<Exception>) {
        for (unit, message) in &self.warnings {
            let excepted =
                exceptions.iter().any(|e| (e.kind, &e.namespace, &e.name) == (unit.kind, &unit.namespace, &unit.name));
            if let Some(revision) = self.current.get(unit).filter(|_| !excepted) {
                exceptions.push(Exception {
                    kind: unit.kind,
                    namespace: unit.namespace.clone(),
                    name: unit.name.clone(),
                    revision: revision.clone(),
                    reason: sluice_config::ExceptionKind::Refused,
                    message: message.clone(),
                });
            }
        }
        let last_error = self.assignment_error.clone().or_else(|| self.saver.error());
        self.parts.metrics.set_state(self.applied_generation, exceptions.len());
        let report = report::report(&self.parts.who, self.applied_generation, &exceptions, last_error);
        self.parts.reports.send_if_modified(|old| {
            let changed = *old != report;
            *old = report;
            changed
        });
    }

    fn next_wake(&self) -> Instant {
        // Nothing is loaded during a sweep, due or not.
        let load_at = if self.saver.is_sweeping() { None } else { self.loads.next_retry() };
        let soonest = [self.look_again, load_at, self.saver.next_retry()];
        let housekeeping = Instant::now() + HOUSEKEEPING;
        soonest.into_iter().flatten().fold(housekeeping, Instant::min)
    }
}

#[cfg(test)]
mod tests;
