//! Pushes a branch that takes something back.

use git2::Oid;
use sluice_crds::RepositorySpec;

use super::{
    Clones,
    amend::Restored,
    fetch::{At, own_fault},
    protocol::{Advertisement, Want},
};
use crate::source::{Credentials, Proposal, Proposed, RepositoryId, SourceError};

impl Clones {
    pub(in crate::source) async fn propose(
        &self,
        id: &RepositoryId,
        spec: &RepositorySpec,
        (reader, writer): (Option<&Credentials>, &Credentials),
        proposal: Proposal,
    ) -> Result<Proposed, SourceError> {
        let at = self.at(id, spec, reader)?;
        let slot = self.slot(id);
        let _alone = slot.lock().await;
        let advertised = self.fetcher.refs(&at).await?;
        if advertised.branches.contains_key(&proposal.branch) {
            return Ok(Proposed::Pushed);
        }
        let Some(head) = advertised.branches.get(&proposal.base).copied() else { return Ok(Proposed::Needless) };
        let mut restored = Vec::new();
        for restore in &proposal.restores {
            let gone =
                || SourceError::CommitGone(restore.from.as_deref().unwrap_or_default().chars().take(64).collect());
            let from = restore.from.as_deref().map(Oid::from_str).transpose().map_err(|_| gone())?;
            restored.push(Restored { paths: restore.paths.iter().cloned().collect(), from });
        }
        let needed = restored.iter().filter_map(|r| r.from).chain([head]).collect();
        self.obtain(&at, spec, &advertised, needed).await?;
        let branch = proposal.branch.clone();
        let amended = at.on_clone(move |clone| clone.amend(head, &restored, &proposal)).await.map_err(own_fault)?;
        let Some(amended) = amended else { return Ok(Proposed::Needless) };
        self.fetcher.push(&self.at(id, spec, Some(writer))?, &branch, &amended).await?;
        Ok(Proposed::Pushed)
    }

    /// Sees that commits are in the clone: by asking for them, or through the history of the branches.
    async fn obtain(
        &self,
        at: &At<'_>,
        spec: &RepositorySpec,
        advertised: &Advertisement,
        needed: Vec<Oid>,
    ) -> Result<(), SourceError> {
        let missing = at.on_clone(move |clone| Ok(needed.into_iter().filter(|c| !clone.has(*c)).collect::<Vec<_>>()));
        let missing = missing.await.map_err(own_fault)?;
        let capabilities = &advertised.capabilities();
        let want = Want { commits: &missing, have: &[], history: false, capabilities };
        if missing.is_empty() {
            return Ok(());
        }
        if advertised.any_commit() || missing.iter().all(|c| advertised.branches.values().any(|head| head == c)) {
            match self.fetcher.objects(at, &want).await {
                Err(SourceError::Refused(_)) => {}
                done => return done,
            }
        }
        let branches = [&spec.branches.staging, &spec.branches.production];
        let mut heads: Vec<Oid> = branches.into_iter().filter_map(|b| advertised.branches.get(b).copied()).collect();
        heads.dedup();
        self.fetcher.objects(at, &Want { commits: &heads, have: &[], history: true, capabilities }).await?;
        let found = at.on_clone(move |clone| Ok(missing.into_iter().find(|c| !clone.has(*c))));
        found.await.map_err(own_fault)?.map_or(Ok(()), |gone| Err(SourceError::CommitGone(gone.to_string())))
    }
}
