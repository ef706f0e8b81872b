//! What the API server tells, with the moment at which it was told here: the end of most of what is measured.

use anyhow::{Context, Result};
use futures::StreamExt;
use jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use sluice_config::Digest;
use sluice_crds::{Assignment, DataplaneNode, Rollout};
use tokio::{sync::mpsc, task::JoinSet};

use super::{units::WORKER, world::LIMIT};

/// One thing that was told.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    pub(super) at: Timestamp,
    pub(super) what: What,
}

/// What was told.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// What a group is to run.
    Told {
        group: String,
        generation: u64,
        /// Entries with a revision, and those of them that run stable.
        entries: usize,
        stable: usize,
        /// Of the unit that changes.
        revision: Option<Digest>,
    },
    /// How an attempt stands.
    Rollout(Box<Rollout>),
    /// What a node runs.
    Runs { node: String, generation: u64, exceptions: u32 },
}

/// Everything that is told from now on, in the order in which it arrives.
pub(super) struct Sights {
    told: mpsc::UnboundedReceiver<Sight>,
    _watches: JoinSet<()>,
}

impl Sights {
    /// Watches Assignments, Rollouts and DataplaneNodes. What is there already is told first.
    pub(super) fn start(client: &Client) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let mut watches = JoinSet::new();
        watches.spawn(follow(Api::<Assignment>::all(client.clone()), tell.clone(), assignment));
        watches.spawn(follow(Api::<Rollout>::all(client.clone()), tell.clone(), |rollout| {
            What::Rollout(Box::new(rollout))
        }));
        watches.spawn(follow(Api::<DataplaneNode>::all(client.clone()), tell, node));
        Self { told, _watches: watches }
    }

    /// The next.
    pub(super) async fn next(&mut self, waiting_for: &str) -> Result<Sight> {
        let next = tokio::time::timeout(LIMIT, self.told.recv()).await;
        next.with_context(|| format!("nothing is told any more, and still: {waiting_for}"))?.context("a watch ended")
    }

    /// Forgets what was told so far.
    pub(super) fn forget(&mut self) {
        while self.told.try_recv().is_ok() {}
    }
}

async fn follow<K>(api: Api<K>, tell: mpsc::UnboundedSender<Sight>, what: impl Fn(K) -> What)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    while let Some(event) = events.next().await {
        match event {
            Ok(object) => {
                let at = Timestamp::now();
                if tell.send(Sight { at, what: what(object) }).is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "a watch of the benchmark"),
        }
    }
}

fn assignment(object: Assignment) -> What {
    let group = object.name_any();
    let wire = object.spec.wire;
    let running = wire.entries.iter().filter(|entry| entry.revision.is_some());
    let (entries, stable) = running
        .fold((0, 0), |(entries, stable), entry| (entries + 1, stable + usize::from(entry.revision == entry.stable)));
    let entry = wire.entries.iter().find(|entry| entry.name == WORKER);
    let revision = entry.and_then(|entry| entry.revision.clone());
    What::Told { group, generation: wire.generation, entries, stable, revision }
}

fn node(object: DataplaneNode) -> What {
    let node = object.name_any();
    let report = object.status.map(|status| status.report).unwrap_or_default();
    What::Runs { node, generation: report.applied_generation, exceptions: report.exceptions_total }
}
