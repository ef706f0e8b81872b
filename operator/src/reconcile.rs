//! The leader's loop: observe, plan, do. A table of contents; what is decided stands in `sluice-rollout`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sluice_rollout::{Phase, Plan, Snapshot, Time};
use tokio::sync::watch;

use crate::{
    config::Config,
    execute::{self, Hands},
    gates::measure::Gates,
    groups::Groups,
    nodes,
    observe::Observer,
    polls::Reports,
    prune, status,
    writer::WriteError,
};

/// Changes come in bursts; so long is waited for more of them.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// So long the watches may take to show own writes.
const CATCH_UP: Duration = Duration::from_secs(5);
/// After an error of the API server.
const RETRY: Duration = Duration::from_secs(1);
/// Looked at all the same, should a wake-up get lost.
const LATEST: Duration = Duration::from_secs(300);

/// The leader's loop.
#[derive(Debug)]
pub struct Reconciler {
    /// Writes.
    pub hands: Hands,
    /// Measures.
    pub gates: Gates,
    /// What polls found wrong.
    pub reports: watch::Receiver<Reports>,
    observer: Observer,
    groups: Groups,
    group_label: String,
}

impl Reconciler {
    /// Of a replica that has just begun to lead.
    #[must_use]
    pub fn new(hands: Hands, gates: Gates, reports: watch::Receiver<Reports>, config: &Config) -> Self {
        let groups = Groups::new(config);
        Self { hands, gates, reports, observer: Observer::default(), groups, group_label: config.group_label.clone() }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut changes = self.hands.stores.changes();
        let mut conflict_pause = DEBOUNCE;
        loop {
            let started = Instant::now();
            changes.mark_unchanged();
            let next = self.reconcile().await;
            self.hands.writer.metrics().reconciled(started.elapsed().as_secs_f64());
            let pause = match next {
                Ok(wake_at) => {
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
                _ = self.reports.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    /// One round. When to look again at the latest.
    async fn reconcile(&mut self) -> Result<Option<Time>, WriteError> {
        let Hands { stores, writer, clock, .. } = self.hands.clone();
        clock.keep(writer.client()).await;
        writer.caught_up(&stores, CATCH_UP).await;
        let unknown = stores.unknown_groups();
        if !unknown.is_empty() {
            tracing::error!(?unknown, "nothing is decided while a group cannot be read: to the planner it is deleted");
            return Ok(None);
        }
        let samples = self.gates.samples(&stores);
        let snapshot = self.observer.snapshot(&stores, samples, clock.watching_since());
        let plan = sluice_rollout::plan(&snapshot, clock.now());
        let done = execute::effects(&self.hands, &plan.effects).await;
        if done.as_ref().is_err_and(WriteError::is_unanswered) {
            return done.map(|()| None);
        }
        let wanted = self.gates.want(&plan.observe, &writer, &stores).await;
        let members = nodes::ensure(&self.hands, &self.group_label).await;
        let rest = self.rest(&snapshot, &plan).await;
        // One object's trouble is told, and holds up nothing that is not its own.
        [done, wanted, members, rest].into_iter().fold(Ok(()), WriteError::worse).map(|()| plan.wake_at)
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
