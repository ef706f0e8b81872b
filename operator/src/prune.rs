//! Forgets what is over and what nothing refers to: old rollouts, then the revisions that only they named.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::ResourceExt;
use sluice_config::{Digest, Environment, UnitKind};
use sluice_crds::{Assignment, Memory, Phase, Repository, Revision, Rollout, Unit};

use crate::{execute::Hands, writer::WriteError};

/// Rollouts of a unit in an environment that are kept after they are over, where no Repository says.
const ROLLOUTS_KEPT: usize = 20;
/// Nothing younger is forgotten: whoever is about to refer to it has not done so yet.
const REVISION_AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// Deletes what may go.
///
/// # Errors
/// The worst. What cannot be deleted keeps nothing else.
pub async fn prune(hands: &Hands) -> Result<(), WriteError> {
    let stores = &hands.stores;
    let (units, rollouts) = (stores.units.state(), stores.rollouts.state());
    let revisions =
        unnamed_revisions(&units, &rollouts, &stores.assignments.state(), stores.revisions.state(), Timestamp::now());
    let mut done = Ok(());
    for rollout in old_rollouts(&units, &stores.repositories.state(), rollouts) {
        let namespace = rollout.namespace().unwrap_or_default();
        let deleted = hands.writer.delete(&hands.api(&namespace), &stores.rollouts, &*rollout).await;
        done = WriteError::worse(done, deleted);
    }
    for revision in revisions {
        let namespace = revision.namespace().unwrap_or_default();
        let deleted = hands.writer.delete(&hands.api(&namespace), &stores.revisions, &*revision).await;
        done = WriteError::worse(done, deleted);
    }
    done
}

fn memories(units: &[Arc<Unit>]) -> impl Iterator<Item = (String, Memory)> {
    units.iter().flat_map(|unit| {
        let namespace = unit.namespace().unwrap_or_default();
        let both = [unit.spec.environments.staging.clone(), unit.spec.environments.production.clone()];
        both.map(|memory| (namespace.clone(), memory))
    })
}

/// Those that are over and beyond the newest few of their unit. One that a memory names stays: `retry` is said
/// on it. So does the one that brought what is stable: `rollback` is said on it, and it knows what was there before.
fn old_rollouts(
    units: &[Arc<Unit>],
    repositories: &[Arc<Repository>],
    rollouts: Vec<Arc<Rollout>>,
) -> Vec<Arc<Rollout>> {
    let limits = limits(units, repositories);
    let mut named: BTreeSet<(String, String)> = BTreeSet::new();
    for (namespace, memory) in memories(units) {
        let rejected = memory.rejected.iter().map(|rejected| rejected.rollout.clone());
        named.extend(rejected.chain(memory.in_flight).map(|name| (namespace.clone(), name)));
    }
    let origins = origins(units, &rollouts);
    let mut of_unit: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for rollout in rollouts {
        let namespace = rollout.namespace().unwrap_or_default();
        let units: Vec<_> = rollout.spec.units.iter().map(|unit| (unit.kind, unit.name.clone())).collect();
        let name = (namespace.clone(), rollout.name_any());
        let is_named = named.contains(&name) || origins.contains(&name);
        if is_over(&rollout) && !is_named && rollout.metadata.deletion_timestamp.is_none() {
            of_unit.entry((namespace, units, rollout.spec.environment)).or_default().push(rollout);
        }
    }
    let old = of_unit.into_iter().flat_map(|((namespace, units, _), mut rollouts)| {
        let mut limits =
            units.iter().filter_map(|(kind, name)| limits.get(&(namespace.as_str(), *kind, name.as_str())));
        let limit = limits.next().copied().unwrap_or(ROLLOUTS_KEPT);
        rollouts.sort_by_key(|rollout| std::cmp::Reverse(rollout.spec.attempt));
        rollouts.split_off(limit.min(rollouts.len()))
    });
    old.collect()
}

