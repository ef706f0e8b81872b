//! Artifacts on this replica: kept before anything names them, and all that is assigned. A replica is ready
//! only while it holds what nodes may ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use kube::{Client, ResourceExt};
use sluice_config::{Artifact, Digest, UnitRef};
use sluice_crds::{RepositorySpec, Revision};
use tokio::{sync::watch, time::Instant};

use crate::{
    artifacts::{FromGit, Store, Supply},
    polls,
    source::{Credentials, ParsedRevision, RepositoryId},
    stores::Stores,
};

/// Changes come in bursts.
const SETTLE: Duration = Duration::from_millis(200);
/// What could not be had is tried again after this, then after twice as long, up to the longest.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// At once, so that one slow server does not hold up what others have.
const FETCHES: usize = 4;

/// Between two looks for what nobody needs.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);
/// An artifact is here before its Revision is.
const COLLECT_AGE: Duration = Duration::from_secs(24 * 3600);

/// What this replica holds.
#[derive(Clone)]
pub struct Holdings {
    store: Store,
    supply: Supply,
    stores: Stores,
    client: Client,
}

impl Holdings {
    /// Over a store and where it is filled from.
    #[must_use]
    pub fn new(store: Store, supply: Supply, stores: Stores, client: Client) -> Self {
        Self { store, supply, stores, client }
    }

    /// Makes sure that a revision's artifact is on this replica's disk.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn keep(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        credentials: Option<&Credentials>,
        parsed: &ParsedRevision,
    ) -> Result<(), String> {
        let Some(at) = &parsed.artifact else { return Ok(()) };
        let from = FromGit { repository: id, spec, credentials, commit: &at.commit, path: &at.path };
        self.supply.ensure(&at.artifact, Some(&from)).await.map(drop).map_err(|error| error.to_string())
    }

    /// Holds what is assigned, on every replica, and tells what is missing. What nobody has any more is lost: its
    /// nodes say so, and it is no reason to keep all the others from what is here.
    pub async fn hold(self, missing: watch::Sender<String>) {
        let mut changes = self.stores.changes();
        let mut lost: BTreeMap<Digest, Lost> = BTreeMap::new();
        loop {
            changes.mark_unchanged();
            let assigned = self.assigned();
            let absent = |digest: &Digest| !self.store.has(digest);
            lost.retain(|digest, _| assigned.contains_key(digest) && absent(digest));
            let digests = assigned.keys().filter(|digest| absent(digest) && !lost.contains_key(digest));
            // Whoever is asked for what it lacks must not be asked.
            tell(&missing, &digests.cloned().collect());
            let now = Instant::now();
            let due = |digest: &&Digest| absent(digest) && lost.get(*digest).is_none_or(|lost| lost.again_at <= now);
            let wanted: Vec<_> = assigned.clone().into_iter().filter(|(digest, _)| due(&digest)).collect();
            let fetches = wanted.into_iter().map(|(digest, (revision, artifact))| {
                let this = self.clone();
                async move { (digest, this.fetch(&revision, &artifact).await) }
            });
            let mut fetches = stream::iter(fetches).buffer_unordered(FETCHES);
            let mut failed = Vec::new();
            while let Some((digest, fetched)) = fetches.next().await {
                if !fetched {
                    failed.push(digest);
                }
            }
            for digest in failed {
                let pause = lost.get(&digest).map_or(RETRY, |lost| (lost.pause * 2).min(RETRY_MAX));
                lost.insert(digest, Lost { again_at: Instant::now() + pause, pause });
            }
            tell(&missing, &BTreeSet::new());
            let again = lost.values().map(|lost| lost.again_at).min();
            let again = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = again => {}
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Removes, every hour, what no Revision names any more.
    pub async fn collect(self) {
        let mut hours = tokio::time::interval(COLLECT_EVERY);
        loop {
            hours.tick().await;
            let revisions = self.stores.revisions.state();
            let named = revisions.iter().filter_map(|revision| revision.spec.content.artifact.as_ref());
            let repositories = self.stores.repositories.state();
            let repositories = repositories.iter().filter_map(|repository| {
                Some(RepositoryId { namespace: repository.namespace()?, name: repository.name_any() })
            });
            if let Err(error) = self.supply.forget_repositories(&repositories.collect()).await {
                tracing::warn!(%error, "clones of repositories that are gone stay");
            }
            match self.store.collect(named.map(|artifact| artifact.digest.clone()).collect(), COLLECT_AGE).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "artifacts that no Revision names"),
                Err(error) => tracing::warn!(%error, "old artifacts stay"),
            }
        }
    }

    /// Artifacts of every revision that an assignment names, also of those that are gone back to.
    fn assigned(&self) -> BTreeMap<Digest, (std::sync::Arc<Revision>, Artifact)> {
        let mut named: BTreeSet<(UnitRef, Digest)> = BTreeSet::new();
        for assignment in self.stores.assignments.state() {
            for entry in &assignment.spec.wire.entries {
                let digests = entry.revision.iter().chain(&entry.stable);
                named.extend(digests.map(|digest| (entry.unit(), digest.clone())));
            }
        }
        let find = |(unit, digest): (UnitRef, Digest)| {
            let revision = self.stores.revision(&unit, &digest)?;
            let artifact = revision.spec.content.artifact.clone()?;
            Some((artifact.digest.clone(), (revision, artifact)))
        };
        named.into_iter().filter_map(find).collect()
    }

    /// Whether it is here then.
    async fn fetch(&self, revision: &Revision, artifact: &Artifact) -> bool {
        let Some(namespace) = revision.namespace() else { return false };
        let seen = &revision.spec.source;
        let id = RepositoryId { namespace, name: seen.repository.clone() };
        let repository = self.stores.repository(&id);
        let credentials = match &repository {
            Some(repository) => polls::credentials(&self.client, &id, &repository.spec).await.ok().flatten(),
            None => None,
        };
        let from = repository.as_ref().zip(seen.artifact_path.as_ref()).map(|(repository, path)| FromGit {
            repository: &id,
            spec: &repository.spec,
            credentials: credentials.as_ref(),
            commit: &seen.commit,
            path,
        });
        let ensured = self.supply.ensure(artifact, from.as_ref()).await;
        if let Err(error) = &ensured {
            tracing::warn!(revision = revision.name_any(), %error, "an assigned artifact is not here");
        }
        ensured.is_ok()
    }
}

/// An artifact that could not be had.
#[derive(Clone, Copy, Debug)]
struct Lost {
    again_at: Instant,
    pause: Duration,
}

fn tell(missing: &watch::Sender<String>, digests: &BTreeSet<Digest>) {
    let text = match digests.first() {
        None => String::new(),
        Some(first) => format!("{} assigned artifacts are not here yet, {} for one\n", digests.len(), first.short()),
    };
    missing.send_if_modified(|old| (*old != text).then(|| *old = text).is_some());
}
