//! Units, the repositories that they come from, and their revisions.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use sluice_config as wire;
use sluice_crds as crd;
use sluice_rollout::{
    Digest, Environment, Head, Repository, RepositoryId, Revision, Rollout, RolloutId, Snapshot, StagingEvidence,
    Target, Time, Together, Unit, UnitId,
};

use crate::{
    convert::{gates, ids, memory},
    published::Whole,
    source,
    stores::Stores,
};

pub(super) fn read(object: &crd::Unit) -> Option<Unit> {
    let (namespace, spec, created) = (object.namespace()?, &object.spec, object.creation_timestamp()?);
    let mut unit = Unit {
        resource_version: object.resource_version()?,
        repository: RepositoryId { namespace: namespace.clone(), name: spec.repository.clone() },
        created_at: Time(created.0.as_millisecond()),
        heads: BTreeMap::new(),
        memory: BTreeMap::new(),
    };
    for (environment, stored) in
        [(Environment::Staging, &spec.environments.staging), (Environment::Production, &spec.environments.production)]
    {
        unit.heads.insert(environment, head(&namespace, stored.head.as_ref()));
        unit.memory.insert(environment, memory::read(&namespace, stored));
    }
    Some(unit)
}

/// A branch that cannot be read for now still wants what it wanted last.
fn head(namespace: &str, stored: Option<&crd::Head>) -> Head {
    match stored {
        Some(head) => Head::Wants {
            target: ids::target(head.digest.as_ref()),
            commit: head.commit.clone(),
            author: head.author.clone(),
            together: head.together.as_ref().map(|together| Together {
                name: together.name.clone(),
                units: together.units.iter().map(|unit| ids::unit(unit.kind, namespace, &unit.name)).collect(),
            }),
        },
        None => Head::Unknown { reason: "it was not read yet".to_owned() },
    }
}

pub(super) fn repositories(stores: &Stores, whole: &Whole) -> BTreeMap<RepositoryId, Repository> {
    stores.repositories.state().iter().filter_map(|object| repository(object, whole)).collect()
}

fn repository(object: &crd::Repository, whole: &Whole) -> Option<(RepositoryId, Repository)> {
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (namespace, name) = (object.namespace()?, object.name_any());
    let whole = whole.get(&source::RepositoryId { namespace: namespace.clone(), name: name.clone() });
    let staging_evidence = match object.spec.staging_evidence {
        crd::StagingEvidence::InCluster => StagingEvidence::InCluster,
        crd::StagingEvidence::CommitStatus => StagingEvidence::CommitStatus,
        crd::StagingEvidence::None => StagingEvidence::None,
    };
    let known = object.status.as_ref().map(|status| &status.commits);
    let commit = |environment: Environment| Some((environment, known?.get(environment.as_str())?.clone()));
    let commits: BTreeMap<Environment, String> = Environment::ALL.into_iter().filter_map(commit).collect();
    // Its status may say an older one: who confirmed what that removes has not seen what this one does.
    let is_whole = |environment: &Environment| {
        let seen = whole.and_then(|whole| whole.get(&ids::wire_environment(*environment)));
        seen.is_some_and(|(commit, _)| commits.get(environment) == Some(commit))
    };
    let repository = Repository {
        staging_evidence,
        whole: Environment::ALL.into_iter().filter(is_whole).collect(),
        commits,
        removal_confirmed: object.spec.verbs.confirm_removal.clone(),
    };
    Some((RepositoryId { namespace, name }, repository))
}

/// Every revision that a head, a memory or a rollout under way names. None ever changes.
pub(super) fn refresh_revisions(stores: &Stores, snapshot: &mut Snapshot) {
    let named = named(&snapshot.units, &snapshot.rollouts);
    let parsed = &mut snapshot.revisions;
    parsed.retain(|digest, _| named.contains(digest));
    if parsed.len() == named.len() {
        return;
    }
    for object in stores.revisions.state() {
        let digest = ids::digest(&object.spec.digest);
        if named.contains(&digest) && !parsed.contains_key(&digest) {
            match revision(&object.spec.content) {
                Ok(revision) => drop(parsed.insert(digest, revision)),
                Err(error) => tracing::warn!(revision = object.name_any(), %error, "gates cannot be read"),
            }
        }
    }
}

fn named(units: &BTreeMap<UnitId, Unit>, rollouts: &BTreeMap<RolloutId, Rollout>) -> BTreeSet<Digest> {
    let heads = units.values().flat_map(|unit| unit.heads.values()).filter_map(|head| match head {
        Head::Wants { target, .. } => Some(target),
        Head::Unknown { .. } => None,
    });
    let stable = units.values().flat_map(|unit| unit.memory.values()).filter_map(|memory| memory.stable.as_ref());
    let open = rollouts.values().filter(|rollout| !rollout.status.phase.is_over());
    let targets = open.flat_map(|rollout| &rollout.spec.units).map(|change| &change.target);
    heads.chain(stable).chain(targets).filter_map(Target::digest).cloned().collect()
}

/// A gate that this operator cannot read holds the revision back as a whole: none is skipped in silence.
fn revision(content: &wire::Revision) -> Result<Revision, serde_json::Error> {
    let gates: Vec<crd::Gate> =
        content.gates.iter().map(|gate| serde_json::from_value(gate.clone())).collect::<Result<_, _>>()?;
    Ok(Revision {
        gates: gates::read_specs(&gates),
        refers_to: BTreeSet::new(),
        claims: Environment::ALL
            .into_iter()
            .map(|environment| (environment, claims(content.content(ids::wire_environment(environment)))))
            .collect(),
    })
}

/// Only route tables own hosts and paths: that two workers see one request is the point of a chain.
fn claims(content: &wire::Content) -> BTreeSet<String> {
    match content {
        wire::Content::Routes(routes) => {
            let paths = || routes.rules.iter().flat_map(|rule| &rule.paths);
            routes.hosts.iter().flat_map(|host| paths().map(move |path| format!("{host}{path}"))).collect()
        }
        wire::Content::Worker(_) | wire::Content::Config(_) => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_branch_is_seen_whole_at_the_commit_that_its_repository_shows() {
        let object = |deleted: Option<&str>| -> crd::Repository {
            let metadata = json!({"namespace": "team", "name": "edge", "deletionTimestamp": deleted});
            let object = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Repository", "metadata": metadata,
                "spec": {"url": "https://git.example/team/edge"},
                "status": {"commits": {"staging": "b", "production": "a"}}});
            serde_json::from_value(object).unwrap()
        };
        let of = |commits: &[(wire::Environment, &str)]| {
            let id = source::RepositoryId { namespace: "team".into(), name: "edge".into() };
            let commits = commits.iter().map(|(environment, commit)| (*environment, ((*commit).to_owned(), 1)));
            let (_, read) = repository(&object(None), &Whole::from([(id, commits.collect())])).unwrap();
            read.whole
        };
        let (staging, production) = (wire::Environment::Staging, wire::Environment::Production);
        assert_eq!(of(&[(staging, "b"), (production, "a")]), Environment::ALL.into());
        assert_eq!(of(&[(staging, "b")]), [Environment::Staging].into(), "production could not be read");
        assert_eq!(
            of(&[(staging, "b"), (production, "c")]),
            [Environment::Staging].into(),
            "its status was not written"
        );
        assert!(repository(&object(Some("2026-11-23T12:00:00Z")), &Whole::new()).is_none());
    }
}