/// How many rollouts each unit's Repository wants kept; a unit whose Repository is gone is not listed.
fn limits<'a>(
    units: &'a [Arc<Unit>],
    repositories: &'a [Arc<Repository>],
) -> BTreeMap<(&'a str, UnitKind, &'a str), usize> {
    let key = |repository: &'a Arc<Repository>| {
        let metadata = &repository.metadata;
        Some(((metadata.namespace.as_deref()?, metadata.name.as_deref()?), repository.spec.history_limit))
    };
    let of_repository: BTreeMap<_, _> = repositories.iter().filter_map(key).collect();
    let of_unit = units.iter().filter_map(|unit| {
        let namespace = unit.metadata.namespace.as_deref()?;
        let limit = *of_repository.get(&(namespace, unit.spec.repository.as_str()))?;
        Some(((namespace, unit.spec.kind, unit.spec.name.as_str()), usize::try_from(limit).ok()?))
    });
    of_unit.collect()
}

/// For each unit and environment, the newest rollout that brought what is stable now.
fn origins(units: &[Arc<Unit>], rollouts: &[Arc<Rollout>]) -> BTreeSet<(String, String)> {
    let mut stable = BTreeMap::new();
    for unit in units {
        let environments = &unit.spec.environments;
        let both = [(Environment::Staging, &environments.staging), (Environment::Production, &environments.production)];
        for (environment, memory) in both {
            let key = (unit.namespace().unwrap_or_default(), unit.spec.kind, unit.spec.name.as_str(), environment);
            if let Some(known) = &memory.stable {
                stable.insert(key, known.digest.as_ref());
            }
        }
    }
    let mut newest: BTreeMap<_, (u32, String)> = BTreeMap::new();
    let succeeded = |rollout: &&Arc<Rollout>| phase(rollout) == Phase::Succeeded;
    for rollout in rollouts.iter().filter(succeeded) {
        for unit in &rollout.spec.units {
            let namespace = rollout.namespace().unwrap_or_default();
            let key = (namespace, unit.kind, unit.name.as_str(), rollout.spec.environment);
            if stable.get(&key) == Some(&unit.revision.as_ref()) {
                let found = (rollout.spec.attempt, rollout.name_any());
                let known = newest.entry(key).or_insert_with(|| found.clone());
                *known = std::cmp::max(known.clone(), found);
            }
        }
    }
    newest.into_iter().map(|((namespace, ..), (_, name))| (namespace, name)).collect()
}

