//! Kubernetes Events: each thing is said once, on the object that it is about.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event as KubeEvent},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, ResourceExt, api::ObjectMeta};
use sluice_config::Digest;
use sluice_rollout::{Event, Reason, Severity};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::writer::{Kind, WriteError, Writer};

/// Says things.
#[derive(Clone, Debug)]
pub struct Events {
    writer: Writer,
    instance: String,
    namespace: String,
    said: Arc<Mutex<BTreeSet<String>>>,
    turns: Arc<Semaphore>,
}

/// Said at one time: what is decided meanwhile needs the API server more.
const TURNS: usize = 1;

/// What is kept in memory of what was said; the API server keeps the rest, for an hour.
const REMEMBERED_MAX: usize = 10_000;

impl Events {
    /// As this replica; what concerns the whole cluster is said in `namespace`.
    #[must_use]
    pub fn new(writer: Writer, instance: &str, namespace: &str) -> Self {
        Self {
            writer,
            instance: instance.to_owned(),
            namespace: namespace.to_owned(),
            said: Arc::default(),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }

    /// Waits until something may be said; whoever came first goes first.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Says what the planner wants said, once its write is stored: that was `at`. `salt` tells this write from others.
    pub async fn say<K: Kind>(&self, about: &K, event: &Event, salt: &str, at: Timestamp) {
        let warning = match event.severity {
            Severity::Normal => false,
            Severity::Warning => true,
        };
        self.publish_at(about, (warning, reason(event.reason), &event.note), salt, at).await;
    }

    /// Says one thing. The same thing with the same salt is said once, however often it is published.
    pub async fn publish<K: Kind>(&self, about: &K, warning: bool, reason: &str, note: &str, salt: &str) {
        self.publish_at(about, (warning, reason, note), salt, Timestamp::now()).await;
    }

    async fn publish_at<K: Kind>(&self, about: &K, said: (bool, &str, &str), salt: &str, at: Timestamp) {
        let (_, reason, note) = said;
        let reference = about.object_ref(&());
        let namespace = reference.namespace.clone().unwrap_or_else(|| self.namespace.clone());
        let mut event = self.event(reference, &namespace, said, salt);
        event.event_time = Some(MicroTime(at));
        if !self.is_news(&event.name_any()) {
            return;
        }
        let api: Api<KubeEvent> = Api::namespaced(self.writer.client().clone(), &namespace);
        match self.writer.create(&api, None, &event).await {
            Ok(_) | Err(WriteError::Conflict { .. }) => {}
            Err(error) => tracing::warn!(%error, object = about.name_any(), reason, note, "an event was lost"),
        }
    }

    fn is_news(&self, name: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= REMEMBERED_MAX {
            said.clear();
        }
        said.insert(name.to_owned())
    }

    fn event(
        &self,
        regarding: ObjectReference,
        namespace: &str,
        (warning, reason, note): (bool, &str, &str),
        salt: &str,
    ) -> KubeEvent {
        let mut said = format!("{}\n{reason}\n{note}\n{salt}", regarding.uid.as_deref().unwrap_or_default());
        let _infallible = write!(said, "\n{}", regarding.kind.as_deref().unwrap_or_default());
        let digest = Digest::of(said.as_bytes());
        let object = regarding.name.as_deref().unwrap_or_default();
        let object: String = object.chars().take(220).collect();
        KubeEvent {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{}", &digest.as_str()[..16])),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(reason.to_owned()),
            action: Some(reason.to_owned()),
            note: Some(note.chars().take(1000).collect()),
            reporting_controller: Some("sluice.dev/operator".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            regarding: Some(regarding),
            ..KubeEvent::default()
        }
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Started => "Started",
        Reason::EvidenceOverridden => "EvidenceOverridden",
        Reason::GroupStarted => "GroupStarted",
        Reason::GatesStarted => "GatesStarted",
        Reason::GatesRestarted => "GatesRestarted",
        Reason::GroupPassed => "GroupPassed",
        Reason::GroupSkipped => "GroupSkipped",
        Reason::NodesKeptOnStable => "NodesKeptOnStable",
        Reason::Paused => "Paused",
        Reason::Resumed => "Resumed",
        Reason::Reverting => "Reverting",
        Reason::Reverted => "Reverted",
        Reason::RevertUnconfirmed => "RevertUnconfirmed",
        Reason::Aborted => "Aborted",
        Reason::RolledBack => "RolledBack",
        Reason::NotRolledBack => "NotRolledBack",
        Reason::Succeeded => "Succeeded",
        Reason::Superseded => "Superseded",
        Reason::Rejected => "Rejected",
        Reason::Retried => "Retried",
        Reason::Adopted => "Adopted",
        Reason::AssignmentRestored => "AssignmentRestored",
    }
}
