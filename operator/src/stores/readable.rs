//! Objects as the API server has them, whether or not this version can read them: one that it cannot must not
//! hide all the others of its kind.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use kube::{
    Resource,
    api::ObjectMeta,
    runtime::{
        reflector::{Lookup, ObjectRef, Store},
        watcher::{self, Event},
    },
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// An object, or why it cannot be read.
#[derive(Clone, Debug)]
pub(super) struct Readable<K> {
    meta: ObjectMeta,
    read: Result<K, String>,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Readable<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let meta = ObjectMeta::deserialize(&value["metadata"]).map_err(serde::de::Error::custom)?;
        Ok(Self { meta, read: serde_json::from_value(value).map_err(|error| error.to_string()) })
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Readable<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// What cannot be read, and why: by kind, then by namespace and name.
#[derive(Clone, Debug, Default)]
pub(super) struct Unreadable(Arc<Mutex<BTreeMap<(String, String), String>>>);

impl Unreadable {
    pub(super) fn all(&self) -> BTreeMap<(String, String), String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, kind: &str, name: String, error: Option<&String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind.to_owned(), name);
        match error {
            Some(error) if all.get(&key) != Some(error) => {
                tracing::error!(kind, name = key.1, error, "an object cannot be read: what it said before counts");
                all.insert(key, error.clone());
            }
            Some(_) => {}
            None => drop(all.remove(&key)),
        }
    }
}

/// What a watch yields.
type Watched<K> = Result<Event<K>, watcher::Error>;

/// Turns events of objects that may be unreadable into events of those that are: one that cannot be read stays
/// as it last could.
pub(super) fn readable<K>(
    store: Store<K>,
    unreadable: Unreadable,
) -> impl Fn(Watched<Readable<K>>) -> Option<Watched<K>>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + 'static,
{
    let read = move |object: Readable<K>, is_gone: bool| {
        let namespace = object.meta.namespace.unwrap_or_default();
        let name = object.meta.name.unwrap_or_default();
        let error = object.read.as_ref().err().filter(|_| !is_gone);
        unreadable.note(&<K as Resource>::kind(&()), format!("{namespace}/{name}"), error);
        object.read.ok().or_else(|| {
            let key = ObjectRef::<K>::new(&name);
            let key = if namespace.is_empty() { key } else { key.within(&namespace) };
            store.get(&key).map(|known| K::clone(&known))
        })
    };
    move |event| {
        let event = match event {
            Err(error) => return Some(Err(error)),
            Ok(Event::Init) => Event::Init,
            Ok(Event::InitDone) => Event::InitDone,
            Ok(Event::Apply(object)) => Event::Apply(read(object, false)?),
            Ok(Event::InitApply(object)) => Event::InitApply(read(object, false)?),
            Ok(Event::Delete(object)) => Event::Delete(read(object, true)?),
        };
        Some(Ok(event))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluice_crds::DeploymentGroup;

    use super::*;

    fn group(name: &str, hold_limit: &str) -> Readable<DeploymentGroup> {
        let spec = json!({"environment": "production", "order": 1, "holdLimit": hold_limit});
        let object = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "DeploymentGroup",
            "metadata": {"name": name}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_cannot_be_read_stays_as_it_was_and_hides_no_other() {
        let (store, mut writer) = kube::runtime::reflector::store::<DeploymentGroup>();
        let unreadable = Unreadable::default();
        let read = readable(store.clone(), unreadable.clone());
        let mut feed = |event| {
            if let Some(Ok(event)) = read(Ok(event)) {
                writer.apply_watcher_event(&event);
            }
        };
        let holds = |name: &str| store.get(&ObjectRef::new(name)).map(|group| group.spec.hold_limit.to_string());
        feed(Event::Init);
        feed(Event::InitApply(group("canary", "1h")));
        feed(Event::InitApply(group("main", "1h")));
        feed(Event::InitDone);
        feed(Event::Apply(group("canary", "8760h")));
        assert_eq!(holds("canary").as_deref(), Some("1h"));
        // Listed anew, as after a lost watch.
        feed(Event::Init);
        feed(Event::InitApply(group("canary", "8760h")));
        feed(Event::InitApply(group("main", "2h")));
        feed(Event::InitDone);
        assert_eq!((holds("canary").as_deref(), holds("main").as_deref()), (Some("1h"), Some("2h")));
        let why = unreadable.all();
        assert!(why[&("DeploymentGroup".to_owned(), "/canary".to_owned())].contains("744h"), "{why:?}");
        feed(Event::Apply(group("canary", "3h")));
        assert_eq!(holds("canary").as_deref(), Some("3h"));
        feed(Event::Delete(group("canary", "8760h")));
        assert_eq!(holds("canary"), None);
        assert!(unreadable.all().is_empty());
    }
}
