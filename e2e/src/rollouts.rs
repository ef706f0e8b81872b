//! Rollouts as a user sees them, and waiting for what they do.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams},
};
use sluice_config::Environment;
use sluice_crds::{GroupPhase, GroupStatus, Phase, Rollout, RolloutStatus};

use crate::{
    Cluster,
    wait::{Look, until},
};

/// The rollouts of one namespace, as they are stored: one that no client can read is somebody's, too.
#[derive(Clone, Debug)]
pub struct Rollouts {
    api: Api<DynamicObject>,
}

impl Rollouts {
    /// Those of a namespace.
    pub async fn of(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let client = cluster.client().await?;
        Ok(Self { api: Api::namespaced_with(client, namespace, &ApiResource::erase::<Rollout>(&())) })
    }

    /// The newest attempt of a unit in an environment for a commit, if there is one.
    pub async fn find(&self, title: &str, environment: Environment, commit: &str) -> Result<Option<Rollout>> {
        let all = self.api.list(&ListParams::default()).await?;
        Ok(all
            .items
            .into_iter()
            .filter_map(|object| object.try_parse::<Rollout>().ok())
            .filter(|r| r.spec.title == title && r.spec.environment == environment && r.spec.commit == commit)
            .max_by_key(|r| r.spec.attempt))
    }

    /// One by its name.
    pub async fn get(&self, name: &str) -> Result<Rollout> {
        Ok(self.api.get(name).await?.try_parse()?)
    }

    /// Waits until a unit's attempt for a commit is in `phase`. Ends early with its story when it ends otherwise.
    pub async fn reach(
        &self,
        title: &str,
        environment: Environment,
        commit: &str,
        phase: Phase,
        limit: Duration,
    ) -> Result<Rollout> {
        let what = format!("{title} of {} to be {phase:?} in {environment}", &commit[..8.min(commit.len())]);
        until(&what, limit, || async {
            let Some(rollout) = self.find(title, environment, commit).await? else {
                return Ok(Look::NotYet("no rollout yet".to_owned()));
            };
            let status = status(&rollout);
            if status.phase == phase {
                return Ok(Look::Done(rollout));
            }
            if ended(status.phase) {
                bail!("{} ended as {:?}: {}", rollout.name_any(), status.phase, status.waiting_for);
            }
            Ok(Look::NotYet(format!("{:?} in {}, {}", status.phase, status.group, status.waiting_for)))
        })
        .await
    }

    /// Waits until a unit's attempt for a commit is at work in a group.
    pub async fn enter(
        &self,
        title: &str,
        environment: Environment,
        commit: &str,
        group: &str,
        limit: Duration,
    ) -> Result<Rollout> {
        let what = format!("{title} of {} to enter {group}", &commit[..8.min(commit.len())]);
        until(&what, limit, || async {
            let Some(rollout) = self.find(title, environment, commit).await? else {
                return Ok(Look::NotYet("no rollout yet".to_owned()));
            };
            let status = status(&rollout);
            if status.groups.iter().any(|g| g.name == group && g.phase != GroupPhase::Waiting) {
                return Ok(Look::Done(rollout));
            }
            if ended(status.phase) {
                bail!("{} ended as {:?} before {group}: {}", rollout.name_any(), status.phase, status.waiting_for);
            }
            Ok(Look::NotYet(format!("{:?} in {}, {}", status.phase, status.group, status.waiting_for)))
        })
        .await
    }
}

/// The status; an empty one where there is none yet.
pub fn status(rollout: &Rollout) -> RolloutStatus {
    rollout.status.clone().unwrap_or_default()
}

/// The status of one group of an attempt.
pub fn group<'a>(status: &'a RolloutStatus, name: &str) -> Result<&'a GroupStatus> {
    status.groups.iter().find(|g| g.name == name).with_context(|| format!("the attempt never was in {name}"))
}

/// Whether an attempt is over.
fn ended(phase: Phase) -> bool {
    match phase {
        Phase::Pending | Phase::Progressing | Phase::Paused | Phase::Reverting => false,
        Phase::Reverted | Phase::Succeeded | Phase::Superseded | Phase::Aborted => true,
    }
}
