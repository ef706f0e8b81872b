//! What writes rest on, read from the API server itself.

use std::collections::BTreeMap;

use kube::{
    ResourceExt,
    api::ListParams,
    core::{NamespaceResourceScope, Resource},
    runtime::reflector::Store,
};
use sluice_crds::Assignment;
use sluice_rollout::Basis;

use crate::{
    at_once,
    convert::ids,
    execute::{Hands, conflict},
    writer::{Kind, WriteError},
};

/// From so many on, one list may cost less than to get each: where they are at least one in ten.
const LIST_FROM: usize = 50;
const LIST_SHARE: usize = 10;

/// Reads what a write rests on from the API server itself: a plan made from a stale cache must not undo
/// what a newer one did.
///
/// # Errors
/// A conflict where something differs.
pub async fn still_holds(hands: &Hands, based_on: &[Basis]) -> Result<(), WriteError> {
    let mut units: BTreeMap<&str, Vec<Expected>> = BTreeMap::new();
    let mut rollouts: BTreeMap<&str, Vec<Expected>> = BTreeMap::new();
    for basis in based_on {
        let (kind, namespace, expected) = match basis {
            Basis::Unit(id, version) => {
                (&mut units, &id.namespace, (ids::wire_unit(id).object_name(), Some(version.clone())))
            }
            Basis::Rollout(id, version) => (&mut rollouts, &id.namespace, (id.name.clone(), version.clone())),
            Basis::Assignment(group, version) => {
                is_assigned(hands, group, version).await?;
                continue;
            }
        };
        kind.entry(namespace.as_str()).or_default().push(expected);
    }
    for (namespace, expected) in units {
        all_hold(hands, &hands.stores.units, namespace, expected).await?;
    }
    for (namespace, expected) in rollouts {
        all_hold(hands, &hands.stores.rollouts, namespace, expected).await?;
    }
    Ok(())
}

/// Name and version of an object; none: it must not be there.
type Expected = (String, Option<String>);

async fn all_hold<K>(
    hands: &Hands,
    known: &Store<K>,
    namespace: &str,
    expected: Vec<Expected>,
) -> Result<(), WriteError>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let api = hands.api::<K>(namespace);
    if expected.len() >= LIST_FROM && expected.len() >= known.len() / LIST_SHARE {
        // Without a version: what is stored, not what some cache has.
        let list = api.list_metadata(&ListParams::default()).await.map_err(|e| ask::<K>(namespace, e))?;
        let stored = list.items.into_iter().map(|object| (object.name_any(), object.resource_version()));
        let stored: BTreeMap<String, Option<String>> = stored.collect();
        let differs = |(name, version): &&Expected| stored.get(name).cloned().flatten() != *version;
        return match expected.iter().find(differs) {
            Some((name, _)) => Err(conflict(&<K as Resource>::kind(&()), name)),
            None => Ok(()),
        };
    }
    let looks = expected.into_iter().map(|(name, version)| {
        let api = &api;
        async move {
            let stored = match api.get_metadata_opt(&name).await {
                // A memory can name what no object is named: then there is none.
                Err(kube::Error::BuildRequest(_)) => None,
                stored => stored.map_err(|error| ask::<K>(&name, error))?,
            };
            let is_same = stored.as_ref().and_then(ResourceExt::resource_version) == version;
            if is_same { Ok(()) } else { Err(conflict(&<K as Resource>::kind(&()), &name)) }
        }
    });
    at_once::all(looks).await.into_iter().collect()
}

fn ask<K: Kind>(name: &str, error: kube::Error) -> WriteError {
    WriteError::Api { what: format!("{} {name}", <K as Resource>::kind(&())), source: Box::new(error) }
}

async fn is_assigned(hands: &Hands, group: &str, version: &str) -> Result<(), WriteError> {
    let stored = hands.cluster_api::<Assignment>().get_metadata_opt(group).await;
    let stored = stored.map_err(|error| ask::<Assignment>(group, error))?;
    let is_same = stored.is_some_and(|stored| stored.resource_version().as_deref() == Some(version));
    if is_same { Ok(()) } else { Err(conflict("Assignment", group)) }
}
