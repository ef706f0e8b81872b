//! From a git repository to revisions: what each branch wants, unit by unit.
//!
//! [`Source::poll`] asks the server for its heads (one request while nothing changed), fetches what is
//! new at depth 1, and reads the manifests straight from the object store: nothing is checked out,
//! nothing is executed. It decides nothing: a file that cannot be read becomes a [`Problem`] of its
//! unit, and the caller keeps what ran before.

mod claims;
mod error;
mod git;
mod manifest;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use sluice_config::{Artifact, Digest, Environment, Revision, UnitRef};
use sluice_crds::{RepositorySpec, Source as SeenAt};

pub use claims::{Claim, Claimed, Conflict, conflicts};
pub use error::{BranchError, SourceError};
pub use git::Web;
pub use manifest::{FileError, Files, Known, ListedFile, Problem, TreeOf, parse_tree};

/// Which Repository object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the Secret of a Repository holds. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User of basic authentication; key `username`, any text where a token is all that counts.
    pub username: String,
    /// Password or token; key `password`.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// What a repository may cost, and where it may be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the bare clones, one folder a repository. May be lost at any time.
    pub work_dir: PathBuf,
    /// Whether a git server on a loopback address is allowed: tests and local tries only.
    pub allow_loopback: bool,
    /// Addresses no git server may have, e.g. the API server's.
    pub refused_addresses: BTreeSet<IpAddr>,
    /// PEM certificates of private authorities that git servers' certificates may come from.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// Time for one answer of a git server; a poll needs one, and another for what is new.
    pub timeout: Duration,
    /// Bytes of one answer of a git server, on the wire.
    pub fetch_bytes_max: u64,
    /// Bytes of all objects of one answer, unpacked.
    pub unpacked_bytes_max: u64,
    /// Objects of one answer.
    pub objects_max: u32,
    /// Bytes of one object, unpacked.
    pub object_bytes_max: u64,
}

impl Options {
    /// The limits of production.
    #[must_use]
    pub fn new(work_dir: PathBuf) -> Self {
        Self {
            work_dir,
            allow_loopback: false,
            refused_addresses: BTreeSet::new(),
            extra_ca_pem: None,
            timeout: Duration::from_secs(60),
            fetch_bytes_max: 256 << 20,
            unpacked_bytes_max: 1 << 30,
            objects_max: 200_000,
            object_bytes_max: 64 << 20,
        }
    }
}

/// What a poll saw, by environment. One branch that is gone does not hold up the other.
pub type Heads = BTreeMap<Environment, Result<Arc<Head>, BranchError>>;

/// The head of a branch, read and parsed. The same `Arc` as before while branch and path are unchanged.
#[derive(Debug)]
pub struct Head {
    /// The commit.
    pub commit: CommitInfo,
    /// One entry a unit found in the tree, sorted by [`UnitRef`]. A unit that is not here is not in the branch.
    pub units: Vec<ParsedUnit>,
    /// What is wrong with files that could not even be given to a unit (a folder's name is no unit name).
    pub problems: Vec<Problem>,
}

/// A commit, as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// 40 hex digits.
    pub sha: String,
    /// Name of the author, at most 100 characters.
    pub author: String,
    /// First line of the message, at most 200 characters.
    pub subject: String,
    /// When it was committed, as the commit says.
    pub time: Timestamp,
}

/// One unit of a tree: its revision, or why there is none.
#[derive(Clone, Debug)]
pub struct ParsedUnit {
    /// Which unit, by the file's place in the tree.
    pub unit: UnitRef,
    /// Path of the manifest from the repository's root.
    pub path: String,
    /// The revision. On a problem the unit is there, its former head stays.
    pub result: Result<ParsedRevision, Problem>,
}

/// A revision that passed every check that needs no cluster.
#[derive(Clone, Debug)]
pub struct ParsedRevision {
    /// The content.
    pub revision: Revision,
    /// Its digest.
    pub digest: Digest,
    /// Where it was read.
    pub source: SeenAt,
    /// The component's bytes in this commit; workers only. See [`Source::read_artifact`].
    pub artifact: Option<ArtifactAt>,
}

