//! The one writer of Assignments: what nodes run changes here and nowhere else.

use std::collections::BTreeMap;

use kube::{ResourceExt, api::ObjectMeta, core::Resource, runtime::reflector::ObjectRef};
use sluice_config as wire;
use sluice_crds::{Assignment, AssignmentSpec, DeploymentGroup, Rollout, Unit};
use sluice_rollout::{Basis, Entry, UnitId};

use crate::{
    convert::ids,
    execute::{Hands, conflict, version},
    writer::WriteError,
};

/// Reads what a write rests on from the API server itself: a plan made from a stale cache must not undo
/// what a newer one did.
///
/// # Errors
/// A conflict where something differs.
pub async fn still_holds(hands: &Hands, based_on: &[Basis]) -> Result<(), WriteError> {
    for basis in based_on {
        match basis {
            Basis::Unit(id, expected) => {
                let name = ids::wire_unit(id).object_name();
                let stored =
                    hands.api::<Unit>(&id.namespace).get_opt(&name).await.map_err(|e| ask("Unit", &name, e))?;
                if stored.as_ref().and_then(ResourceExt::resource_version).as_ref() != Some(expected) {
                    return Err(conflict("Unit", &name));
                }
            }
            Basis::Rollout(id, expected) => {
                let stored = match hands.api::<Rollout>(&id.namespace).get_opt(&id.name).await {
                    // A memory can name what no object is named: then there is none.
                    Err(kube::Error::BuildRequest(_)) => None,
                    stored => stored.map_err(|error| ask("Rollout", &id.name, error))?,
                };
                if stored.as_ref().and_then(ResourceExt::resource_version) != *expected {
                    return Err(conflict("Rollout", &id.name));
                }
            }
        }
    }
    Ok(())
}

fn ask(kind: &str, name: &str, error: kube::Error) -> WriteError {
    WriteError::Api { what: format!("{kind} {name}"), source: Box::new(error) }
}

/// Replaces what a group is told to run, under the version that the plan saw; none creates it.
///
/// # Errors
/// A conflict, or what the API server said.
pub async fn write(
    hands: &Hands,
    group: &str,
    resource_version: Option<&str>,
    generation: u64,
    entries: &BTreeMap<UnitId, Entry>,
) -> Result<String, WriteError> {
    let stored = hands.stores.assignments.get(&ObjectRef::new(group));
    let owner = hands.stores.groups.get(&ObjectRef::<DeploymentGroup>::new(group));
    let owner = owner.ok_or_else(|| conflict("DeploymentGroup", group))?;
    let api = hands.cluster_api::<Assignment>();
    let stages = match &stored {
        Some(stored) => stored.spec.wire.stages.clone(),
        None => wire::DEFAULT_STAGES.iter().map(|stage| (*stage).to_owned()).collect(),
    };
    let spec = AssignmentSpec {
        wire: wire::Assignment {
            format: wire::FORMAT,
            environment: owner.spec.environment,
            generation,
            stages,
            entries: entries.iter().map(|(unit, entry)| write_entry(unit, entry)).collect(),
        },
    };
    let metadata = match (resource_version, &stored) {
        (None, _) => ObjectMeta {
            name: Some(group.to_owned()),
            owner_references: owner.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        (Some(expected), Some(stored)) if stored.resource_version().as_deref() == Some(expected) => {
            stored.metadata.clone()
        }
        (Some(_), _) => return Err(conflict("Assignment", group)),
    };
    let object = Assignment { metadata, spec };
    let written = match resource_version {
        None => hands.writer.create(&api, Some(&hands.stores.assignments), &object).await?,
        Some(_) => hands.writer.replace(&api, &hands.stores.assignments, &object).await?,
    };
    Ok(version(&written))
}

fn write_entry(unit: &UnitId, entry: &Entry) -> wire::Entry {
    wire::Entry {
        kind: ids::wire_kind(unit.kind),
        namespace: unit.namespace.clone(),
        name: unit.name.clone(),
        revision: entry.revision.as_ref().map(ids::wire_digest),
        stable: entry.stable.as_ref().map(ids::wire_digest),
        since: entry.since,
    }
}
