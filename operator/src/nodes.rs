//! One DataplaneNode for each labelled Node: created, moved and removed with it. Nodes write its status.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;
use kube::{ResourceExt, api::ObjectMeta, core::Resource, runtime::reflector::ObjectRef};
use sluice_crds::{DataplaneNode, DataplaneNodeSpec};
use sluice_rollout::UnitId;

use crate::{
    convert::ids,
    execute::{Hands, conflict, version},
    times,
    writer::WriteError,
};

/// Makes DataplaneNodes be what the Nodes' labels say.
///
/// # Errors
/// The worst. What one node is refused for stops no other.
pub async fn ensure(hands: &Hands, group_label: &str) -> Result<(), WriteError> {
    let mut done = Ok(());
    let label = |node: &Node| node.labels().get(group_label).filter(|group| !group.is_empty()).cloned();
    for node in hands.stores.nodes.state() {
        if let (Some(group), None) = (label(&node), &node.metadata.deletion_timestamp) {
            done = WriteError::worse(done, belong(hands, &node, &group).await);
        }
    }
    for known in hands.stores.dataplane_nodes.state() {
        let node = hands.stores.nodes.get(&ObjectRef::new(&known.name_any()));
        let belongs = node.is_some_and(|node| label(&node).is_some());
        if !belongs && known.metadata.deletion_timestamp.is_none() {
            let deleted = hands.writer.delete(&hands.cluster_api(), &hands.stores.dataplane_nodes, &*known).await;
            done = WriteError::worse(done, deleted);
        }
    }
    done
}

/// Makes a labelled node a member of its group.
async fn belong(hands: &Hands, node: &Node, group: &str) -> Result<(), WriteError> {
    let Hands { stores, writer, events, clock } = hands;
    let (name, api) = (node.name_any(), hands.cluster_api());
    let joined_at = Some(times::to_micro(clock.now()));
    match stores.dataplane_nodes.get(&ObjectRef::new(&name)) {
        None => {
            let spec = DataplaneNodeSpec { group: group.to_owned(), joined_at, keep_stable: Vec::new() };
            let metadata = ObjectMeta {
                name: Some(name),
                owner_references: node.owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            };
            let object = DataplaneNode { metadata, spec, status: None };
            writer.create(&api, Some(&stores.dataplane_nodes), &object).await?;
        }
        Some(known) if known.spec.group != group => {
            let mut moved = DataplaneNode::clone(&known);
            moved.spec = DataplaneNodeSpec { group: group.to_owned(), joined_at, keep_stable: Vec::new() };
            let moved = writer.replace(&api, &stores.dataplane_nodes, moved).await?;
            let note = format!("moved from group {} to {group}, as the label of the Node says", known.spec.group);
            events.publish(&moved, false, "Moved", &note, &moved.resource_version().unwrap_or_default()).await;
        }
        Some(_) => {}
    }
    Ok(())
}

/// Replaces what a node keeps on stable, under the version that the plan saw.
///
/// # Errors
/// A conflict, or what the API server said.
pub async fn keep_stable(
    hands: &Hands,
    node: &str,
    resource_version: &str,
    units: &BTreeSet<UnitId>,
) -> Result<String, WriteError> {
    let stored = hands.stores.dataplane_nodes.get(&ObjectRef::new(node));
    let stored = stored.filter(|stored| stored.resource_version().as_deref() == Some(resource_version));
    let mut object = DataplaneNode::clone(&*stored.ok_or_else(|| conflict("DataplaneNode", node))?);
    object.spec.keep_stable = units.iter().map(ids::wire_unit).collect();
    let written = hands.writer.replace(&hands.cluster_api(), &hands.stores.dataplane_nodes, object).await?;
    Ok(version(&written))
}
