//! Polls git servers over HTTP(S) and keeps one bare clone a repository.

mod clone;
mod http;
mod pack;
mod protocol;
mod url;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use git2::Oid;
use sluice_config::{Environment, limits};
use sluice_crds::RepositorySpec;
use tokio::{
    io::AsyncWriteExt,
    sync::{Mutex, Semaphore},
    task::spawn_blocking,
    time::Instant,
};

use super::{
    BranchError, Credentials, Head, Heads, Options, RepositoryId, SourceError,
    manifest::{CheckedComponents, FileError, Files, TreeOf, parse_tree},
};
use clone::{BareClone, CloneError};
use http::{Asking, Http};
use protocol::{Advertisement, Demux, Want};
use url::{AddressRules, GitUrl};

/// Packs that are received or unpacked at one time; further repositories wait for their turn, and
/// one that stalls gives its turn back after the timeout.
const FETCHES_MAX: usize = 8;
/// Components of one repository whose check is remembered.
const COMPONENTS_MAX: usize = 10_000;
/// Bytes of the answer that lists the refs.
const REFS_BYTES_MAX: u64 = 64 << 20;

/// All clones of this process.
pub(super) struct Clones {
    options: Options,
    rules: AddressRules,
    http: Http,
    slots: std::sync::Mutex<BTreeMap<RepositoryId, Arc<Mutex<Slot>>>>,
    fetches: Semaphore,
}

/// What is remembered of a repository between polls; whoever holds it works on the clone alone.
#[derive(Default)]
struct Slot {
    parsed: BTreeMap<Oid, Parsed>,
    /// Folder in the repository that `parsed` is of, and URL that it came from.
    of: (String, String),
    components: CheckedComponents,
}

type Parsed = Result<Arc<Head>, BranchError>;

impl Clones {
    pub(super) fn new(options: Options) -> Result<Self, SourceError> {
        std::fs::create_dir_all(&options.work_dir).map_err(|e| SourceError::WorkFolder(e.to_string()))?;
        Ok(Self {
            rules: AddressRules::of(&options),
            http: Http::new(&options)?,
            slots: std::sync::Mutex::default(),
            fetches: Semaphore::new(FETCHES_MAX),
            options,
        })
    }

    pub(super) async fn poll(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        credentials: Option<&Credentials>,
    ) -> Result<Heads, SourceError> {
        let url = GitUrl::parse(&spec.url, &self.rules)?;
        let slot = self.slot(id);
        let mut slot = slot.lock().await;
        slot.forget_unless(&spec.path, &spec.url);
        let asking = self.asking(&url, credentials);
        let advertised = self.advertised(&asking).await?;
        let branches = BTreeMap::from([
            (Environment::Staging, spec.branches.staging.as_str()),
            (Environment::Production, spec.branches.production.as_str()),
        ]);
        let heads: BTreeMap<Environment, Oid> = branches
            .iter()
            .filter_map(|(environment, branch)| Some((*environment, *advertised.branches.get(*branch)?)))
            .collect();
        let commits: BTreeSet<Oid> = heads.values().copied().collect();
        if commits.iter().any(|commit| !slot.parsed.contains_key(commit)) {
            self.read_heads(id, spec, &asking, &mut slot, &heads).await?;
        }
        slot.parsed.retain(|commit, _| commits.contains(commit));
        let gone = |branch: &str| Err(BranchError::Missing { branch: branch.to_owned() });
        Ok(branches
            .into_iter()
            .map(|(environment, branch)| {
                let parsed = heads.get(&environment).and_then(|commit| slot.parsed.get(commit).cloned());
                (environment, parsed.map_or_else(|| gone(branch), |parsed| named(parsed, branch)))
            })
            .collect())
    }

