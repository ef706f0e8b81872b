//! One DataplaneNode for each labelled Node: created, moved and removed with it. Nodes write its status.

use kube::{Api, ResourceExt, api::ObjectMeta, core::Resource, runtime::reflector::ObjectRef};
use sluice_crds::{DataplaneNode, DataplaneNodeSpec};

use crate::{
    events::Events,
    stores::Stores,
    writer::{WriteError, Writer},
};

/// Makes DataplaneNodes be what the Nodes' labels say.
///
/// # Errors
/// The first write that fails.
pub async fn ensure(writer: &Writer, events: &Events, stores: &Stores, group_label: &str) -> Result<(), WriteError> {
    let api: Api<DataplaneNode> = Api::all(writer.client().clone());
    for node in stores.nodes.state() {
        let name = node.name_any();
        let Some(group) = node.labels().get(group_label).filter(|group| !group.is_empty()) else { continue };
        if node.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match stores.dataplane_nodes.get(&ObjectRef::new(&name)) {
            None => {
                let spec = DataplaneNodeSpec { group: group.clone(), keep_stable: Vec::new() };
                let metadata = ObjectMeta {
                    name: Some(name),
                    owner_references: node.owner_ref(&()).map(|owner| vec![owner]),
                    ..ObjectMeta::default()
                };
                let object = DataplaneNode { metadata, spec, status: None };
                match writer.create(&api, Some(&stores.dataplane_nodes), &object).await {
                    Ok(_) | Err(WriteError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Some(known) if known.spec.group != *group => {
                let mut moved = DataplaneNode::clone(&known);
                moved.spec.group.clone_from(group);
                let moved = writer.replace(&api, &stores.dataplane_nodes, &moved).await?;
                let note = format!("moved from group {} to {group}, as the label of the Node says", known.spec.group);
                events.publish(&moved, false, "Moved", &note, &moved.resource_version().unwrap_or_default()).await;
            }
            Some(_) => {}
        }
    }
    for known in stores.dataplane_nodes.state() {
        let labelled = stores.nodes.get(&ObjectRef::new(&known.name_any()));
        let belongs =
            labelled.is_some_and(|node| node.labels().get(group_label).is_some_and(|group| !group.is_empty()));
        if !belongs && known.metadata.deletion_timestamp.is_none() {
            writer.delete(&api, &stores.dataplane_nodes, &*known).await?;
        }
    }
    Ok(())
}
