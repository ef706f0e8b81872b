//! Keeps the state file and the disk cache as the control loop wants them, one write at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_config::{Digest, UnitRef};
use tokio::sync::mpsc;

use super::Input;
use crate::{
    backoff::Backoff,
    cache::{Cache, SavedState},
    decide::Key,
    desired::Accepted,
    load::Loader,
    logging,
};

pub(super) struct Saver {
    cache: Arc<Cache>,
    loader: Arc<Loader>,
    to: mpsc::Sender<Input>,
    /// What is on disk.
    saved: Option<SavedState>,
    /// What is being written.
    saving: Option<SavedState>,
    error: Option<String>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    sweeping: bool,
    /// What the last sweep kept.
    swept: Option<BTreeSet<Digest>>,
    /// After one that failed.
    sweep_at: Option<Instant>,
}

/// After a sweep that failed.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

impl Saver {
    pub(super) fn new(cache: Arc<Cache>, loader: Arc<Loader>, to: mpsc::Sender<Input>) -> Self {
        Self {
            cache,
            loader,
            to,
            saved: None,
            saving: None,
            error: None,
            backoff: Backoff::new(),
            retry_at: None,
            sweeping: false,
            swept: None,
            sweep_at: None,
        }
    }

    pub(super) fn restored(&mut self, state: SavedState) {
        self.saved = Some(state);
    }

    /// Writes the state unless it is on disk already; true if it is.
    pub(super) fn save(
        &mut self,
        accepted: &Accepted,
        running: &BTreeMap<UnitRef, Digest>,
        keep_stable: &BTreeSet<UnitRef>,
        now: Instant,
    ) -> bool {
        let state = SavedState {
            accepted: accepted.clone(),
            running: running.iter().map(|(u, d)| (u.clone(), d.clone())).collect(),
            keep_stable: keep_stable.iter().cloned().collect(),
        };
        if self.saving.is_some() {
            return false;
        }
        if self.saved.as_ref() == Some(&state) {
            // What could not be written is not wanted any more.
            self.retry_at = None;
            self.error = None;
            self.backoff = Backoff::new();
            return true;
        }
        if self.retry_at.is_some_and(|at| at > now) {
            return false;
        }
        self.retry_at = None;
        self.saving = Some(state.clone());
        let (cache, to) = (Arc::clone(&self.cache), self.to.clone());
        drop(tokio::task::spawn_blocking(move || {
            let result = cache.put_state(&state).map_err(|e| e.to_string());
            let _gone = to.blocking_send(Input::Saved(result));
        }));
        false
    }

    pub(super) fn ended(&mut self, result: Result<(), String>, now: Instant) {
        let state = self.saving.take();
        match result {
            Ok(()) => {
                self.saved = state;
                self.error = None;
                self.backoff = Backoff::new();
            }
            Err(error) => {
                let wait = self.backoff.next_wait();
                tracing::warn!(
                    error,
                    retry_ms = logging::millis(wait),
                    "cannot write the state: a restart would go back"
                );
                self.error = Some(error);
                self.retry_at = Some(now + wait);
            }
        }
    }

    /// Removes from disk what nothing needs. Only called while nothing is being loaded, and nothing
    /// is loaded until it is done: it cannot remove what a load has just written.
    pub(super) fn sweep(&mut self, needs: &BTreeSet<Key>, artifacts: BTreeMap<Digest, Option<Digest>>, now: Instant) {
        let revisions: BTreeSet<Digest> = needs.iter().map(|(_, digest)| digest.clone()).collect();
        let early = self.sweep_at.is_some_and(|at| at > now);
        if self.sweeping || early || self.swept.as_ref() == Some(&revisions) {
            return;
        }
        self.sweeping = true;
        self.swept = Some(revisions.clone());
        let (cache, loader, to) = (Arc::clone(&self.cache), Arc::clone(&self.loader), self.to.clone());
        drop(tokio::task::spawn_blocking(move || {
            loader.keep_only(&artifacts.values().flatten().cloned().collect());
            let result = cache.keep_only(&revisions, &artifacts).map_err(|e| e.to_string());
            let _gone = to.blocking_send(Input::Swept(result));
        }));
    }

    pub(super) fn swept(&mut self, result: Result<(), String>, now: Instant) {
        self.sweeping = false;
        self.sweep_at = None;
        if let Err(error) = result {
            tracing::warn!(error, "cannot sweep the disk cache");
            self.swept = None;
            self.sweep_at = Some(now + SWEEP_PAUSE);
        }
    }

    /// A load ended that nobody needs any more: what it wrote is on disk after the last sweep.
    pub(super) fn left_behind(&mut self) {
        self.swept = None;
    }

    pub(super) fn is_sweeping(&self) -> bool {
        self.sweeping
    }

    pub(super) fn error(&self) -> Option<String> {
        self.error.clone()
    }

    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retry_at
    }
}
