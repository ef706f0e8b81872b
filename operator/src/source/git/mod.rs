//! Polls git servers over HTTP(S) and keeps one bare clone a repository.

mod amend;
mod clone;
mod fetch;
mod http;
mod pack;
mod propose;
mod protocol;
mod url;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use git2::Oid;
use sluice_config::{Environment, limits};
use sluice_crds::RepositorySpec;
use tokio::sync::Mutex;

use super::{
    BranchError, Credentials, Head, Heads, Options, RepositoryId, SourceError,
    manifest::{FileError, Files, Known, TreeOf, parse_tree},
};
use clone::{BareClone, CloneError};
use fetch::{At, Fetcher, blocking, own_fault};
use protocol::{Advertisement, Want};
use url::{AddressRules, GitUrl};

pub use self::http::Web;

/// All clones of this process.
pub(super) struct Clones {
    work_dir: PathBuf,
    /// Bytes of a clone's packs above which a fresh one is smaller.
    worn_bytes: u64,
    rules: AddressRules,
    fetcher: Fetcher,
    slots: std::sync::Mutex<BTreeMap<RepositoryId, Arc<Mutex<Slot>>>>,
}

/// What is remembered of a repository between polls; whoever holds it works on the clone alone.
#[derive(Default)]
struct Slot {
    parsed: BTreeMap<Oid, Parsed>,
    /// Folder in the repository that `parsed` is of, and URL that it came from.
    of: (String, String),
    known: Known,
}

type Parsed = Result<Arc<Head>, BranchError>;
type Commits = BTreeMap<Environment, Oid>;

impl Clones {
    pub(super) fn new(options: Options) -> Result<Self, SourceError> {
        std::fs::create_dir_all(&options.work_dir).map_err(|e| SourceError::WorkFolder(e.to_string()))?;
        Ok(Self {
            work_dir: options.work_dir.clone(),
            worn_bytes: options.fetch_bytes_max.saturating_mul(2),
            rules: AddressRules::of(&options),
            fetcher: Fetcher::new(options)?,
            slots: std::sync::Mutex::default(),
        })
    }

    pub(super) fn web(&self) -> &Web {
        self.fetcher.web()
    }

