//! The leader's loop: observe, plan, do. A table of contents; what is decided stands in `sluice-rollout`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sluice_rollout::{Phase, Plan, Snapshot, Time};
use tokio::sync::watch;

use crate::{
    config::Config,
    evidence::Evidence,
    execute::{self, Hands},
    gates::measure::Gates,
    groups::Groups,
    nodes,
    observe::Observer,
    polls::Reports,
    prune,
    published::{Published, Whole, still_whole},
    status,
    writer::WriteError,
};

/// Changes come in bursts; so long is waited for more of them.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// So long the watches may take to show own writes.
const CATCH_UP: Duration = Duration::from_secs(5);
/// After an error of the API server.
const RETRY: Duration = Duration::from_secs(1);
/// While plans follow each other, what no traffic depends on waits, but no longer than this: a revert that has just been
/// decided is told to the groups first.
const REST_EVERY: Duration = Duration::from_secs(5);
/// Looked at all the same, should a wake-up get lost.
const LATEST: Duration = Duration::from_secs(300);

/// When to look again, at the latest.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Now: what was written is to be followed up.
    Now,
    /// At this time; none: at the next change.
    At(Option<Time>),
}

/// The leader's loop.
#[derive(Debug)]
pub struct Reconciler {
    /// Writes.
    pub hands: Hands,
    /// Measures.
    pub gates: Gates,
    /// Asks what another cluster's staging said.
    pub evidence: Evidence,
    /// What polls found wrong.
    pub reports: watch::Receiver<Reports>,
    /// Which commits' heads are all written.
    pub published: Published,
    observer: Observer,
    groups: Groups,
    group_label: String,
    /// Since when plans follow each other, or since the rest was last looked at meanwhile.
    busy_since: Option<Instant>,
}

impl Reconciler {
    /// Of a replica that has just begun to lead.
    #[must_use]
    pub fn new(
        hands: Hands,
        gates: Gates,
        evidence: Evidence,
        reports: watch::Receiver<Reports>,
        published: Published,
        config: &Config,
    ) -> Self {
        let groups = Groups::new(config);
        let (observer, group_label) = (Observer::default(), config.group_label.clone());
        Self { hands, gates, evidence, reports, published, observer, groups, group_label, busy_since: None }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut changes = self.hands.stores.changes();
        let mut published = self.published.follow();
        let mut conflict_pause = DEBOUNCE;
        loop {
            let started = Instant::now();
            changes.mark_unchanged();
            let next = self.reconcile().await;
            self.hands.writer.metrics().reconciled(started.elapsed().as_secs_f64());
            let pause = match next {
                Ok(Next::Now) => {
                    conflict_pause = DEBOUNCE;
                    continue;
                }
                Ok(Next::At(wake_at)) => {
                    conflict_pause = DEBOUNCE;
                    wake_at.map_or(LATEST, |at| self.hands.clock.until(at).min(LATEST))
                }
                Err(WriteError::Conflict { what }) => {
                    tracing::debug!(what, "planning anew");
                    self.hands.writer.metrics().conflict();
                    // The watches wake it as soon as they have caught up; without that it must not spin.
                    conflict_pause = (conflict_pause * 2).min(CATCH_UP);
                    conflict_pause
                }
                Err(error) => {
                    tracing::warn!(%error, "a write failed");
                    RETRY
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = self.gates.changed() => {}
                () = self.evidence.changed() => {}
                _ = self.reports.changed() => {}
                _ = published.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    /// One round.
    async fn reconcile(&mut self) -> Result<Next, WriteError> {
        let Hands { stores, writer, clock, .. } = self.hands.clone();
        clock.keep(writer.client()).await;
        // What is whole before the watches have caught up, and still is afterwards, is seen whole.
        let whole = self.published.whole();
        let whole = if writer.caught_up(&stores, CATCH_UP).await { whole } else { Whole::new() };
        let unknown = stores.unknown_groups();
        if !unknown.is_empty() {
            tracing::error!(?unknown, "nothing is decided while a group cannot be read: to the planner it is deleted");
            return Ok(Next::At(None));
        }
        let began = Instant::now();
        let (samples, elsewhere) = (self.gates.samples(&stores), self.evidence.known());
        let whole = || still_whole(whole, &self.published.whole());
        let snapshot = self.observer.snapshot(&stores, samples, elsewhere, whole, clock.watching_since());
        let observed = began.elapsed();
        let plan = sluice_rollout::plan(&snapshot, clock.now());
        let planned = began.elapsed() - observed;
        let done = execute::effects(&self.hands, &plan.effects).await;
        if !plan.effects.is_empty() {
            let written = began.elapsed() - observed - planned;
            tracing::debug!(effects = plan.effects.len(), ?observed, ?planned, ?written, "a plan");
        }
        if done.as_ref().is_err_and(WriteError::is_unanswered) {
            return done.map(|()| Next::At(None));
        }
        self.evidence.want(&plan.observe);
        let wanted = self.gates.want(&plan.observe, &writer, &stores).await;
        let members = nodes::ensure(&self.hands, &self.group_label).await;
        let is_measured = wanted.as_ref().is_ok_and(|is_known| *is_known);
        let goes_on = done.is_ok() && (!plan.effects.is_empty() || is_measured);
        let mut rest = Ok(());
        let busy_since = *self.busy_since.get_or_insert_with(Instant::now);
        if !goes_on || busy_since.elapsed() >= REST_EVERY {
            rest = self.rest(&snapshot, &plan).await;
            self.busy_since = goes_on.then(Instant::now);
        }
        // One object's trouble is told, and holds up nothing that is not its own.
        [done, wanted.map(drop), members, rest].into_iter().fold(Ok(()), WriteError::worse)?;
        Ok(if goes_on { Next::Now } else { Next::At(plan.wake_at) })
    }

    /// What no traffic depends on.
    async fn rest(&mut self, snapshot: &Snapshot, plan: &Plan) -> Result<(), WriteError> {
        let Hands { stores, writer, .. } = self.hands.clone();
        let errors = self.groups.ensure(&writer, &stores).await;
        for (group, error) in &errors {
            tracing::debug!(group, %error, "a group is not as it should be");
        }
        let groups = status::groups(&self.hands, snapshot, &errors).await;
        let reports = self.reports.borrow_and_update().clone();
        let units = status::units(&self.hands, snapshot, plan, &reports).await;
        self.count(snapshot);
        let pruned = prune::prune(&self.hands).await;
        [groups, units, pruned].into_iter().fold(Ok(()), WriteError::worse)
    }

    fn count(&self, snapshot: &Snapshot) {
        let mut counts: BTreeMap<(&'static str, Phase), i64> = BTreeMap::new();
        for rollout in snapshot.rollouts.values() {
            *counts.entry((rollout.spec.environment.as_str(), rollout.status.phase)).or_default() += 1;
        }
        let counts = counts.into_iter().map(|((environment, phase), count)| (environment, format!("{phase:?}"), count));
        self.hands.writer.metrics().rollouts(counts);
    }
}
