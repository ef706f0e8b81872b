//! What writes rest on, read from the API server itself.

use std::collections::BTreeMap;

use kube::{
    ResourceExt,
    api::ListParams,
    core::{NamespaceResourceScope, Resource},
    runtime::reflector::Store,
};
use sluice_crds::Assignment;
use sluice_rollout::{Basis, Entry, UnitId};

use crate::{
    at_once,
    convert::ids,
    execute::{Hands, conflict},
    observe,
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
            Basis::Told(group, generation, entries) => {
                is_told(hands, group, *generation, entries).await?;
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

async fn is_told(
    hands: &Hands,
    group: &str,
    generation: u64,
    entries: &BTreeMap<UnitId, Entry>,
) -> Result<(), WriteError> {
    let stored = hands.cluster_api::<Assignment>().get_opt(group).await.map_err(|e| ask::<Assignment>(group, e))?;
    let stored = stored.as_ref().and_then(observe::groups::assignment);
    let same = stored.is_some_and(|stored| stored.generation == generation && stored.entries == *entries);
    if same { Ok(()) } else { Err(conflict("Assignment", group)) }
}