    pub(super) async fn poll(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        credentials: Option<&Credentials>,
    ) -> Result<Heads, SourceError> {
        let at = self.at(id, spec, credentials)?;
        let slot = self.slot(id);
        let mut slot = slot.lock().await;
        slot.forget_unless(&spec.path, &spec.url);
        let advertised = self.fetcher.refs(&at).await?;
        let branches =
            [(Environment::Staging, &spec.branches.staging), (Environment::Production, &spec.branches.production)];
        let heads: Commits = branches
            .iter()
            .filter_map(|(environment, branch)| Some((*environment, *advertised.branches.get(*branch)?)))
            .collect();
        if heads.values().any(|commit| !slot.parsed.contains_key(commit)) {
            self.read_heads((id, &spec.path), &at, &mut slot, &heads, &advertised).await?;
        }
        slot.parsed.retain(|commit, _| heads.values().any(|head| head == commit));
        Ok(branches
            .into_iter()
            .map(|(environment, branch)| {
                let parsed = heads.get(&environment).and_then(|commit| slot.parsed.get(commit).cloned());
                let gone = || Err(BranchError::Missing { branch: branch.clone() });
                (environment, parsed.map_or_else(gone, |parsed| named(parsed, branch)))
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
        let at = self.at(id, spec, credentials)?;
        let gone = || SourceError::CommitGone(commit.chars().take(64).collect());
        let oid = Oid::from_str(commit).map_err(|_| gone())?;
        let slot = self.slot(id);
        let _alone = slot.lock().await;
        match file(&at, oid, path).await {
            Err(CloneError::Damaged(_)) => {}
            Err(CloneError::Source(error)) => return Err(error),
            Ok(bytes) => return Ok(bytes),
        }
        let advertised = self.fetcher.refs(&at).await?;
        self.fetch_commits(&at, spec, &advertised, &[oid]).await?;
        file_or_gone(&at, oid, path).await
    }

    /// Commits that may be no heads any more: by asking the server for just them, else (servers that refuse that) through
    /// the branches' history, in which they may not be.
    async fn fetch_commits(
        &self,
        at: &At<'_>,
        spec: &RepositorySpec,
        advertised: &Advertisement,
        commits: &[Oid],
    ) -> Result<(), SourceError> {
        let capabilities = &advertised.capabilities();
        let is_head = |commit: &Oid| advertised.branches.values().any(|head| head == commit);
        if advertised.any_commit() || commits.iter().all(is_head) {
            match self.fetcher.objects(at, &Want { commits, have: &[], history: false, capabilities }).await {
                // They may still stand in the history of a branch.
                Err(SourceError::Refused(_)) => {}
                done => return done,
            }
        }
        let branches = [&spec.branches.staging, &spec.branches.production];
        let mut heads: Vec<Oid> = branches.into_iter().filter_map(|b| advertised.branches.get(b).copied()).collect();
        heads.dedup();
        if heads.is_empty() {
            let commit = commits.first().map(Oid::to_string).unwrap_or_default();
            return Err(SourceError::CommitGone(commit));
        }
        self.fetcher.objects(at, &Want { commits: &heads, have: &[], history: true, capabilities }).await
    }

    pub(super) async fn retain(&self, ids: &BTreeSet<RepositoryId>) -> Result<(), SourceError> {
        self.slots().retain(|id, _| ids.contains(id));
        let names: BTreeSet<String> = ids.iter().map(folder_name).collect();
        let work_dir = self.work_dir.clone();
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
        of: (&RepositoryId, &str),
        at: &At<'_>,
        slot: &mut Slot,
        heads: &Commits,
        advertised: &Advertisement,
    ) -> Result<(), SourceError> {
        match self.try_heads(of, at, slot, heads, advertised).await {
            Err(CloneError::Damaged(why)) => tracing::warn!(repository = %of.0, why, "damaged clone, fetching anew"),
            Err(CloneError::Source(error)) => return Err(error),
            Ok(()) => return Ok(()),
        }
        let folder = at.folder.clone();
        blocking(move || clone::remove(&folder)).await.map_err(own_fault)?;
        slot.known = Known::default();
        self.try_heads(of, at, slot, heads, advertised).await.map_err(own_fault)
    }

    async fn try_heads(
        &self,
        (id, path): (&RepositoryId, &str),
        at: &At<'_>,
        slot: &mut Slot,
        heads: &Commits,
        advertised: &Advertisement,
    ) -> Result<(), CloneError> {
        let commits: BTreeSet<Oid> = heads.values().copied().collect();
        let asked = commits.clone();
        let missing = move |clone: &BareClone| clone.missing(asked.iter().copied());
        let (folder, url, worn_bytes) = (at.folder.clone(), at.url.base.clone(), self.worn_bytes);
        let (missing, have) = blocking(move || {
            let mut clone = BareClone::open(&folder, &url)?;
            if !missing(&clone).is_empty() && clone.is_worn(worn_bytes) {
                drop(clone);
                clone::remove(&folder)?;
                clone = BareClone::open(&folder, &url)?;
            }
            Ok((missing(&clone), clone.kept()))
        })
        .await?;
        if !missing.is_empty() {
            let capabilities = &advertised.capabilities();
            let want = Want { commits: &missing, have: &have, history: false, capabilities };
            self.fetcher.objects(at, &want).await?;
        }
        let new: Vec<Oid> = commits.into_iter().filter(|c| !slot.parsed.contains_key(c)).collect();
        let (of, heads) = ((id.clone(), path.to_owned()), heads.clone());
        let mut known = std::mem::take(&mut slot.known);
        let parse = move |clone: BareClone| {
            for (environment, commit) in &heads {
                clone.keep(environment.as_str(), *commit)?;
            }
            let mut parsed = Vec::new();
            for commit in new {
                parsed.push((commit, parse_commit(&clone, &of, commit, &mut known)?));
            }
            Ok((parsed, known))
        };
        let (parsed, known) = at.on_clone(parse).await?;
        slot.parsed.extend(parsed);
        slot.known = known;
        Ok(())
    }

    fn at<'a>(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        credentials: Option<&'a Credentials>,
    ) -> Result<At<'a>, SourceError> {
        let url = GitUrl::parse(&spec.url, &self.rules)?;
        Ok(At { url, credentials, folder: self.work_dir.join(folder_name(id)) })
    }

    fn slot(&self, id: &RepositoryId) -> Arc<Mutex<Slot>> {
        self.slots().entry(id.clone()).or_default().clone()
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<RepositoryId, Arc<Mutex<Slot>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A file out of the clone; `Damaged` also where the commit is not there.
async fn file(at: &At<'_>, commit: Oid, path: &str) -> Result<Vec<u8>, CloneError> {
    let path = path.to_owned();
    at.on_clone(move |clone| {
        clone.files(commit)?.read(&path, limits::ARTIFACT_BYTES).map_err(|error| match error {
            FileError::Damaged(why) => CloneError::Damaged(why),
            FileError::Missing(_)
            | FileError::Symlink(_)
            | FileError::Folder(_)
            | FileError::Submodule(_)
            | FileError::TooLarge { .. }
            | FileError::Refused(_) => {
                SourceError::File { commit: commit.to_string(), reason: error.to_string() }.into()
            }
        })
    })
    .await
}

async fn file_or_gone(at: &At<'_>, commit: Oid, path: &str) -> Result<Vec<u8>, SourceError> {
    file(at, commit, path).await.map_err(|error| match error {
        CloneError::Source(error) => error,
        CloneError::Damaged(_) => SourceError::CommitGone(commit.to_string()),
    })
}

/// One commit of a branch not yet named: two branches may share it.
fn parse_commit(
    clone: &BareClone,
    (id, path): &(RepositoryId, String),
    commit: Oid,
    known: &mut Known,
) -> Result<Parsed, CloneError> {
    let of = TreeOf {
        namespace: id.namespace.clone(),
        repository: id.name.clone(),
        commit: commit.to_string(),
        path: path.clone(),
    };
    let info = clone.commit(commit)?;
    Ok(match parse_tree(&clone.files(commit)?, &of, known) {
        Ok((units, problems)) => Ok(Arc::new(Head { commit: info, units, problems })),
        Err(FileError::Damaged(why)) => return Err(CloneError::Damaged(why)),
        Err(FileError::Missing(_)) => Err(BranchError::NoFolder { branch: String::new(), path: path.clone() }),
        Err(
            other @ (FileError::Refused(_)
            | FileError::Symlink(_)
            | FileError::Folder(_)
            | FileError::Submodule(_)
            | FileError::TooLarge { .. }),
        ) => Err(BranchError::Refused { commit: of.commit, reason: other.to_string() }),
    })
}

/// Says in which branch.
fn named(parsed: Parsed, name: &str) -> Parsed {
    parsed.map_err(|error| match error {
        BranchError::NoFolder { branch: _, path } => BranchError::NoFolder { branch: name.to_owned(), path },
        BranchError::Missing { .. } | BranchError::Refused { .. } => error,
    })
}
