//! Forgets what is over and what nothing refers to: old rollouts, then the revisions that only they named.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use kube::ResourceExt;
use sluice_config::Digest;
use sluice_crds::{Memory, Phase, Revision, Rollout};

use crate::{execute::Hands, writer::WriteError};

/// Rollouts of a unit in an environment that are kept after they are over.
const ROLLOUTS_KEPT: usize = 20;
/// Nothing younger is forgotten: whoever is about to refer to it has not done so yet.
const REVISION_AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// Deletes what may go.
///
/// # Errors
/// The first write that fails.
pub async fn prune(hands: &Hands) -> Result<(), WriteError> {
    for rollout in old_rollouts(hands) {
        let namespace = rollout.namespace().unwrap_or_default();
        hands.writer.delete(&hands.api(&namespace), &hands.stores.rollouts, &*rollout).await?;
    }
    for revision in unnamed_revisions(hands) {
        let namespace = revision.namespace().unwrap_or_default();
        hands.writer.delete(&hands.api(&namespace), &hands.stores.revisions, &*revision).await?;
    }
    Ok(())
}

fn memories(hands: &Hands) -> impl Iterator<Item = (String, Memory)> {
    let units = hands.stores.units.state().into_iter();
    units.flat_map(|unit| {
        let namespace = unit.namespace().unwrap_or_default();
        let both = [unit.spec.environments.staging.clone(), unit.spec.environments.production.clone()];
        both.map(|memory| (namespace.clone(), memory))
    })
}

/// Those that are over and beyond the newest few of their unit. One that a memory names stays: `retry` is said
/// on it.
fn old_rollouts(hands: &Hands) -> Vec<std::sync::Arc<Rollout>> {
    let mut named: BTreeSet<(String, String)> = BTreeSet::new();
    for (namespace, memory) in memories(hands) {
        let rejected = memory.rejected.iter().map(|rejected| rejected.rollout.clone());
        named.extend(rejected.chain(memory.in_flight).map(|name| (namespace.clone(), name)));
    }
    let mut of_unit: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for rollout in hands.stores.rollouts.state() {
        let namespace = rollout.namespace().unwrap_or_default();
        let units: Vec<_> = rollout.spec.units.iter().map(|unit| (unit.kind, unit.name.clone())).collect();
        let is_named = named.contains(&(namespace.clone(), rollout.name_any()));
        if is_over(&rollout) && !is_named && rollout.metadata.deletion_timestamp.is_none() {
            of_unit.entry((namespace, units, rollout.spec.environment)).or_default().push(rollout);
        }
    }
    let old = of_unit.into_values().flat_map(|mut rollouts| {
        rollouts.sort_by_key(|rollout| std::cmp::Reverse(rollout.spec.attempt));
        rollouts.split_off(ROLLOUTS_KEPT.min(rollouts.len()))
    });
    old.collect()
}

fn is_over(rollout: &Rollout) -> bool {
    match rollout.status.as_ref().map(|status| status.phase).unwrap_or_default() {
        Phase::Pending | Phase::Progressing | Phase::Paused | Phase::Reverting => false,
        Phase::Reverted | Phase::Succeeded | Phase::Superseded | Phase::Aborted => true,
    }
}

/// Those that no memory, rollout or assignment names.
fn unnamed_revisions(hands: &Hands) -> Vec<std::sync::Arc<Revision>> {
    let mut named: BTreeSet<Digest> = BTreeSet::new();
    for (_, memory) in memories(hands) {
        let Memory { head, stable, in_flight: _, passed, rejected, attempts: _, suspect } = memory;
        named.extend(head.and_then(|head| head.digest));
        named.extend(stable.and_then(|stable| stable.digest));
        named.extend(passed.into_iter().map(|passed| passed.digest));
        named.extend(rejected.into_iter().filter_map(|rejected| rejected.digest));
        named.extend(suspect.and_then(|suspect| suspect.digest));
    }
    for rollout in hands.stores.rollouts.state() {
        named.extend(rollout.spec.units.iter().filter_map(|unit| unit.revision.clone()));
        let stable = rollout.status.iter().flat_map(|status| &status.stable);
        named.extend(stable.filter_map(|stable| stable.digest.clone()));
    }
    for assignment in hands.stores.assignments.state() {
        let entries = assignment.spec.wire.entries.iter();
        named.extend(entries.flat_map(|entry| entry.revision.iter().chain(&entry.stable)).cloned());
    }
    let now = Timestamp::now();
    hands.stores.revisions.state_filter(|revision| {
        let age = revision.creation_timestamp().map(|created| now.duration_since(created.0).unsigned_abs());
        !named.contains(&revision.spec.digest)
            && age.is_some_and(|age| age > REVISION_AGE_MIN)
            && revision.metadata.deletion_timestamp.is_none()
    })
}
