//! Does what a plan says, and chooses nothing. What failed is planned anew on what is stored
//! then.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};
use sluice_crds::{DeploymentGroup, Rollout};
use sluice_rollout::{About, Effect, Event, Write};

use crate::{
    assign, at_once, basis,
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

/// All effects: what nodes run first, then all the rest. Each rests only on what the plan saw, so that those of one
/// part need not wait for each other.
///
/// # Errors
/// The worst. What one object is refused for stops no other; only an API server that does not answer does. But where what
/// a group is told is not what the plan saw, the plan knows nothing of how attempts go there.
pub async fn effects(hands: &Hands, effects: &[Effect]) -> Result<(), WriteError> {
    let told = effects.iter().take_while(|effect| effect.write.assigns().is_some()).count();
    let mut failed = Ok(());
    let mut said: Vec<(Event, String)> = Vec::new();
    let mut stale: BTreeSet<&str> = BTreeSet::new();
    for part in [&effects[..told], &effects[told..]] {
        let known = |effect: &&Effect| !stale.iter().any(|group| effect.write.is_about(group));
        let part: Vec<&Effect> = part.iter().filter(known).collect();
        let done = at_once::writes(part.iter().map(|effect| do_write(hands, &effect.write))).await;
        for (effect, done) in part.into_iter().zip(done) {
            match done {
                Some(Ok(version)) => said.extend(effect.events.iter().map(|event| (event.clone(), version.clone()))),
                Some(Err(error)) => {
                    let is_stale = matches!(error, WriteError::Conflict { .. });
                    stale.extend(effect.write.assigns().filter(|_| is_stale));
                    failed = WriteError::worse(failed, Err(error));
                }
                None => {}
            }
        }
        if failed.as_ref().is_err_and(WriteError::is_unanswered) {
            break;
        }
    }
    if !said.is_empty() {
        // No deed waits for a word.
        drop(tokio::spawn(say_all(hands.clone(), said, Timestamp::now())));
    }
    failed
}

async fn say_all(hands: Hands, said: Vec<(Event, String)>, at: Timestamp) {
    for (event, version) in said {
        let turn = hands.events.turn().await;
        say(&hands, &event, &version, at).await;
        drop(turn);
    }
}

/// One write. The version of what is stored then.
async fn do_write(hands: &Hands, write: &Write) -> Result<String, WriteError> {
    match write {
        Write::CreateRollout { rollout, spec } => report::create(hands, rollout, spec).await,
        Write::UpdateUnit { unit, resource_version, memory } => {
            remember::update(hands, unit, resource_version, memory).await
        }
        Write::SetRolloutStatus { rollout, resource_version, status, based_on } => {
            basis::still_holds(hands, based_on).await?;
            report::status(hands, rollout, resource_version, status).await
        }
        Write::KeepStable { node, resource_version, units } => {
            nodes::keep_stable(hands, node, resource_version, units).await
        }
        Write::WriteAssignment { group, resource_version, generation, entries, based_on } => {
            basis::still_holds(hands, based_on).await?;
            assign::write(hands, group, resource_version.as_deref(), *generation, entries).await
        }
    }
}

async fn say(hands: &Hands, event: &Event, salt: &str, at: Timestamp) {
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
                hands.events.say(&*rollout, event, salt, at).await;
            }
        }
        About::Unit(id) => {
            if let Some(unit) = stores.unit(&ids::wire_unit(id)) {
                hands.events.say(&*unit, event, salt, at).await;
            }
        }
        About::Group(name) => {
            if let Some(group) = stores.groups.get(&ObjectRef::<DeploymentGroup>::new(name)) {
                hands.events.say(&*group, event, salt, at).await;
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
