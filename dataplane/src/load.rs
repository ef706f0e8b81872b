//! Brings one revision of one unit from wherever it is to where requests can run on it:
//! fetched, verified, on disk, compiled. Off the request path, a few at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use sluice_config::{Artifact, Content, Digest, Environment, ExceptionKind, Limits, Revision, UnitRef};
use sluice_worker::{Compiled, Engine, Identity, Outcome};
use tokio::sync::Semaphore;

use crate::{cache::Cache, decide::Key, source::Source};

/// Fetches at once.
const FETCHES: usize = 8;

/// A revision that can serve.
pub(crate) struct Loaded {
    pub(crate) revision: Arc<Revision>,
    /// Of a worker.
    pub(crate) code: Option<Compiled>,
    /// Why it is not on disk, if it is not: a restart would lose it.
    pub(crate) unsaved: Option<String>,
}

impl Loaded {
    pub(crate) fn artifact(&self) -> Option<&Digest> {
        self.revision.artifact.as_ref().map(|a| &a.digest)
    }
}

/// Whether something is on disk, or why not.
type Saved = Result<(), String>;

/// Why a revision cannot serve, and whose fault that is.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct LoadError {
    pub(crate) reason: ExceptionKind,
    pub(crate) message: String,
    /// The revision, where only its code is missing: its `onFailure` can still be obeyed.
    pub(crate) revision: Option<Arc<Revision>>,
}

fn refused(message: impl ToString) -> LoadError {
    LoadError { reason: ExceptionKind::Refused, message: message.to_string(), revision: None }
}

fn trouble(message: impl ToString) -> LoadError {
    LoadError { reason: ExceptionKind::LocalTrouble, message: message.to_string(), revision: None }
}

/// Loads revisions. Shared by all loads under way.
pub(crate) struct Loader {
    cache: Arc<Cache>,
    source: Source,
    engine: Engine,
    /// A label of what workers log.
    group: String,
    fetches: Semaphore,
    compilations: Semaphore,
    /// By artifact: revisions that differ only in their manifest share their code.
    compiled: Mutex<BTreeMap<Digest, Compiled>>,
}

impl Loader {
    pub(crate) fn new(cache: Arc<Cache>, source: Source, engine: Engine, group: String, threads: usize) -> Self {
        Self {
            cache,
            source,
            engine,
            group,
            fetches: Semaphore::new(FETCHES),
            // Compilation is parallel in itself; what serves keeps half of the CPUs.
            compilations: Semaphore::new(threads.div_ceil(2)),
            compiled: Mutex::new(BTreeMap::new()),
        }
    }

    /// Loads a revision; `previous` is what an earlier attempt loaded but could not save.
    pub(crate) async fn load(
        &self,
        key: &Key,
        environment: Environment,
        previous: Option<Arc<Loaded>>,
    ) -> Result<Loaded, LoadError> {
        let (unit, digest) = key;
        let (revision, revision_saved) = self.revision(unit, digest).await?;
        let revision = Arc::new(revision);
        let Some(artifact) = revision.artifact.clone() else {
            return Ok(Loaded { revision, code: None, unsaved: revision_saved.err() });
        };
        let Content::Worker(worker) = revision.content(environment) else {
            return Err(refused("it has an artifact but is no worker"));
        };
        let identity = Identity { unit: unit.clone(), revision: digest.clone(), group: self.group.clone() };
        match self.code(artifact, identity, &worker.limits, previous).await {
            Ok((code, artifact_saved)) => {
                Ok(Loaded { revision, code: Some(code), unsaved: revision_saved.and(artifact_saved).err() })
            }
            Err(error) => Err(LoadError { revision: Some(revision), ..error }),
        }
    }

    async fn code(
        &self,
        artifact: Artifact,
        identity: Identity,
        limits: &Limits,
        previous: Option<Arc<Loaded>>,
    ) -> Result<(Compiled, Saved), LoadError> {
        let (bytes, saved) = self.artifact(&artifact).await?;
        if let Some(code) = previous.and_then(|p| p.code.clone()) {
            return Ok((code, saved));
        }
        let code = self.compile(artifact.digest, bytes).await?;
        let (warm, limits) = (code.clone(), limits.clone());
        blocking(move || warm.warm(&Arc::new(identity), &limits)).await?.map_err(|failure| match failure.outcome {
            // No room for one instance more: full of requests now, not for ever.
            Outcome::Shed => trouble(failure),
            Outcome::Next
            | Outcome::Answered
            | Outcome::Trap
            | Outcome::Cpu
            | Outcome::Wall
            | Outcome::Memory
            | Outcome::NotLoaded
            | Outcome::Invalid
            | Outcome::Aborted => refused(failure),
        })?;
        Ok((code, saved))
    }