fn phase(rollout: &Rollout) -> Phase {
    rollout.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

fn is_over(rollout: &Rollout) -> bool {
    match phase(rollout) {
        Phase::Pending | Phase::Progressing | Phase::Paused | Phase::Reverting => false,
        Phase::Reverted | Phase::Succeeded | Phase::Superseded | Phase::Aborted => true,
    }
}

/// Those that no memory, rollout or assignment names.
fn unnamed_revisions(
    units: &[Arc<Unit>],
    rollouts: &[Arc<Rollout>],
    assignments: &[Arc<Assignment>],
    mut revisions: Vec<Arc<Revision>>,
    now: Timestamp,
) -> Vec<Arc<Revision>> {
    let mut named: BTreeSet<Digest> = BTreeSet::new();
    for (_, memory) in memories(units) {
        let Memory { head, stable, in_flight: _, passed, rejected, attempts: _, suspect } = memory;
        named.extend(head.and_then(|head| head.digest));
        named.extend(stable.and_then(|stable| stable.digest));
        named.extend(passed.into_iter().map(|passed| passed.digest));
        named.extend(rejected.into_iter().filter_map(|rejected| rejected.digest));
        named.extend(suspect.and_then(|suspect| suspect.digest));
    }
    for rollout in rollouts {
        named.extend(rollout.spec.units.iter().filter_map(|unit| unit.revision.clone()));
        let stable = rollout.status.iter().flat_map(|status| &status.stable);
        named.extend(stable.filter_map(|stable| stable.digest.clone()));
    }
    for assignment in assignments {
        let entries = assignment.spec.wire.entries.iter();
        named.extend(entries.flat_map(|entry| entry.revision.iter().chain(&entry.stable)).cloned());
    }
    revisions.retain(|revision| {
        let age = revision.creation_timestamp().map(|created| now.duration_since(created.0).unsigned_abs());
        !named.contains(&revision.spec.digest)
            && age.is_some_and(|age| age > REVISION_AGE_MIN)
            && revision.metadata.deletion_timestamp.is_none()
    });
    revisions
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KIND: sluice_config::UnitKind = sluice_config::UnitKind::Config;

    fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: Value, status: Value) -> Arc<K> {
        let created = "2026-11-23T12:00:00Z";
        let metadata = json!({"name": name, "namespace": "team", "creationTimestamp": created});
        let object = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec,
            "status": status});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn digest(number: u32) -> Digest {
        Digest::of(&number.to_be_bytes())
    }

    fn rollout(attempt: u32, phase: &str) -> Arc<Rollout> {
        let unit = json!({"kind": KIND, "name": "shop", "revision": digest(attempt)});
        let spec = json!({"environment": "production", "units": [unit], "attempt": attempt, "commit": "c",
            "author": "a", "title": "shop", "revision": ""});
        object("Rollout", &format!("shop-{attempt}"), spec, json!({"phase": phase}))
    }

    fn revision(number: u32) -> Arc<Revision> {
        let empty = json!({"config": {"data": {}}});
        let content = json!({"format": 1, "kind": KIND, "name": "shop", "staging": empty, "production": empty});
        let source = json!({"repository": "edge", "commit": "c", "path": "config/shop.yaml"});
        let spec = json!({"digest": digest(number), "content": content, "source": source});
        object("Revision", &format!("shop-{number}"), spec, Value::Null)
    }

    fn unit(memory: Value) -> Arc<Unit> {
        let spec = json!({"kind": KIND, "name": "shop", "repository": "edge",
            "environments": {"production": memory}});
        object("Unit", "shop-c", spec, Value::Null)
    }

    fn names<K: ResourceExt>(objects: &[Arc<K>]) -> Vec<String> {
        objects.iter().map(|object| object.name_any()).collect()
    }

    #[test]
    fn the_newest_rollouts_that_are_over_stay_and_those_that_somebody_names() {
        let mut rollouts: Vec<_> = (1..=25).map(|attempt| rollout(attempt, "Succeeded")).collect();
        rollouts.push(rollout(26, "Progressing"));
        let rejected = json!({"digest": digest(2), "rollout": "shop-2", "reason": "errors"});
        let memory =
            json!({"rejected": [rejected], "stable": {"digest": digest(4)}, "inFlight": "shop-26", "attempts": 26});
        let units = [unit(memory)];
        let mut old = names(&old_rollouts(&units, &[], rollouts.clone()));
        old.sort();
        assert_eq!(old, ["shop-1", "shop-3", "shop-5"], "2 may be retried, 4 may be rolled back");
        let spec = json!({"url": "https://git.example/edge.git", "historyLimit": 1});
        let repository = object("Repository", "edge", spec, Value::Null);
        let kept = rollouts.len() - old_rollouts(&units, &[repository], rollouts).len();
        assert_eq!(kept, 4, "the newest, the one in flight, 2 and 4");
    }

    #[test]
    fn a_revision_goes_after_a_day_without_a_name() {
        let units = [unit(json!({"stable": {"digest": digest(1)}, "attempts": 1}))];
        let rollouts = [rollout(2, "Reverted")];
        let revisions: Vec<_> = (1..=3).map(revision).collect();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let gone = |now| names(&unnamed_revisions(&units, &rollouts, &[], revisions.clone(), at(now)));
        assert_eq!(gone("2026-11-24T11:00:00Z"), [] as [&str; 0]);
        assert_eq!(gone("2026-11-24T13:00:00Z"), ["shop-3"]);
    }
}
