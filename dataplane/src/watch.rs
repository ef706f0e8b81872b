//! Turns what the API server says into inputs of the control loop.
//!
//! Two watches, each of one object by name: the group's Assignment and the node's own
//! DataplaneNode. They start over by themselves, with backoff; while they cannot, nothing changes.

use std::time::Duration;

use futures::{Stream, StreamExt as _, pin_mut};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use sluice_crds::{Assignment, DataplaneNode};
use tokio::sync::{mpsc, oneshot};

use crate::{control::Input, desired::Accepted};

/// How long the first assignment waits for what this node's own object says about it.
const NODE_FIRST: Duration = Duration::from_secs(10);

/// Follows both until the control loop is gone. A new node must hear which units it keeps on stable
/// before it hears of their unproven revisions.
pub(crate) async fn follow(client: Client, node: String, group: String, to: mpsc::Sender<Input>) {
    let (tell, told) = oneshot::channel();
    let follow_node = self::node(client.clone(), node, to.clone(), tell);
    let follow_assignment = async {
        if tokio::time::timeout(NODE_FIRST, told).await.is_err() {
            tracing::warn!("the DataplaneNode cannot be seen; going on without");
        }
        assignment(client, group, to).await;
    };
    tokio::join!(follow_node, follow_assignment);
}

/// Follows the Assignment named like the group.
async fn assignment(client: Client, group: String, to: mpsc::Sender<Input>) {
    let events = watch::<Assignment>(client, &group);
    pin_mut!(events);
    while let Some(event) = events.next().await {
        let input = match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                Input::Assignment(Accepted { group: group.clone(), uid: object.uid(), assignment: object.spec.wire })
            }
            // What runs keeps running: an assignment that is gone says nothing about what to run.
            Ok(Event::Delete(_)) => {
                tracing::warn!(group, "the Assignment was deleted; what runs keeps running");
                continue;
            }
            Ok(Event::Init | Event::InitDone) => continue,
            Err(error) if is_unreadable(&error) => {
                Input::AssignmentTrouble(format!("the Assignment cannot be read: {error}"))
            }
            // The API server is away: no news, and no reason for a write when it is back.
            Err(error) => {
                tracing::warn!(%error, "cannot watch the Assignment; trying again");
                continue;
            }
        };
        if to.send(input).await.is_err() {
            return;
        }
    }
}

/// Follows the node's own DataplaneNode, which may not exist yet.
async fn node(client: Client, node: String, to: mpsc::Sender<Input>, known: oneshot::Sender<()>) {
    let events = watch::<DataplaneNode>(client, &node);
    pin_mut!(events);
    let mut known = Some(known);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let units = object.spec.keep_stable.into_iter().collect();
                if to.send(Input::KeepStable(units)).await.is_err() {
                    return;
                }
            }
            Ok(Event::InitDone) => {
                // Whoever waited may have given up.
                let _gave_up = known.take().map(|known| known.send(()));
            }
            // A deleted object says nothing about this node; it will be made again.
            Ok(Event::Delete(_) | Event::Init) => {}
            Err(error) => tracing::warn!(%error, "cannot watch the DataplaneNode; trying again"),
        }
    }
}

fn watch<K>(client: Client, name: &str) -> impl Stream<Item = watcher::Result<Event<K>>> + use<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher(Api::<K>::all(client), config).default_backoff()
}

/// Whether an object came that is not of our format.
fn is_unreadable(error: &watcher::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<serde_json::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}