/// Where in a repository the bytes of an artifact are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactAt {
    /// What the bytes must be.
    pub artifact: Artifact,
    /// Path from the repository's root.
    pub path: String,
    /// Commit in which it was seen.
    pub commit: String,
}

/// A branch that takes something back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The branch that it is to be merged into.
    pub base: String,
    /// The new branch. One of that name that is there already is left as it is.
    pub branch: String,
    /// What it changes.
    pub restores: Vec<Restore>,
    /// The commit's message.
    pub message: String,
    /// When it was decided: the commit's time.
    pub time: Timestamp,
}

/// Files that get the content of another commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// Files and folders, from the repository's root.
    pub paths: BTreeSet<String>,
    /// The commit, in which some of them may not be; none: they go.
    pub from: Option<String>,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// The branch is there.
    Pushed,
    /// There is nothing to change.
    Needless,
}

/// All repositories of this process: clones on disk, parsed heads in memory. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    inner: Arc<git::Clones>,
}

impl Source {
    /// Makes the work folder. Nothing is fetched yet.
    ///
    /// # Errors
    /// When the folder or the HTTPS client cannot be made.
    pub fn new(options: Options) -> Result<Self, SourceError> {
        Ok(Self { inner: Arc::new(git::Clones::new(options)?) })
    }

    /// For requests to what a Repository names beside its git server.
    #[must_use]
    pub fn web(&self) -> &Web {
        self.inner.web()
    }

    /// Asks for the heads of both branches, fetches and parses what is new. Polls of one repository
    /// wait for each other; polls of different repositories do not.
    ///
    /// # Errors
    /// What concerns the repository as a whole: unreachable, 401, moved, too large. What concerns
    /// one branch stands in its entry.
    pub async fn poll(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        credentials: Option<&Credentials>,
    ) -> Result<Heads, SourceError> {
        self.inner.poll(id, spec, credentials).await
    }

    /// The bytes of an artifact that a poll saw; fetched again if the clone was lost meanwhile.
    ///
    /// # Errors
    /// As [`Self::fetch_blob_at`], and when the bytes are not what they were.
    pub async fn read_artifact(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        credentials: Option<&Credentials>,
        at: &ArtifactAt,
    ) -> Result<Vec<u8>, SourceError> {
        let bytes = self.fetch_blob_at(id, spec, credentials, &at.commit, &at.path).await?;
        if Digest::of(&bytes) == at.artifact.digest {
            Ok(bytes)
        } else {
            Err(SourceError::OtherContent { path: at.path.clone(), commit: at.commit.clone() })
        }
    }

    /// A file as of some commit, also one that is no longer a head: from the clone, else by asking
    /// the server for just that commit, else (servers that refuse that) through the branches' history.
    ///
    /// # Errors
    /// Unreachable, commit gone, no such file, no regular file, over the size limit.
    pub async fn fetch_blob_at(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        credentials: Option<&Credentials>,
        commit: &str,
        path: &str,
    ) -> Result<Vec<u8>, SourceError> {
        self.inner.fetch_blob_at(id, spec, credentials, commit, path).await
    }

    /// Pushes a new branch. The first credentials read, the second write.
    ///
    /// # Errors
    /// As [`Self::fetch_blob_at`], and when the server does not take the push.
    pub async fn propose(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        credentials: (Option<&Credentials>, &Credentials),
        proposal: Proposal,
    ) -> Result<Proposed, SourceError> {
        self.inner.propose(id, spec, credentials, proposal).await
    }

    /// Removes the clones of all repositories but these.
    ///
    /// # Errors
    /// When the work folder cannot be read or a clone not be removed.
    pub async fn retain(&self, ids: &BTreeSet<RepositoryId>) -> Result<(), SourceError> {
        self.inner.retain(ids).await
    }
}
