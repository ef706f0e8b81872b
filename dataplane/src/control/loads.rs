//! Which revisions are loaded, loading, or waiting for another attempt.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use sluice_config::{Content, Digest, Environment, ExceptionKind, Revision, UnitRef};
use tokio::sync::mpsc;

use super::Input;
use crate::{
    backoff::Backoff,
    decide::{Key, Progress},
    load::{LoadError, Loaded, Loader},
    logging,
};

#[derive(Default)]
struct Load {
    /// How the last attempt ended.
    last: Option<Result<Arc<Loaded>, LoadError>>,
    in_flight: bool,
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
    /// Tasks under way, also those whose result nobody wants any more.
    tasks: usize,
}

impl Loads {
    pub(super) fn new(loader: Arc<Loader>, to: mpsc::Sender<Input>) -> Self {
        Self { loader, to, loads: BTreeMap::new(), tasks: 0 }
    }

    pub(super) fn keep_only(&mut self, needs: &BTreeSet<Key>) {
        self.loads.retain(|key, _| needs.contains(key));
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
            self.tasks += 1;
            let previous = load.last.as_ref().and_then(|r| r.as_ref().ok()).map(Arc::clone);
            let (loader, to, key) = (Arc::clone(&self.loader), self.to.clone(), key.clone());
            drop(tokio::spawn(async move {
                let result = loader.load(&key, environment, previous).await;
                // The loop is gone only when the process ends.
                let _gone = to.send(Input::Loaded(key, result)).await;
            }));
        }
    }

    pub(super) fn ended(&mut self, key: &Key, result: Result<Loaded, LoadError>, now: Instant) {
        self.tasks = self.tasks.saturating_sub(1);
        let Some(load) = self.loads.get_mut(key) else { return };
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
    }

    pub(super) fn progress(
        &self,
        unit: &UnitRef,
        digest: &Digest,
        stages: &[String],
        environment: Environment,
    ) -> Progress {
        match self.get(unit, digest) {
            None => Progress::Loading,
            Some(Err(error)) => Progress::Failed { reason: error.reason, message: error.message.clone() },
            Some(Ok(loaded)) => match (stage_problem(&loaded.revision, stages, environment), &loaded.unsaved) {
                (Some(message), _) => Progress::Failed { reason: ExceptionKind::Refused, message },
                (None, Some(message)) => Progress::Unsaved { message: message.clone() },
                (None, None) => Progress::Loaded,
            },
        }
    }

    pub(super) fn loaded(&self, unit: &UnitRef, digest: &Digest) -> Option<&Arc<Loaded>> {
        self.get(unit, digest)?.as_ref().ok()
    }

    /// A revision whose content is known but not its code, and why.
    pub(super) fn without_code(&self, unit: &UnitRef, digest: &Digest) -> Option<(Arc<Revision>, String)> {
        let error = self.get(unit, digest)?.as_ref().err()?;
        Some((Arc::clone(error.revision.as_ref()?), error.message.clone()))
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

    fn get(&self, unit: &UnitRef, digest: &Digest) -> Option<&Result<Arc<Loaded>, LoadError>> {
        self.loads.get(&(unit.clone(), digest.clone()))?.last.as_ref()
    }
}

/// A worker stands in a stage that the assignment has: only the two together can tell.
fn stage_problem(revision: &Revision, stages: &[String], environment: Environment) -> Option<String> {
    match revision.content(environment) {
        Content::Worker(worker) if !stages.contains(&worker.chain.stage) => {
            Some(format!("stage `{}` is not one of this group's: {}", worker.chain.stage, stages.join(", ")))
        }
        Content::Worker(_) | Content::Routes(_) | Content::Config(_) => None,
    }
}
