//! What writes rest on, read from the API server itself.

use std::collections::BTreeMap;

use kube::{Api, ResourceExt, api::ListParams, runtime::reflector::Store};
use sluice_rollout::Basis;

use crate::{
    at_once,
    convert::ids,
    execute::Hands,
    writer::{Kind, WriteError, what},
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
    let mut assignments: Vec<Expected> = Vec::new();
    for basis in based_on {
        match basis {
            Basis::Unit(id, version) => {
                let name = ids::wire_unit(id).object_name();
                units.entry(&id.namespace).or_default().push((name, Some(version.clone())));
            }
            Basis::Rollout(id, version) => {
                rollouts.entry(&id.namespace).or_default().push((id.name.clone(), version.clone()));
            }
            Basis::Assignment(group, version) => assignments.push((group.clone(), Some(version.clone()))),
        }
    }
    for (namespace, expected) in units {
        all_hold(&hands.api(namespace), &hands.stores.units, expected).await?;
    }
    for (namespace, expected) in rollouts {
        all_hold(&hands.api(namespace), &hands.stores.rollouts, expected).await?;
    }
    all_hold(&hands.cluster_api(), &hands.stores.assignments, assignments).await
}

/// Name and version of an object; none: it must not be there.
type Expected = (String, Option<String>);

async fn all_hold<K: Kind>(api: &Api<K>, known: &Store<K>, expected: Vec<Expected>) -> Result<(), WriteError> {
    if expected.len() >= LIST_FROM && expected.len() >= known.len() / LIST_SHARE {
        // Without a version: what is stored, not what some cache has.
        let list = api.list_metadata(&ListParams::default()).await;
        let list = list.map_err(|error| WriteError::of(what::<K>(api.resource_url()), error))?;
        let stored = list.items.into_iter().map(|object| (object.name_any(), object.resource_version()));
        let stored: BTreeMap<String, Option<String>> = stored.collect();
        let differs = |(name, version): &&Expected| stored.get(name).cloned().flatten() != *version;
        return match expected.iter().find(differs) {
            Some((name, _)) => Err(WriteError::Conflict { what: what::<K>(name) }),
            None => Ok(()),
        };
    }
    let looks = expected.into_iter().map(async |(name, version)| {
        let stored = match api.get_metadata_opt(&name).await {
            // A memory can name what no object is named: then there is none.
            Err(kube::Error::BuildRequest(_)) => None,
            stored => stored.map_err(|error| WriteError::of(what::<K>(&name), error))?,
        };
        let is_same = stored.as_ref().and_then(ResourceExt::resource_version) == version;
        if is_same { Ok(()) } else { Err(WriteError::Conflict { what: what::<K>(&name) }) }
    });
    at_once::all(looks).await.into_iter().collect()
}
