//! Brings one revision of one unit from wherever it is to where requests can run on it:
//! fetched, verified, on disk, compiled. Off the request path, a few at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use sluice_config::{Artifact, Content, Digest, Environment, ExceptionKind, Limits, Revision, UnitRef};
use sluice_worker::{CompileError, Compiled, Identity, Outcome};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

use crate::{cache::Cache, code::Codes, decide::Key, source::Source};

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
}

fn refused(message: impl ToString) -> LoadError {
    LoadError { reason: ExceptionKind::Refused, message: message.to_string() }
}

fn trouble(message: impl ToString) -> LoadError {
    LoadError { reason: ExceptionKind::LocalTrouble, message: message.to_string() }
}

/// Whose fault it is that a component is no worker.
fn failed(error: CompileError) -> LoadError {
    match error {
        CompileError::Local(_) => trouble(error),
        CompileError::Refused(_) | CompileError::Compile(_) | CompileError::Link(_) | CompileError::Ended(_) => {
            refused(error)
        }
    }
}

/// A revision whose content is known, and whose code is not here yet.
pub(crate) struct Known {
    pub(crate) revision: Arc<Revision>,
    saved: Saved,
}

/// Where an artifact is once it was had.
enum At {
    Disk,
    /// The disk does not take it, and says why. The permit bounds how many are in memory.
    Memory {
        bytes: Bytes,
        why: String,
        _permit: OwnedSemaphorePermit,
    },
}

impl At {
    fn saved(&self) -> Saved {
        match self {
            Self::Disk => Ok(()),
            Self::Memory { why, .. } => Err(why.clone()),
        }
    }
}

/// Loads revisions. Shared by all loads under way.
///
/// All begin at once, so nobody holds an artifact in memory without a permit: a restart with a hundred
/// of them needs no more memory than one with a few.
pub(crate) struct Loader {
    cache: Arc<Cache>,
    source: Source,
    codes: Codes,
    /// A label of what workers log.
    group: String,
    fetches: Arc<Semaphore>,
    /// Of those that look for code on this disk, and of those whose component a compiler is at work on.
    loadings: Semaphore,
    compilations: Semaphore,
    /// By artifact: revisions that differ only in their manifest share their code.
    compiled: Mutex<BTreeMap<Digest, Compiled>>,
}

impl Loader {
    pub(crate) fn new(cache: Arc<Cache>, source: Source, codes: Codes, group: String, threads: usize) -> Self {
        Self {
            cache,
            source,
            codes,
            group,
            fetches: Arc::new(Semaphore::new(FETCHES)),
            // Each has one thread; what serves keeps half of the CPUs.
            loadings: Semaphore::new(threads.div_ceil(2)),
            compilations: Semaphore::new(threads.div_ceil(2)),
            compiled: Mutex::new(BTreeMap::new()),
        }
    }

    /// Finds out what a revision says: the first half of a load, and the quick one.
    pub(crate) async fn know(&self, key: &Key) -> Result<Known, LoadError> {
        let (revision, saved) = self.revision(&key.0, &key.1).await?;
        Ok(Known { revision: Arc::new(revision), saved })
    }

    /// Loads a revision; `previous` is what an earlier attempt loaded but could not save.
    pub(crate) async fn load(
        &self,
        key: &Key,
        known: Known,
        environment: Environment,
        previous: Option<Arc<Loaded>>,
    ) -> Result<Loaded, LoadError> {
        let (unit, digest) = key;
        let Known { revision, saved } = known;
        let Some(artifact) = revision.artifact.clone() else {
            return Ok(Loaded { revision, code: None, unsaved: saved.err() });
        };
        let Content::Worker(worker) = revision.content(environment) else {
            return Err(refused("it has an artifact but is no worker"));
        };
        let identity = Identity {
            unit: unit.clone(),
            revision: digest.clone(),
            group: self.group.clone(),
            log: Arc::default(),
            cpu_ns: Arc::default(),
        };
        let previous = previous.and_then(|p| p.code.clone());
        let (code, artifact_saved) = match previous {
            Some(code) => (code, self.obtain(&artifact).await?.saved()),
            None => {
                let (code, artifact_saved) = self.code(&artifact).await?;
                warm(&code, identity, &worker.limits).await?;
                (code, artifact_saved)
            }
        };
        Ok(Loaded { revision, code: Some(code), unsaved: saved.and(artifact_saved).err() })
    }

