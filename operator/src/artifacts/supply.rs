//! Gets an artifact onto this replica's disk: it may be there, a peer may have it, git has it.

use std::collections::BTreeSet;

use sluice_config::{Artifact, Digest};
use sluice_crds::RepositorySpec;

use super::{
    peers::Peers,
    store::{Store, StoreError},
};
use crate::source::{ArtifactAt, Credentials, RepositoryId, Source, SourceError};

/// Why an artifact is not here.
#[derive(Debug, thiserror::Error)]
pub enum SupplyError {
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Neither peers nor git.
    #[error("artifact {digest} is on no other replica, and from git: {error}")]
    Git {
        /// Which.
        digest: Digest,
        /// Why not.
        error: SourceError,
    },
    /// Its Repository is gone.
    #[error("artifact {0} is on no other replica, and its Repository is gone: create the Repository again")]
    Nowhere(Digest),
}

/// Where the artifact came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supplied {
    /// It was here.
    Disk,
    /// Another replica had it.
    Peer,
    /// From its repository.
    Git,
}

/// Where in git an artifact stands: from the Revision's `source` and its Repository.
#[derive(Clone, Copy, Debug)]
pub struct FromGit<'a> {
    /// The Repository.
    pub repository: &'a RepositoryId,
    /// Its spec.
    pub spec: &'a RepositorySpec,
    /// Its Secret.
    pub credentials: Option<&'a Credentials>,
    /// Commit in which it was seen.
    pub commit: &'a str,
    /// Path in that commit.
    pub path: &'a str,
}

/// Disk, peers, git.
#[derive(Clone)]
pub struct Supply {
    store: Store,
    peers: Option<Peers>,
    source: Source,
}

impl Supply {
    /// From these; without peers where there is one replica.
    #[must_use]
    pub fn new(store: Store, peers: Option<Peers>, source: Source) -> Self {
        Self { store, peers, source }
    }

    /// Makes sure that an artifact is on this replica's disk.
    ///
    /// # Errors
    /// It is nowhere, or the disk fails.
    pub async fn ensure(&self, artifact: &Artifact, from: Option<&FromGit<'_>>) -> Result<Supplied, SupplyError> {
        if self.store.has(&artifact.digest) {
            return Ok(Supplied::Disk);
        }
        if let Some(bytes) = self.ask_peers(artifact).await {
            self.store.put(&artifact.digest, bytes).await?;
            return Ok(Supplied::Peer);
        }
        let Some(from) = from else { return Err(SupplyError::Nowhere(artifact.digest.clone())) };
        let at = ArtifactAt { artifact: artifact.clone(), path: from.path.to_owned(), commit: from.commit.to_owned() };
        let bytes = self
            .source
            .read_artifact(from.repository, from.spec, from.credentials, &at)
            .await
            .map_err(|error| SupplyError::Git { digest: artifact.digest.clone(), error })?;
        self.store.put(&artifact.digest, bytes).await?;
        Ok(Supplied::Git)
    }

    /// Removes clones of repositories that are gone.
    ///
    /// # Errors
    /// When the folder of clones cannot be read, or a clone not be removed.
    pub async fn forget_repositories(&self, known: &BTreeSet<RepositoryId>) -> Result<(), SourceError> {
        self.source.retain(known).await
    }

    async fn ask_peers(&self, artifact: &Artifact) -> Option<Vec<u8>> {
        match self.peers.as_ref()?.fetch(artifact).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, "peers cannot be asked for artifacts");
                None
            }
        }
    }
}
