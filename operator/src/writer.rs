//! All writes to the API server go through here: counted, fenced, and remembered until the watches
//! have caught up with them, so that nothing is decided on what is older than our own writes.

use std::{
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::reflector::{Lookup, ObjectRef, Store},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{metrics::Metrics, stores::Stores};

/// Name under which the operator owns fields.
pub const FIELD_MANAGER: &str = "sluice-operator";

/// A write that failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// What is stored is not what the write was made for: look again.
    #[error("{what} changed meanwhile")]
    Conflict {
        /// Kind and name.
        what: String,
    },
    /// The API server refused it or could not be asked.
    #[error("{what}: {source}")]
    Api {
        /// Kind and name.
        what: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

impl WriteError {
    fn of(what: String, error: kube::Error) -> Self {
        let late = matches!(&error, kube::Error::Api(status)
            if status.is_conflict() || status.is_already_exists() || status.is_not_found());
        if late { Self::Conflict { what } } else { Self::Api { what, source: Box::new(error) } }
    }

    /// Whether the API server did not answer at all, so that the next write would fail as well. An answer that cannot
    /// be read, or a name that cannot be asked for, is the trouble of one object.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::Conflict { .. } => false,
            Self::Api { source, .. } => {
                matches!(**source, kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::Auth(_))
            }
        }
    }

    /// The worse of two ends: a conflict is mended by looking again, anything else is not.
    pub fn worse(first: Result<(), Self>, second: Result<(), Self>) -> Result<(), Self> {
        match (first, second) {
            (Ok(()) | Err(Self::Conflict { .. }), Err(error @ Self::Api { .. })) => Err(error),
            (Ok(()), second) => second,
            (first, _) => first,
        }
    }
}

type Seen = Box<dyn Fn() -> bool + Send>;

/// Writes to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    metrics: Metrics,
    pending: Arc<Mutex<Vec<Seen>>>,
}

impl Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

/// Kinds that the operator writes.
pub trait Kind:
    Resource<DynamicType = ()>
    + Lookup<DynamicType = ()>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()>
        + Lookup<DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

fn what<K: Kind>(name: &str) -> String {
    format!("{} {name}", <K as Resource>::kind(&()))
}

/// A resourceVersion as a number: Kubernetes compares them so for all kinds.
fn version<K: Kind>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl Writer {
    /// Writes as this client.
    #[must_use]
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics, pending: Arc::default() }
    }

    /// The client, for reads.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What is counted of writes and more.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn remember(&self, seen: Seen) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    fn written<K: Kind>(&self, verb: &'static str, store: Option<&Store<K>>, object: &K)
    where
        <K as Lookup>::DynamicType: Eq + Hash + Clone,
    {
        self.metrics.wrote(&<K as Resource>::kind(&()), verb);
        if let Some(store) = store.cloned() {
            let (key, version_written) = (ObjectRef::from_obj(object), version(object));
            self.remember(Box::new(move || store.get(&key).is_some_and(|o| version(&*o) >= version_written)));
        }
    }

    /// Creates an object. That it exists already is a conflict.
    ///
    /// # Errors
    /// A conflict, or what the API server said.
    pub async fn create<K: Kind>(&self, api: &Api<K>, store: Option<&Store<K>>, object: &K) -> Result<K, WriteError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let created = api.create(&params, object).await;
        let created = created.map_err(|e| WriteError::of(what::<K>(&object.name_any()), e))?;
        self.written("create", store, &created);
        Ok(created)
    }

    /// Replaces an object, but for its status, under the resourceVersion that it carries.
    ///
    /// # Errors
    /// A conflict, or what the API server said.
    pub async fn replace<K: Kind>(&self, api: &Api<K>, store: &Store<K>, object: &K) -> Result<K, WriteError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let name = object.name_any();
        let replaced = api.replace(&name, &params, object).await;
        let replaced = replaced.map_err(|e| WriteError::of(what::<K>(&name), e))?;
        self.written("update", Some(store), &replaced);
        Ok(replaced)
    }

    /// Replaces an object's status, under the resourceVersion that it carries.
    ///
    /// # Errors
    /// A conflict, or what the API server said.
    pub async fn replace_status<K: Kind>(&self, api: &Api<K>, store: &Store<K>, object: &K) -> Result<K, WriteError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let name = object.name_any();
        let replaced = api.replace_status(&name, &params, object).await;
        let replaced = replaced.map_err(|e| WriteError::of(what::<K>(&name), e))?;
        self.written("update status", Some(store), &replaced);
        Ok(replaced)
    }

    /// Makes an object have these fields, whoever set them before.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn apply<K: Kind>(
        &self,
        api: &Api<K>,
        store: &Store<K>,
        name: &str,
        fields: &serde_json::Value,
    ) -> Result<K, WriteError> {
        let applied = api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(fields)).await;
        let applied = applied.map_err(|e| WriteError::of(what::<K>(name), e))?;
        self.written("apply", Some(store), &applied);
        Ok(applied)
    }

    /// Deletes this very object, as it was seen. That it is gone already is success.
    ///
    /// # Errors
    /// A conflict, or what the API server said.
    pub async fn delete<K: Kind>(&self, api: &Api<K>, store: &Store<K>, object: &K) -> Result<(), WriteError> {
        let name = object.name_any();
        let preconditions = Preconditions {
            uid: object.uid().map(Into::into),
            resource_version: object.meta().resource_version.clone(),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match api.delete(&name, &params).await {
            Ok(_) => self.metrics.wrote(&<K as Resource>::kind(&()), "delete"),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(WriteError::of(what::<K>(&name), error)),
        }
        let (store, key) = (store.clone(), ObjectRef::from_obj(object));
        let uid: Option<String> = object.uid().map(Into::into);
        // Finalizers may keep it for a while: it need only be marked.
        let gone = move |o: Arc<K>| o.meta().uid != uid || o.meta().deletion_timestamp.is_some();
        self.remember(Box::new(move || store.get(&key).is_none_or(&gone)));
        Ok(())
    }

    /// Waits until the watches show all that was written so far. After the limit it goes on all the
    /// same: every write is fenced, so that what is planned on an old view fails and does no harm.
    pub async fn caught_up(&self, stores: &Stores, limit: Duration) {
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        if pending.is_empty() {
            return;
        }
        let count = pending.len();
        let mut left = pending;
        let all = stores
            .until(limit, || {
                left.retain(|seen| !seen());
                left.is_empty()
            })
            .await;
        if !all {
            tracing::warn!(count, "the watches lag behind own writes; going on with what they show");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_api_server_that_is_silent_stops_what_comes_after() {
        let is_unanswered = |error| WriteError::of("Unit shop-r".to_owned(), error).is_unanswered();
        assert!(is_unanswered(kube::Error::Service("connection refused".into())));
        let unreadable = serde_json::from_str::<u32>("x").unwrap_err();
        assert!(!is_unanswered(kube::Error::SerdeError(unreadable)));
        let nameless = kube::core::request::Error::Validation("a name is required".to_owned());
        assert!(!is_unanswered(kube::Error::BuildRequest(nameless)));
    }
}