    async fn code(&self, artifact: &Artifact) -> Result<(Compiled, Saved), LoadError> {
        let at = self.obtain(artifact).await?;
        let saved = at.saved();
        if let Some(code) = self.make(artifact, &at).await? {
            return Ok((code, saved));
        }
        // Damaged on disk, and gone from there.
        let at = self.fetch(artifact).await?;
        let saved = at.saved();
        let lost = || trouble(format!("the disk does not give back artifact {}", artifact.digest));
        Ok((self.make(artifact, &at).await?.ok_or_else(lost)?, saved))
    }

    /// Sees to it that the artifact is on disk, if it can be.
    async fn obtain(&self, artifact: &Artifact) -> Result<At, LoadError> {
        let (cache, wanted) = (Arc::clone(&self.cache), artifact.clone());
        if blocking(move || cache.has_artifact(&wanted)).await? { Ok(At::Disk) } else { self.fetch(artifact).await }
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

    async fn fetch(&self, artifact: &Artifact) -> Result<At, LoadError> {
        let permit = Arc::clone(&self.fetches).acquire_owned().await.map_err(trouble)?;
        let bytes = self.source.artifact(artifact).await.map_err(trouble)?;
        let (cache, artifact) = (Arc::clone(&self.cache), artifact.clone());
        blocking(move || {
            verify(&artifact, &bytes)?;
            Ok(match cache.put_artifact(&artifact.digest, &bytes) {
                Ok(()) => At::Disk,
                Err(error) => At::Memory { bytes: bytes.into(), why: error.to_string(), _permit: permit },
            })
        })
        .await?
    }

    /// Nothing where the disk has no whole artifact any more.
    async fn make(&self, artifact: &Artifact, at: &At) -> Result<Option<Compiled>, LoadError> {
        {
            // What this node has compiled before waits for no compiler, whatever that has to do.
            let _permit = self.loadings.acquire().await.map_err(trouble)?;
            if let Some(code) = self.known(&artifact.digest) {
                return Ok(Some(code));
            }
            let Some(wasm) = self.bytes(artifact, at).await? else { return Ok(None) };
            if let Some(code) = self.codes.kept(&artifact.digest, wasm).await.map_err(failed)? {
                return Ok(Some(self.remember(&artifact.digest, code)));
            }
        }
        let _permit = self.compilations.acquire().await.map_err(trouble)?;
        // Another unit may have had the same artifact compiled while this one waited.
        if let Some(code) = self.known(&artifact.digest) {
            return Ok(Some(code));
        }
        let Some(wasm) = self.bytes(artifact, at).await? else { return Ok(None) };
        let code = self.codes.compile(&artifact.digest, wasm).await.map_err(failed)?;
        Ok(Some(self.remember(&artifact.digest, code)))
    }

    /// Of an artifact; in memory for as long as somebody works on it.
    async fn bytes(&self, artifact: &Artifact, at: &At) -> Result<Option<Bytes>, LoadError> {
        match at {
            At::Memory { bytes, .. } => Ok(Some(bytes.clone())),
            At::Disk => {
                let (cache, digest) = (Arc::clone(&self.cache), artifact.digest.clone());
                Ok(blocking(move || cache.artifact(&digest)).await?.map(Bytes::from))
            }
        }
    }

    fn known(&self, artifact: &Digest) -> Option<Compiled> {
        self.compiled().get(artifact).cloned()
    }

    /// Of two that made the same at once, the first one's is for both.
    fn remember(&self, artifact: &Digest, code: Compiled) -> Compiled {
        self.compiled().entry(artifact.clone()).or_insert(code).clone()
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

/// Starts it once, so that no request finds out that it cannot.
async fn warm(code: &Compiled, identity: Identity, limits: &Limits) -> Result<(), LoadError> {
    let (code, limits) = (code.clone(), limits.clone());
    // What it does at its start takes a thread of its own; timers are the runtime's.
    let runtime = Handle::current();
    let warming = spawn_blocking(move || runtime.block_on(code.warm(&Arc::new(identity), &limits)));
    let warmed = warming.await.map_err(|e| {
        let message = format!("starting it panicked: {e}");
        // That is what its own code drives: its end, not the node's.
        if e.is_panic() { refused(message) } else { trouble(message) }
    })?;
    warmed.map_err(|failure| match failure.outcome {
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
    })
}

/// Runs on a blocking thread. A panic there says nothing about the revision.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LoadError> {
    spawn_blocking(work).await.map_err(|e| trouble(format!("loading it panicked: {e}")))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, time::Duration};

    use sluice_worker::{
        Engine, EngineConfig,
        compiler::{CompileLimits, Compiler},
        precompile,
    };

    use super::*;
    use crate::{
        fixture::{self, EMPTY},
        kept::Kept,
        source::Directory,
    };

    /// Without a compiler.
    fn loader(cache: Arc<Cache>, source: Source) -> Loader {
        let engine = Engine::new(&EngineConfig { instances_max: 1, ..EngineConfig::default() }).unwrap();
        let limits = CompileLimits { memory_bytes: 1 << 30, cpu_seconds: 60, wall: Duration::from_secs(60) };
        let codes = Codes::new(engine, Compiler::new(limits, Some("/bin/false".into())), Arc::clone(&cache));
        Loader::new(cache, source, codes, "canary".into(), 1)
    }

    fn guest() -> Vec<u8> {
        let cache = std::env::var_os("SLUICE_CACHE");
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/sluice");
        let path = cache.map_or_else(home, PathBuf::from).join("guests/filter-request-id.wasm");
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `make guests`", path.display()))
    }

    /// A worker on disk, and who loads it.
    struct World {
        _dir: tempfile::TempDir,
        cache: Arc<Cache>,
        loader: Loader,
        wasm: Vec<u8>,
        artifact: Artifact,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (cache, wasm) = (fixture::cache(dir.path()), guest());
            let artifact = Artifact { digest: Digest::of(&wasm), size: wasm.len() as u64 };
            cache.put_artifact(&artifact.digest, &wasm).unwrap();
            let loader = loader(Arc::clone(&cache), Source { directory: None, api: None, operator: None });
            Self { _dir: dir, cache, loader, wasm, artifact }
        }

        /// Keeps what a compiler would make of a component, as this worker's code.
        fn keep(&self, component: &[u8]) {
            let code = precompile(component).unwrap();
            Kept::new(Arc::clone(&self.cache)).put(&self.artifact.digest, &code).unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_compiled_before_waits_for_no_compiler() {
        let world = World::new();
        // Something takes its time with the only compiler that may run.
        let _compiles = world.loader.compilations.acquire().await.unwrap();
        let mut loading = Box::pin(world.loader.code(&world.artifact));
        let waits = tokio::time::timeout(Duration::from_millis(100), &mut loading).await;
        assert!(waits.is_err(), "this one has to be compiled");
        drop(loading);
        world.keep(&world.wasm);
        let loaded = tokio::time::timeout(Duration::from_secs(60), world.loader.code(&world.artifact)).await;
        assert!(loaded.unwrap().is_ok());
    }

    #[tokio::test]
    async fn kept_code_that_does_not_load_is_compiled_anew() {
        let world = World::new();
        // Under our own seal: code of something that is no filter.
        world.keep(EMPTY);
        let Err(error) = world.loader.code(&world.artifact).await else { panic!("it cannot be loaded") };
        assert_eq!(error.reason, ExceptionKind::LocalTrouble, "the compiler's trouble: {error}");
        assert!(world.cache.compiled(&world.artifact.digest).is_none(), "it is not tried again");
    }

    #[test]
    fn bytes_are_verified_by_size_and_digest() {
        let artifact = Artifact { digest: Digest::of(b"abc"), size: 3 };
        assert!(verify(&artifact, b"abc").is_ok());
        for bad in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert_eq!(verify(&artifact, bad).unwrap_err().reason, ExceptionKind::LocalTrouble);
        }
    }

    #[tokio::test]
    async fn what_is_on_disk_is_read_when_its_turn_comes_and_fetched_where_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let (state, published) = (dir.path().join("state"), dir.path().join("published"));
        fs::create_dir(&published).unwrap();
        fs::write(published.join("a.wasm"), b"no component").unwrap();
        let artifact = Artifact { digest: Digest::of(b"no component"), size: 12 };
        let on_disk = state.join("artifacts").join(artifact.digest.as_str());
        let cache = fixture::cache(&state);
        fs::write(&on_disk, b"no_component").unwrap();
        let source = Source { directory: Some(Directory::new(published)), api: None, operator: None };
        let loader = loader(cache, source);

        let other = loader.loadings.acquire().await.unwrap();
        let mut loading = Box::pin(loader.code(&artifact));
        let waits = tokio::time::timeout(Duration::from_millis(100), &mut loading).await;
        assert!(waits.is_err(), "another one is being loaded");
        assert_eq!(fs::read(&on_disk).unwrap(), b"no_component", "whoever reads it removes it");
        drop(other);
        let Err(error) = loading.await else { panic!("that is no component") };
        assert_eq!(error.reason, ExceptionKind::Refused, "{error}");
        assert_eq!(fs::read(&on_disk).unwrap(), b"no component");
    }
}
