//! Pushes a branch that takes something back.

use git2::Oid;
use sluice_crds::RepositorySpec;

use super::{Clones, fetch::own_fault};
use crate::source::{Credentials, Proposal, Proposed, RepositoryId, Restore, SourceError};

impl Restore {
    /// The commit that has the content.
    pub(super) fn commit(&self) -> Result<Option<Oid>, SourceError> {
        let gone = |commit: &str| SourceError::CommitGone(commit.chars().take(64).collect());
        self.from.as_deref().map(|commit| Oid::from_str(commit).map_err(|_| gone(commit))).transpose()
    }
}

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
        let mut needed = vec![head];
        for restore in &proposal.restores {
            needed.extend(restore.commit()?);
        }
        let missing = at.on_clone(move |clone| Ok(clone.missing(needed))).await.map_err(own_fault)?;
        if !missing.is_empty() {
            self.fetch_commits(&at, spec, &advertised, &missing).await?;
            let gone = at.on_clone(move |clone| Ok(clone.missing(missing))).await.map_err(own_fault)?;
            if let Some(gone) = gone.first() {
                return Err(SourceError::CommitGone(gone.to_string()));
            }
        }
        let branch = proposal.branch.clone();
        let amended = at.on_clone(move |clone| clone.amend(head, &proposal)).await.map_err(own_fault)?;
        let Some(amended) = amended else { return Ok(Proposed::Needless) };
        self.fetcher.push(&self.at(id, spec, Some(writer))?, &branch, &amended).await?;
        Ok(Proposed::Pushed)
    }
}