    pub(super) async fn fetch_blob_at(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        credentials: Option<&Credentials>,
        commit: &str,
        path: &str,
    ) -> Result<Vec<u8>, SourceError> {
        let url = GitUrl::parse(&spec.url, &self.rules)?;
        let oid = Oid::from_str(commit).map_err(|_| SourceError::CommitGone(commit.chars().take(64).collect()))?;
        let slot = self.slot(id);
        let _alone = slot.lock().await;
        let asking = self.asking(&url, credentials);
        match self.file(id, spec, oid, path).await {
            Ok(bytes) => return Ok(bytes),
            Err(CloneError::Source(error)) => return Err(error),
            Err(CloneError::Damaged(_)) => {}
        }
        let advertised = self.advertised(&asking).await?;
        let is_head = advertised.branches.values().any(|head| *head == oid);
        if is_head || advertised.any_commit() {
            let want = Want { commits: &[oid], have: &[], history: false };
            match self.fetch(id, spec, &asking, &want).await {
                Ok(()) => return self.file_or_gone(id, spec, oid, path).await,
                // It may still stand in the history of a branch.
                Err(SourceError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let branches = [&spec.branches.staging, &spec.branches.production];
        let heads: BTreeSet<Oid> = branches.into_iter().filter_map(|b| advertised.branches.get(b).copied()).collect();
        let heads: Vec<Oid> = heads.into_iter().collect();
        if heads.is_empty() {
            return Err(SourceError::CommitGone(commit.to_owned()));
        }
        self.fetch(id, spec, &asking, &Want { commits: &heads, have: &[], history: true }).await?;
        self.file_or_gone(id, spec, oid, path).await
    }

    pub(super) async fn retain(&self, ids: &BTreeSet<RepositoryId>) -> Result<(), SourceError> {
        self.slots().retain(|id, _| ids.contains(id));
        let names: BTreeSet<String> = ids.iter().map(folder_name).collect();
        let work_dir = self.options.work_dir.clone();
        blocking(move || {
            for entry in std::fs::read_dir(&work_dir)? {
                let entry = entry?;
                if !names.contains(entry.file_name().to_string_lossy().as_ref()) {
                    clone::remove(&entry.path())?;
                }
            }
            Ok(())
        })
        .await
        .map_err(own_fault)
    }

    /// Fetches and parses the heads; a damaged clone is deleted and fetched anew, once.
    async fn read_heads(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        asking: &Asking<'_>,
        slot: &mut Slot,
        heads: &BTreeMap<Environment, Oid>,
    ) -> Result<(), SourceError> {
        match self.try_heads(id, spec, asking, slot, heads).await {
            Err(CloneError::Damaged(why)) => tracing::warn!(repository = %id, why, "damaged clone, fetching anew"),
            Err(CloneError::Source(error)) => return Err(error),
            Ok(()) => return Ok(()),
        }
        let folder = self.folder(id);
        blocking(move || clone::remove(&folder)).await.map_err(own_fault)?;
        slot.components.clear();
        self.try_heads(id, spec, asking, slot, heads).await.map_err(own_fault)
    }

    async fn try_heads(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        asking: &Asking<'_>,
        slot: &mut Slot,
        heads: &BTreeMap<Environment, Oid>,
    ) -> Result<(), CloneError> {
        let commits: BTreeSet<Oid> = heads.values().copied().collect();
        let (folder, url, worn_bytes) = (self.folder(id), spec.url.clone(), 2 * self.options.fetch_bytes_max);
        let asked = commits.clone();
        let (missing, have) = blocking(move || {
            let mut clone = BareClone::open(&folder, &url)?;
            if asked.iter().any(|commit| !clone.has(*commit)) && clone.is_worn(worn_bytes) {
                drop(clone);
                clone::remove(&folder)?;
                clone = BareClone::open(&folder, &url)?;
            }
            let missing: Vec<Oid> = asked.into_iter().filter(|commit| !clone.has(*commit)).collect();
            Ok((missing, clone.kept()))
        })
        .await?;
        if !missing.is_empty() {
            self.fetch(id, spec, asking, &Want { commits: &missing, have: &have, history: false }).await?;
        }
        let (folder, url, heads) = (self.folder(id), spec.url.clone(), heads.clone());
        let of = (id.clone(), spec.path.clone());
        let mut components = std::mem::take(&mut slot.components);
        let new: Vec<Oid> = commits.into_iter().filter(|c| !slot.parsed.contains_key(c)).collect();
        let (parsed, components) = blocking(move || {
            let clone = BareClone::open(&folder, &url)?;
            for (environment, commit) in &heads {
                clone.keep(environment.as_str(), *commit)?;
            }
            let mut parsed = Vec::new();
            for commit in new {
                parsed.push((commit, parse_commit(&clone, &of, commit, &mut components)?));
            }
            Ok((parsed, components))
        })
        .await?;
        slot.parsed.extend(parsed);
        slot.components = if components.len() > COMPONENTS_MAX { CheckedComponents::new() } else { components };
        Ok(())
    }

    async fn advertised(&self, asking: &Asking<'_>) -> Result<Advertisement, SourceError> {
        let mut answer = self.http.refs(asking).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = answer.next(REFS_BYTES_MAX).await? {
            bytes.extend_from_slice(&piece);
        }
        Advertisement::parse(&bytes)
    }

    /// Asks for objects and takes them into the clone.
    async fn fetch(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        asking: &Asking<'_>,
        want: &Want<'_>,
    ) -> Result<(), SourceError> {
        let _turn = self.fetches.acquire().await.map_err(|_| SourceError::WorkFolder("shutting down".to_owned()))?;
        // Waiting for a turn is not the server's time.
        let asking = self.asking(asking.url, asking.credentials);
        let folder = self.folder(id);
        let (opened, url) = (folder.clone(), spec.url.clone());
        blocking(move || BareClone::open(&opened, &url).map(drop)).await.map_err(own_fault)?;
        let path = folder.join("sluice-incoming");
        let received = self.receive(&asking, want, &path).await;
        let limits = pack::Limits::of(&self.options);
        let (url, file) = (spec.url.clone(), path.clone());
        let taken = match received {
            Ok(()) => {
                blocking(move || BareClone::open(&folder, &url)?.add_pack(&file, limits)).await.map_err(own_fault)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = tokio::fs::remove_file(&path).await {
            tracing::debug!(%error, "no incoming pack to remove");
        }
        taken
    }

    async fn receive(&self, asking: &Asking<'_>, want: &Want<'_>, path: &Path) -> Result<(), SourceError> {
        let own = |e: std::io::Error| SourceError::WorkFolder(e.to_string());
        let mut answer = self.http.upload_pack(asking, want.body()).await?;
        let mut file = tokio::fs::File::create(path).await.map_err(own)?;
        let (mut demux, mut pack) = (Demux::default(), Vec::new());
        while let Some(piece) = answer.next(self.options.fetch_bytes_max).await? {
            demux.push(&piece, &mut pack)?;
            file.write_all(&pack).await.map_err(own)?;
            pack.clear();
        }
        file.flush().await.map_err(own)?;
        if demux.is_done() { Ok(()) } else { Err(SourceError::NotGit("the answer ends early".to_owned())) }
    }

    async fn file_or_gone(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        commit: Oid,
        path: &str,
    ) -> Result<Vec<u8>, SourceError> {
        self.file(id, spec, commit, path).await.map_err(|error| match error {
            CloneError::Source(error) => error,
            CloneError::Damaged(_) => SourceError::CommitGone(commit.to_string()),
        })
    }

    /// A file out of the clone; `Damaged` also where the commit is not there.
    async fn file(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        commit: Oid,
        path: &str,
    ) -> Result<Vec<u8>, CloneError> {
        let (folder, url, path) = (self.folder(id), spec.url.clone(), path.to_owned());
        blocking(move || {
            let clone = BareClone::open(&folder, &url)?;
            clone.files(commit)?.read(&path, limits::ARTIFACT_BYTES).map_err(|error| match error {
                FileError::Damaged(why) => CloneError::Damaged(why),
                other => SourceError::File { commit: commit.to_string(), reason: other.to_string() }.into(),
            })
        })
        .await
    }

    fn asking<'a>(&self, url: &'a GitUrl, credentials: Option<&'a Credentials>) -> Asking<'a> {
        let timeout = self.options.timeout;
        Asking { url, credentials, deadline: Instant::now() + timeout, timeout }
    }

    fn slot(&self, id: &RepositoryId) -> Arc<Mutex<Slot>> {
        self.slots().entry(id.clone()).or_default().clone()
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<RepositoryId, Arc<Mutex<Slot>>>> {
        self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn folder(&self, id: &RepositoryId) -> PathBuf {
        self.options.work_dir.join(folder_name(id))
    }
}

impl Slot {
    fn forget_unless(&mut self, path: &str, url: &str) {
        if (self.of.0.as_str(), self.of.1.as_str()) != (path, url) {
            self.parsed.clear();
            self.of = (path.to_owned(), url.to_owned());
        }
    }
}

/// Names of namespaces and objects have no `_`, so that no two repositories share a folder.
fn folder_name(id: &RepositoryId) -> String {
    format!("{}_{}", id.namespace, id.name)
}

/// One commit of a branch not yet named: two branches may share it.
fn parse_commit(
    clone: &BareClone,
    (id, path): &(RepositoryId, String),
    commit: Oid,
    components: &mut CheckedComponents,
) -> Result<Parsed, CloneError> {
    let of = TreeOf {
        namespace: id.namespace.clone(),
        repository: id.name.clone(),
        commit: commit.to_string(),
        path: path.clone(),
    };
    let info = clone.commit(commit)?;
    Ok(match parse_tree(&clone.files(commit)?, &of, components) {
        Ok((units, problems)) => Ok(Arc::new(Head { commit: info, units, problems })),
        Err(FileError::Damaged(why)) => return Err(CloneError::Damaged(why)),
        Err(FileError::Missing(_)) => Err(BranchError::NoFolder { branch: String::new(), path: path.clone() }),
        Err(other) => Err(BranchError::Refused { commit: of.commit, reason: other.to_string() }),
    })
}

/// Says in which branch.
fn named(parsed: Parsed, name: &str) -> Parsed {
    parsed.map_err(|error| match error {
        BranchError::NoFolder { branch: _, path } => BranchError::NoFolder { branch: name.to_owned(), path },
        BranchError::Missing { .. } | BranchError::Refused { .. } => error,
    })
}

fn own_fault(error: CloneError) -> SourceError {
    match error {
        CloneError::Source(error) => error,
        CloneError::Damaged(why) => SourceError::WorkFolder(format!("a clone cannot be used: {why}")),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CloneError> + Send + 'static,
) -> Result<T, CloneError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(SourceError::WorkFolder(format!("work on a clone was cut short: {e}")).into()))
}
