//! All writes to the API server go through here: counted, fenced, and remembered until the watches
//! have caught up with them, so that nothing is decided on what is older than our own writes.

use std::{
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderValue, header::ACCEPT};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions, Request},
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
    pub(crate) fn of(what: String, error: kube::Error) -> Self {
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

/// A watch is begun anew at least so often: what it does not show then, somebody deleted.
const DELETED_AFTER: Duration = Duration::from_secs(300);

/// Something that the watches are to show.
struct Pending {
    since: Instant,
    is_seen: Box<dyn Fn() -> bool + Send>,
}

/// Those that no watch has shown so far, without those that none will show any more.
fn unseen(pending: &mut Vec<Pending>, now: Instant) {
    pending.retain(|pending| !(pending.is_seen)() && now.duration_since(pending.since) < DELETED_AFTER);
}

/// Writes to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    metrics: Metrics,
    pending: Arc<Mutex<Vec<Pending>>>,
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

/// An object, as errors name it.
pub(crate) fn what<K: Kind>(name: &str) -> String {
    format!("{} {name}", <K as Resource>::kind(&()))
}

/// A resourceVersion as a number: Kubernetes compares them so for all kinds.
fn version<K: Kind>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

const METADATA_ONLY: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }
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

    fn remember(&self, is_seen: Box<dyn Fn() -> bool + Send>) {
        let pending = Pending { since: Instant::now(), is_seen };
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(pending);
    }

    /// To be seen by the watches like an own write: what was read past them.
    pub fn expect<K: Kind>(&self, store: &Store<K>, object: &K)
    where
        <K as Lookup>::DynamicType: Eq + Hash + Clone,
    {
        let (store, key, version_read) = (store.clone(), ObjectRef::from_obj(object), version(object));
        let is_seen = move || store.get(&key).is_some_and(|o| version(&*o) >= version_read);
        if !is_seen() {
            self.remember(Box::new(is_seen));
        }
    }

    fn written<K: Kind>(&self, verb: &'static str, store: Option<&Store<K>>, object: &K)
    where
        <K as Lookup>::DynamicType: Eq + Hash + Clone,
    {
        self.metrics.wrote(&<K as Resource>::kind(&()), verb);
        if let Some(store) = store {
            self.expect(store, object);
        }
    }

    /// Creates an object. That it exists already is a conflict.
    ///
    /// # Errors
    /// A conflict, or what the API server said.
    pub async fn create<K: Kind>(&self, api: &Api<K>, store: Option<&Store<K>>, object: &K) -> Result<K, WriteError> {
        let created = api.create(&params(), object).await;
        let created = created.map_err(|e| WriteError::of(what::<K>(&object.name_any()), e))?;
        self.written("create", store, &created);
        Ok(created)
    }

    /// Replaces an object, but for its status, under the resourceVersion that it carries. The same object, with the metadata
    /// that it is stored with: more of it is not asked for, since to write an Assignment of a thousand units out once more is
    /// an eighth of what its replacement costs the API server.
    ///
    /// # Errors
    /// A conflict, or what the API server said.
    pub async fn replace<K: Kind>(&self, api: &Api<K>, store: &Store<K>, mut object: K) -> Result<K, WriteError> {
        let name = object.name_any();
        let replaced = async {
            let body = serde_json::to_vec(&object).map_err(kube::Error::SerdeError)?;
            let request = Request::new(api.resource_url()).replace(&name, &params(), body);
            let mut request = request.map_err(kube::Error::BuildRequest)?;
            request.headers_mut().insert(ACCEPT, METADATA_ONLY);
            self.client.request::<PartialObjectMeta<K>>(request).await
        };
        let replaced = replaced.await.map_err(|e| WriteError::of(what::<K>(&name), e))?;
        *object.meta_mut() = replaced.metadata;
        self.written("update", Some(store), &object);
        Ok(object)
    }

    /// Replaces an object's status, under the resourceVersion that it carries.
    ///
    /// # Errors
    /// A conflict, or what the API server said.
    pub async fn replace_status<K: Kind>(&self, api: &Api<K>, store: &Store<K>, object: &K) -> Result<K, WriteError> {
        let name = object.name_any();
        let replaced = api.replace_status(&name, &params(), object).await;
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

    /// Waits until the watches show all that was written so far; whether they do. After the limit it goes on all the same:
    /// every write is fenced, so that what is planned on an old view fails and does no harm. What has been waited for in
    /// vain holds up nobody once more.
    pub async fn caught_up(&self, stores: &Stores, limit: Duration) -> bool {
        let mut left = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        if left.is_empty() {
            return true;
        }
        let count = left.len();
        let in_time = stores
            .until(limit, || {
                unseen(&mut left, Instant::now());
                left.iter().all(|pending| pending.since.elapsed() >= limit)
            })
            .await;
        if !in_time {
            tracing::warn!(count, "the watches lag behind own writes; going on with what they show");
        }
        let all = left.is_empty();
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).append(&mut left);
        all
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use kube::runtime::{reflector, watcher};
    use serde_json::json;
    use sluice_crds::Unit;

    use super::*;
    use crate::config::Config;

    fn unit(name: &str, version: &str) -> Unit {
        let metadata = json!({"namespace": "team", "name": name, "resourceVersion": version});
        let spec = json!({"kind": "Worker", "name": name, "repository": "edge", "environments": {}});
        let unit = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Unit", "metadata": metadata, "spec": spec});
        serde_json::from_value(unit).unwrap()
    }

    #[tokio::test]
    async fn what_no_watch_has_shown_stays_awaited_and_what_is_shown_does_not() {
        let _another_was_first = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // Nobody answers there.
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
        let (stores, _watches) = Stores::start(&client, &Config::parse_from(["sluice-operator"]));
        let writer = Writer::new(client, Metrics::default());
        let (units, mut watch) = reflector::store::<Unit>();
        let limit = Duration::from_millis(20);
        assert!(writer.caught_up(&stores, limit).await);
        writer.expect(&units, &unit("auth-w", "7"));
        assert!(!writer.caught_up(&stores, limit).await);
        assert!(!writer.caught_up(&stores, limit).await, "it is not forgotten");
        watch.apply_watcher_event(&watcher::Event::Apply(unit("auth-w", "6")));
        assert!(!writer.caught_up(&stores, limit).await);
        watch.apply_watcher_event(&watcher::Event::Apply(unit("auth-w", "8")));
        assert!(writer.caught_up(&stores, limit).await);
        writer.expect(&units, &unit("auth-w", "7"));
        assert!(writer.caught_up(&stores, limit).await, "the watch has shown it already");
    }

    #[test]
    fn what_somebody_deleted_is_not_awaited_for_good() {
        let pending = |since| Pending { since, is_seen: Box::new(|| false) };
        let start = Instant::now();
        let mut all = vec![pending(start), pending(start + Duration::from_secs(1))];
        unseen(&mut all, start + DELETED_AFTER);
        assert_eq!(all.len(), 1);
    }

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
