//! The one writer of Assignments: what nodes run changes here and nowhere else.

use std::collections::BTreeMap;

use kube::{Resource, ResourceExt, api::ObjectMeta, runtime::reflector::ObjectRef};
use sluice_config as wire;
use sluice_crds::{Assignment, AssignmentSpec, DeploymentGroup};
use sluice_rollout::{Entry, UnitId};

use crate::{
    convert::ids,
    execute::{Hands, conflict, version},
    writer::WriteError,
};

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
        Some(_) => hands.writer.replace(&api, &hands.stores.assignments, object).await?,
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
