//! Does what a plan says, in its order, and chooses nothing. What failed is planned anew on what is stored
//! then.

use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};
use sluice_crds::{DeploymentGroup, Rollout, Unit};
use sluice_rollout::{About, Effect, Event, Write};

use crate::{
    assign,
    clock::Clock,
    convert::ids,
    events::Events,
    nodes, remember, report,
    stores::Stores,
    writer::{WriteError, Writer},
};

/// What effects need.
#[derive(Clone, Debug)]
pub struct Hands {
    /// What is known.
    pub stores: Stores,
    /// Writes.
    pub writer: Writer,
    /// Says what was written.
    pub events: Events,
    /// Tells the time.
    pub clock: Clock,
}

impl Hands {
    /// The API of a namespaced kind.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.writer.client().clone(), namespace)
    }

    /// The API of a cluster-wide kind.
    pub(crate) fn cluster_api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.writer.client().clone())
    }
}

/// All effects, in order.
///
/// # Errors
/// The worst. What one object is refused for stops no other; only an API server that does not answer does.
pub async fn effects(hands: &Hands, effects: &[Effect]) -> Result<(), WriteError> {
    let mut said: Vec<(&Event, String)> = Vec::new();
    let mut failed = Ok(());
    for Effect { write, events } in effects {
        match do_write(hands, write).await {
            Ok(version) => said.extend(events.iter().map(|event| (event, version.clone()))),
            Err(error) => {
                let unanswered = error.is_unanswered();
                failed = WriteError::worse(failed, Err(error));
                if unanswered {
                    break;
                }
            }
        }
    }
    // Nobody waits for a word before the deed.
    for (event, version) in said {
        say(hands, event, &version).await;
    }
    failed
}

/// One write. The version of what is stored then.
async fn do_write(hands: &Hands, write: &Write) -> Result<String, WriteError> {
    match write {
        Write::CreateRollout { rollout, spec } => report::create(hands, rollout, spec).await,
        Write::UpdateUnit { unit, resource_version, memory } => {
            remember::update(hands, unit, resource_version, memory).await
        }
        Write::SetRolloutStatus { rollout, resource_version, status } => {
            report::status(hands, rollout, resource_version, status).await
        }
        Write::KeepStable { node, resource_version, units } => {
            nodes::keep_stable(hands, node, resource_version, units).await
        }
        Write::WriteAssignment { group, resource_version, generation, entries, based_on } => {
            assign::still_holds(hands, based_on).await?;
            assign::write(hands, group, resource_version.as_deref(), *generation, entries).await
        }
    }
}

async fn say(hands: &Hands, event: &Event, salt: &str) {
    tracing::info!(reason = ?event.reason, about = ?event.about, "{}", event.note);
    let stores = &hands.stores;
    match &event.about {
        About::Rollout(id) => {
            let key = ObjectRef::<Rollout>::new(&id.name).within(&id.namespace);
            // One that was just created may not be in the cache yet.
            let rollout = match stores.rollouts.get(&key) {
                Some(rollout) => Some(rollout),
                None => hands.api::<Rollout>(&id.namespace).get_opt(&id.name).await.ok().flatten().map(Into::into),
            };
            if let Some(rollout) = rollout {
                hands.events.say(&*rollout, event, salt).await;
            }
        }
        About::Unit(id) => {
            let name = ids::wire_unit(id).object_name();
            if let Some(unit) = stores.units.get(&ObjectRef::<Unit>::new(&name).within(&id.namespace)) {
                hands.events.say(&*unit, event, salt).await;
            }
        }
        About::Group(name) => {
            if let Some(group) = stores.groups.get(&ObjectRef::<DeploymentGroup>::new(name)) {
                hands.events.say(&*group, event, salt).await;
            }
        }
    }
}

/// A conflict on an object of this kind: it is not there, or not as the plan saw it.
pub(crate) fn conflict(kind: &str, name: &str) -> WriteError {
    WriteError::Conflict { what: format!("{kind} {name}") }
}

/// The version of a stored object.
pub(crate) fn version<K: ResourceExt>(object: &K) -> String {
    object.resource_version().unwrap_or_default()
}
