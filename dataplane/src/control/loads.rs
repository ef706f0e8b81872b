//! Which revisions are loaded, loading, or waiting for another attempt.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_config::{Content, Digest, Environment, ExceptionKind, Revision, UnitRef};
use tokio::{sync::mpsc, task::AbortHandle};

use super::Input;
use crate::{
    backoff::Backoff,
    decide::{Key, Progress},
    load::{LoadError, Loaded, Loader},
    logging,
};

/// A load that takes longer is an exception while it goes on: it delays no other unit's news.
const SLOW: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Load {
    /// What the revision says; known before its code is here.
    revision: Option<Arc<Revision>>,
    /// When the first attempt began.
    begun_at: Option<Instant>,
    /// How the last attempt ended.
    last: Option<Result<Arc<Loaded>, LoadError>>,
    in_flight: bool,
    /// The attempt under way, or the last one.
    task: Option<AbortHandle>,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl Load {
    fn is_due(&self, now: Instant) -> bool {
        !self.in_flight && (self.last.is_none() || self.retry_at.is_some_and(|at| at <= now))
    }
}

pub(super) struct Loads {
    loader: Arc<Loader>,
    to: mpsc::Sender<Input>,
    loads: BTreeMap<Key, Load>,
    /// Tasks that have not told their end yet, also those whose result nobody wants any more.
    tasks: usize,
}

impl Loads {
    pub(super) fn new(loader: Arc<Loader>, to: mpsc::Sender<Input>) -> Self {
        Self { loader, to, loads: BTreeMap::new(), tasks: 0 }
    }

    pub(super) fn keep_only(&mut self, needs: &BTreeSet<Key>) {
        self.loads.retain(|key, load| {
            let keep = needs.contains(key);
            if !keep && let Some(task) = &load.task {
                // What others want may wait for its turn behind it.
                task.abort();
            }
            keep
        });
    }

    /// Starts what is needed and due, all at once: how many run at a time is the loader's business.
    pub(super) fn start(&mut self, needs: &BTreeSet<Key>, environment: Environment, now: Instant) {
        for key in needs {
            let load = self.loads.entry(key.clone()).or_default();
            if !load.is_due(now) {
                continue;
            }
            load.in_flight = true;
            load.retry_at = None;
            load.begun_at.get_or_insert(now);
            self.tasks += 1;
            let previous = load.last.as_ref().and_then(|r| r.as_ref().ok()).map(Arc::clone);
            let (loader, to, key) = (Arc::clone(&self.loader), self.to.clone(), key.clone());
            let (load_key, tell) = (key.clone(), to.clone());
            let task = tokio::spawn(async move {
                let known = loader.know(&load_key).await?;
                // The loop is gone only when the process ends.
                let _gone = tell.send(Input::Known(load_key.clone(), Arc::clone(&known.revision))).await;
                loader.load(&load_key, known, environment, previous).await
            });
            load.task = Some(task.abort_handle());
            drop(tokio::spawn(async move {
                let end = match task.await {
                    Ok(result) => Input::Loaded(key, result),
                    Err(error) if error.is_panic() => {
                        let message = format!("loading it panicked: {error}");
                        Input::Loaded(key, Err(LoadError { reason: ExceptionKind::LocalTrouble, message }))
                    }
                    Err(_aborted) => Input::GivenUp,
                };
                let _gone = to.send(end).await;
            }));
        }
    }

    pub(super) fn known(&mut self, key: &Key, revision: Arc<Revision>) {
        if let Some(load) = self.loads.get_mut(key) {
            load.revision = Some(revision);
        }
    }

    /// A load that nobody wants any more has been broken off.
    pub(super) fn given_up(&mut self) {
        self.tasks = self.tasks.saturating_sub(1);
    }

    /// False where nobody needs the revision any more.
    pub(super) fn ended(&mut self, key: &Key, result: Result<Loaded, LoadError>, now: Instant) -> bool {
        self.tasks = self.tasks.saturating_sub(1);
        let Some(load) = self.loads.get_mut(key) else { return false };
        let (unit, revision) = (&key.0, key.1.short());
        let problem = match &result {
            Ok(Loaded { unsaved: None, .. }) => None,
            Ok(Loaded { unsaved: Some(problem), .. }) => Some((ExceptionKind::LocalTrouble, problem.clone())),
            Err(error) => Some((error.reason, error.message.clone())),
        };
        load.in_flight = false;
        load.retry_at = None;
        match problem {
            None => {
                load.backoff = Backoff::new();
                tracing::info!(%unit, revision, "loaded");
            }
            // The same bytes will be refused again.
            Some((ExceptionKind::Refused, error)) => tracing::warn!(%unit, revision, error, "refused"),
            Some((ExceptionKind::LocalTrouble, error)) => {
                let wait = load.backoff.next_wait();
                load.retry_at = Some(now + wait);
                tracing::warn!(%unit, revision, error, retry_ms = logging::millis(wait), "cannot load now");
            }
        }
        // An attempt to save what is loaded may fail before the saving: what is loaded stays.
        let kept = match (&load.last, &result) {
            (Some(Ok(loaded)), Err(_)) => Some(Arc::clone(loaded)),
            (Some(Ok(_) | Err(_)) | None, _) => None,
        };
        load.last = Some(match kept {
            Some(loaded) => Ok(loaded),
            None => result.map(Arc::new),
        });
        true
    }

    pub(super) fn progress(&self, unit: &UnitRef, digest: &Digest, place: &Place<'_>, now: Instant) -> Progress {
        let Some(load) = self.get(unit, digest) else {
            return Progress::Loading;
        };
        match &load.last {
            None if load.begun_at.is_some_and(|at| now.duration_since(at) >= SLOW) => Progress::Failed {
                reason: ExceptionKind::LocalTrouble,
                message: format!("still being loaded after {} s", SLOW.as_secs()),
            },
            None => Progress::Loading,
            Some(Err(error)) => Progress::Failed { reason: error.reason, message: error.message.clone() },
            Some(Ok(loaded)) => match (place.problem(&loaded.revision), &loaded.unsaved) {
                (Some(message), _) => Progress::Failed { reason: ExceptionKind::Refused, message },
                (None, Some(message)) => Progress::Unsaved { message: message.clone() },
                (None, None) => Progress::Loaded,
            },
        }
    }

    pub(super) fn loaded(&self, unit: &UnitRef, digest: &Digest) -> Option<&Arc<Loaded>> {
        self.get(unit, digest)?.last.as_ref()?.as_ref().ok()
    }

    /// Whether no attempt has ended yet.
    pub(super) fn is_loading(&self, unit: &UnitRef, digest: &Digest) -> bool {
        self.get(unit, digest).is_none_or(|load| load.last.is_none())
    }

    /// A revision whose content is known but that cannot run here, and why.
    pub(super) fn without_code(
        &self,
        unit: &UnitRef,
        digest: &Digest,
        place: &Place<'_>,
    ) -> Option<(Arc<Revision>, String)> {
        let load = self.get(unit, digest)?;
        match &load.last {
            Some(Ok(loaded)) => Some((Arc::clone(&loaded.revision), place.problem(&loaded.revision)?)),
            Some(Err(error)) => Some((Arc::clone(load.revision.as_ref()?), error.message.clone())),
            None => Some((Arc::clone(load.revision.as_ref()?), "it is still being loaded".into())),
        }
    }

    pub(super) fn none_in_flight(&self) -> bool {
        self.tasks == 0
    }

    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.loads.values().filter_map(|l| l.retry_at).min()
    }

    /// Which artifact each loaded revision has.
    pub(super) fn artifacts(&self) -> BTreeMap<Digest, Option<Digest>> {
        let loaded = self.loads.iter().filter_map(|(key, load)| match &load.last {
            Some(Ok(loaded)) => Some((key.1.clone(), loaded.artifact().cloned())),
            Some(Err(_)) | None => None,
        });
        loaded.collect()
    }

    fn get(&self, unit: &UnitRef, digest: &Digest) -> Option<&Load> {
        self.loads.get(&(unit.clone(), digest.clone()))
    }
}

/// Where revisions are to run: what only the assignment can tell of them.
pub(super) struct Place<'a> {
    pub(super) stages: &'a [String],
    pub(super) environment: Environment,
}

impl Place<'_> {
    /// A worker stands in a stage that the assignment has: only the two together can tell.
    fn problem(&self, revision: &Revision) -> Option<String> {
        match revision.content(self.environment) {
            Content::Worker(worker) if !self.stages.contains(&worker.chain.stage) => {
                Some(format!("stage `{}` is not one of this group's: {}", worker.chain.stage, self.stages.join(", ")))
            }
            Content::Worker(_) | Content::Routes(_) | Content::Config(_) => None,
        }
    }
}
