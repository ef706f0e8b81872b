//! Proposes to git what takes a rejected revision out of its branch: a branch on which the unit's files are as they were
//! in the stable revision, and a pull request of it. The teller's work, for whoever asked for it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::ResourceExt;
use sluice_config::{Digest, Environment, UnitKind, UnitRef};
use sluice_crds::{Memory, Phase, Repository, Rollout, RolloutStatus, RolloutUnit};

use crate::{
    execute::Hands,
    polls,
    provider::{self, Project, PullRequest},
    source::{Credentials, Proposal, Proposed, RepositoryId, Restore, Source},
    stores::Stores,
};

/// What became of it, in a rollout's status.
pub(crate) const CONDITION: &str = "RevertPullRequest";

/// Whether an attempt may have left something in a branch that was rejected.
pub(crate) fn is_rejected(status: &RolloutStatus) -> bool {
    matches!(status.phase, Phase::Reverted | Phase::Aborted)
}

/// What takes out of the branch what it wants and this attempt was rejected with, if that was asked for.
pub(crate) fn proposal(stores: &Stores, repository: &Repository, rollout: &Rollout) -> Option<Proposal> {
    let status = rollout.status.as_ref().filter(|status| is_rejected(status))?;
    if !repository.spec.commit_status.as_ref().is_some_and(|api| api.revert_pull_request) {
        return None;
    }
    let restores: Vec<Restore> =
        rollout.spec.units.iter().filter_map(|change| restore(stores, rollout, change)).collect();
    if restores.is_empty() {
        return None;
    }
    let base = match rollout.spec.environment {
        Environment::Staging => repository.spec.branches.staging.clone(),
        Environment::Production => repository.spec.branches.production.clone(),
    };
    let name = rollout.name_any();
    let message = format!(
        "Take {} back to what is stable in {}\n\n{} was rejected ({}: {}).\n\nRollout: {}/{name}\n",
        rollout.spec.title,
        rollout.spec.environment,
        rollout.spec.revision,
        status.group,
        status.message,
        rollout.namespace().unwrap_or_default(),
    );
    let time = status.ended_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |ended| ended.0);
    Some(Proposal { base, branch: format!("sluice/revert-{name}"), restores, message, time })
}

/// The files of one unit, if its branch still wants what was rejected here.
fn restore(stores: &Stores, rollout: &Rollout, change: &RolloutUnit) -> Option<Restore> {
    let unit = UnitRef::new(change.kind, rollout.namespace()?, change.name.clone());
    let stored = stores.unit(&unit)?;
    let memory = stored.spec.environments.of(rollout.spec.environment);
    if !is_left(memory, change.revision.as_ref(), &rollout.name_any()) {
        return None;
    }
    let seen = |digest: &Digest| stores.revision(&unit, digest).map(|revision| revision.spec.source.clone());
    let rejected = change.revision.as_ref().and_then(&seen);
    let stable = match memory.stable.as_ref().and_then(|stable| stable.digest.as_ref()) {
        Some(digest) => Some(seen(digest)?),
        None => None,
    };
    let mut paths = BTreeSet::new();
    for source in rejected.iter().chain(&stable) {
        paths.extend(files(change.kind, &source.path, source.artifact_path.as_deref()));
    }
    Some(Restore { paths, from: stable.map(|source| source.commit) })
}

/// Whether the branch still wants what was rejected in this rollout.
fn is_left(memory: &Memory, revision: Option<&Digest>, rollout: &str) -> bool {
    let is_wanted = memory.head.as_ref().is_some_and(|head| head.digest.as_ref() == revision);
    let mut rejected = memory.rejected.iter();
    is_wanted && rejected.any(|rejected| rejected.digest.as_ref() == revision && rejected.rollout == rollout)
}

/// A worker is a folder, and perhaps an artifact elsewhere; everything else is a file.
pub(crate) fn files(kind: UnitKind, manifest: &str, artifact: Option<&str>) -> Vec<String> {
    let folder = match (kind, manifest.rsplit_once('/')) {
        (UnitKind::Worker, Some((folder, _))) => folder,
        (UnitKind::Worker | UnitKind::Routes | UnitKind::Config, _) => manifest,
    };
    let is_outside = |path: &&str| !path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    let outside = artifact.filter(is_outside);
    [folder].into_iter().chain(outside).map(str::to_owned).collect()
}

/// Pushes the branch and opens the pull request. What became of it in a word, and where people find it; or the reason in
/// a word, and a sentence.
pub(crate) async fn propose(
    hands: &Hands,
    source: &Source,
    (id, repository): (&RepositoryId, &Repository),
    writer: &Credentials,
    project: &Project<'_>,
    proposal: Proposal,
) -> Result<(&'static str, String), (&'static str, String)> {
    let reader = polls::credentials(hands.writer.client(), id, &repository.spec).await;
    let reader = reader.map_err(|message| ("SecretMissing", message))?;
    let (title, text) = proposal.message.split_once("\n\n").unwrap_or((&proposal.message, ""));
    let (head, base) = (proposal.branch.clone(), proposal.base.clone());
    let pull = PullRequest { head: head.clone(), base, title: title.to_owned(), text: text.to_owned() };
    match source.propose(id, &repository.spec, (reader.as_ref(), writer), proposal).await {
        Ok(Proposed::Pushed) => {}
        Ok(Proposed::Needless) => return Ok(("Needless", "the branch has what is stable".to_owned())),
        Err(error) => return Err((error.reason(), format!("branch {head} cannot be pushed: {error}"))),
    }
    let page = provider::open(source.web(), project, &pull).await;
    page.map(|page| ("Opened", page)).map_err(|error| (error.reason(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_its_folder_and_an_artifact_elsewhere() {
        let worker = |artifact| files(UnitKind::Worker, "edge/workers/auth/worker.yaml", artifact);
        assert_eq!(worker(Some("edge/workers/auth/auth.wasm")), ["edge/workers/auth"]);
        assert_eq!(worker(Some("edge/workers/auth2/auth.wasm")), ["edge/workers/auth", "edge/workers/auth2/auth.wasm"]);
        assert_eq!(worker(None), ["edge/workers/auth"]);
        assert_eq!(files(UnitKind::Routes, "routes/shop.yaml", None), ["routes/shop.yaml"]);
    }
}
