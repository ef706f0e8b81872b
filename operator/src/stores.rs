//! What the operator watches: one reflector a kind, and one signal that something changed.

mod readable;

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    batch::v1::Job,
    core::v1::{ConfigMap, Node, Pod, Service},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt, reflector,
        reflector::{Lookup, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use sluice_config::{Digest, UnitRef};
use sluice_crds::{Assignment, DataplaneNode, DeploymentGroup, Repository, Revision, RevisionSpec, Rollout, Unit};
use tokio::{sync::watch, task::JoinSet};

use self::readable::{Readable, Unreadable, readable};
use crate::{config::Config, labels, source::RepositoryId};

/// What is known of the cluster, as the watches tell.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Repositories, everywhere.
    pub repositories: Store<Repository>,
    /// Units, everywhere.
    pub units: Store<Unit>,
    /// Revisions, everywhere.
    pub revisions: Store<Revision>,
    /// Rollouts, everywhere.
    pub rollouts: Store<Rollout>,
    /// Deployment groups.
    pub groups: Store<DeploymentGroup>,
    /// Assignments.
    pub assignments: Store<Assignment>,
    /// Nodes of the dataplane, and what they report.
    pub dataplane_nodes: Store<DataplaneNode>,
    /// Nodes with the group label.
    pub nodes: Store<Node>,
    /// Pods of the dataplane and of gates' Jobs, in the own namespace.
    pub pods: Store<Pod>,
    /// Gates' Jobs, in the own namespace.
    pub jobs: Store<Job>,
    /// One a group, in the own namespace.
    pub daemon_sets: Store<DaemonSet>,
    /// One a group, in the own namespace.
    pub services: Store<Service>,
    /// The template of DaemonSets, in the own namespace.
    pub templates: Store<ConfigMap>,
    changed: watch::Receiver<u64>,
    unreadable: Unreadable,
}

/// The watches behind [`Stores`]: they end when this is dropped.
#[derive(Debug)]
pub struct Watches {
    tasks: JoinSet<()>,
    changed: watch::Sender<u64>,
    unreadable: Unreadable,
}

impl Watches {
    fn start<K>(&mut self, api: Api<Readable<K>>, config: watcher::Config) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + DeserializeOwned + Debug,
        K: Send + Sync + 'static,
    {
        let (reader, writer) = reflector::store::<K>();
        let changed = self.changed.clone();
        let slim = |event: watcher::Event<K>| event.modify(|object| object.managed_fields_mut().clear());
        let read = readable(reader.clone(), self.unreadable.clone());
        let events = watcher(api, config).filter_map(move |event| std::future::ready(read(event)));
        let stream = reflector(writer, events.map(move |event| event.map(slim))).default_backoff();
        self.tasks.spawn(async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(event) = stream.next().await {
                match event {
                    Ok(_) => changed.send_modify(|count| *count += 1),
                    Err(error) => tracing::warn!(kind = std::any::type_name::<K>(), %error, "watch"),
                }
            }
        });
        reader
    }
}

impl Stores {
    /// Starts all watches.
    #[must_use]
    pub fn start(client: &Client, config: &Config) -> (Self, Watches) {
        let (sender, changed) = watch::channel(0);
        let unreadable = Unreadable::default();
        let mut watches = Watches { tasks: JoinSet::new(), changed: sender, unreadable: unreadable.clone() };
        let all = || watcher::Config::default().timeout(240);
        let ours = || all().labels(labels::OURS);
        let (namespace, c) = (config.namespace.as_str(), || client.clone());
        let template = all().fields(&format!("metadata.name={}", config.dataplane_template));
        let stores = Self {
            repositories: watches.start(Api::all(c()), all()),
            units: watches.start(Api::all(c()), all()),
            revisions: watches.start(Api::all(c()), all()),
            rollouts: watches.start(Api::all(c()), all()),
            groups: watches.start(Api::all(c()), all()),
            assignments: watches.start(Api::all(c()), all()),
            dataplane_nodes: watches.start(Api::all(c()), all()),
            nodes: watches.start(Api::all(c()), all().labels(&config.group_label)),
            pods: watches.start(Api::namespaced(c(), namespace), ours()),
            jobs: watches.start(Api::namespaced(c(), namespace), ours()),
            daemon_sets: watches.start(Api::namespaced(c(), namespace), ours()),
            services: watches.start(Api::namespaced(c(), namespace), ours()),
            templates: watches.start(Api::namespaced(c(), namespace), template),
            changed,
            unreadable,
        };
        (stores, watches)
    }

    /// Waits until every watch has listed what there is.
    ///
    /// # Errors
    /// When a watch ended, which happens at shutdown alone.
    pub async fn ready(&self) -> Result<(), reflector::store::WriterDropped> {
        self.repositories.wait_until_ready().await?;
        self.units.wait_until_ready().await?;
        self.revisions.wait_until_ready().await?;
        self.rollouts.wait_until_ready().await?;
        self.groups.wait_until_ready().await?;
        self.assignments.wait_until_ready().await?;
        self.dataplane_nodes.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.jobs.wait_until_ready().await?;
        self.daemon_sets.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.templates.wait_until_ready().await
    }

    /// Groups that exist and of which nothing is known, and why: to whoever does not see them, they are deleted.
    #[must_use]
    pub fn unknown_groups(&self) -> Vec<String> {
        let unreadable = self.unreadable.all().into_iter().filter(|((kind, _), _)| kind == "DeploymentGroup");
        let unknown = unreadable.filter_map(|((_, name), why)| {
            let name = name.trim_start_matches('/');
            self.groups.get(&reflector::ObjectRef::new(name)).is_none().then(|| format!("{name}: {why}"))
        });
        unknown.collect()
    }

    /// A Repository.
    #[must_use]
    pub fn repository(&self, id: &RepositoryId) -> Option<Arc<Repository>> {
        self.repositories.get(&reflector::ObjectRef::new(&id.name).within(&id.namespace))
    }

    /// What is remembered of a unit.
    #[must_use]
    pub fn unit(&self, unit: &UnitRef) -> Option<Arc<Unit>> {
        self.units.get(&reflector::ObjectRef::new(&unit.object_name()).within(&unit.namespace))
    }

    /// A revision of a unit.
    #[must_use]
    pub fn revision(&self, unit: &UnitRef, digest: &Digest) -> Option<Arc<Revision>> {
        let name = RevisionSpec::object_name(unit, digest);
        self.revisions.get(&reflector::ObjectRef::new(&name).within(&unit.namespace))
    }

    /// Tells of every change from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        let mut changed = self.changed.clone();
        changed.mark_unchanged();
        changed
    }

    /// Waits until `seen` holds for the stores, at most this long. Whether it did.
    pub async fn until(&self, limit: Duration, mut seen: impl FnMut() -> bool) -> bool {
        let mut changes = self.changes();
        let wait = async {
            while !seen() {
                if changes.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(limit, wait).await.unwrap_or(false)
    }
}