    async fn revision(&self, unit: &UnitRef, digest: &Digest) -> Result<(Revision, Saved), LoadError> {
        let cache = Arc::clone(&self.cache);
        let wanted = digest.clone();
        let cached = blocking(move || cache.revision(&wanted)).await?;
        let on_disk = cached.is_some();
        let revision = match cached {
            Some(revision) => revision,
            None => {
                let _permit = self.fetches.acquire().await.map_err(trouble)?;
                self.source.revision(unit, digest).await.map_err(trouble)?
            }
        };
        let got = revision.digest().map_err(trouble)?;
        if &got != digest {
            return Err(trouble(format!("the revision given for {digest} has digest {got}")));
        }
        revision.validate().map_err(refused)?;
        if revision.kind != unit.kind || revision.name != unit.name {
            return Err(refused(format!("the revision is of {} {}", revision.kind, revision.name)));
        }
        if on_disk {
            return Ok((revision, Ok(())));
        }
        let (cache, wanted) = (Arc::clone(&self.cache), digest.clone());
        blocking(move || {
            let saved = cache.put_revision(&wanted, &revision).map_err(|e| e.to_string());
            (revision, saved)
        })
        .await
    }

    async fn artifact(&self, artifact: &Artifact) -> Result<(Vec<u8>, Saved), LoadError> {
        let (cache, digest) = (Arc::clone(&self.cache), artifact.digest.clone());
        if let Some(bytes) = blocking(move || cache.artifact(&digest)).await? {
            return Ok((bytes, Ok(())));
        }
        let bytes = {
            let _permit = self.fetches.acquire().await.map_err(trouble)?;
            self.source.artifact(artifact).await.map_err(trouble)?
        };
        let (cache, artifact) = (Arc::clone(&self.cache), artifact.clone());
        blocking(move || {
            verify(&artifact, &bytes)?;
            let saved = cache.put_artifact(&artifact.digest, &bytes).map_err(|e| e.to_string());
            Ok((bytes, saved))
        })
        .await?
    }

    async fn compile(&self, artifact: Digest, bytes: Vec<u8>) -> Result<Compiled, LoadError> {
        let _permit = self.compilations.acquire().await.map_err(trouble)?;
        // Another unit may have had the same artifact compiled while this one waited.
        if let Some(code) = self.compiled().get(&artifact) {
            return Ok(code.clone());
        }
        let engine = self.engine.clone();
        let code = blocking(move || engine.compile(&bytes)).await?.map_err(refused)?;
        self.compiled().insert(artifact, code.clone());
        Ok(code)
    }

    /// Forgets code that no revision in use has.
    pub(crate) fn keep_only(&self, artifacts: &BTreeSet<Digest>) {
        let mut dropped = Vec::new();
        self.compiled().retain(|digest, code| {
            let keep = artifacts.contains(digest);
            if !keep {
                dropped.push(code.clone());
            }
            keep
        });
        // Unmapping code takes its time; the lock is gone by now.
        drop(dropped);
    }

    fn compiled(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Compiled>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came is what was published, to the byte.
fn verify(artifact: &Artifact, bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.len() as u64 != artifact.size {
        return Err(trouble(format!(
            "artifact {} has {} bytes instead of {}",
            artifact.digest,
            bytes.len(),
            artifact.size
        )));
    }
    let got = Digest::of(bytes);
    if got != artifact.digest {
        return Err(trouble(format!("the bytes given for artifact {} have digest {got}", artifact.digest)));
    }
    Ok(())
}

/// Runs on a blocking thread. A panic there (a compiler bug) is the revision's end, not the node's.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LoadError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| refused(format!("loading it panicked: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_verified_by_size_and_digest() {
        let artifact = Artifact { digest: Digest::of(b"abc"), size: 3 };
        assert!(verify(&artifact, b"abc").is_ok());
        for bad in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert_eq!(verify(&artifact, bad).unwrap_err().reason, ExceptionKind::LocalTrouble);
        }
    }
}
