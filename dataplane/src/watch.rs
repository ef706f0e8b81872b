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
use tokio::sync::{mpsc, oneshot, watch};

use crate::{control::Input, desired::Accepted, status::Seen};

/// How long the first assignment waits for what this node's own object says about it.
const NODE_FIRST: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one watch lasts before it is begun anew. An API server may go away without a word, and nothing tells
/// a silent watch from a dead one: by then at the latest the node sees what it missed.
const WATCH_SECONDS: u32 = 60;
/// Lists and the beginnings of watches have no other limit. Longer than a watch in which nothing happens.
const READ_TIMEOUT: Duration = Duration::from_secs(70);

/// Gives a client's configuration the time limits that watching needs.
pub(crate) fn limited(mut config: kube::Config) -> kube::Config {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    // What a pooled connection lay idle is nobody's waiting.
    config.reset_reader_on_write = true;
    config
}

/// Follows both until the control loop is gone. A new node must hear which units it keeps on stable
/// before it hears of their unproven revisions.
pub(crate) async fn follow(
    client: Client,
    node: String,
    group: String,
    to: mpsc::Sender<Input>,
    seen: watch::Sender<Seen>,
) {
    let (tell, told) = oneshot::channel();
    let follow_node = self::node(client.clone(), node, to.clone(), tell, seen);
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
    let events = self::events::<Assignment>(client, &group);
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
async fn node(
    client: Client,
    node: String,
    to: mpsc::Sender<Input>,
    known: oneshot::Sender<()>,
    seen: watch::Sender<Seen>,
) {
    let events = self::events::<DataplaneNode>(client, &node);
    pin_mut!(events);
    let mut known = Some(known);
    let mut is_there = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                is_there = true;
                seen.send_replace(match object.status {
                    Some(status) => Seen::Report(Box::new(status.report)),
                    None => Seen::Empty,
                });
                let units = object.spec.keep_stable.into_iter().collect();
                if to.send(Input::KeepStable(units)).await.is_err() {
                    return;
                }
            }
            Ok(Event::InitDone) => {
                if !is_there {
                    seen.send_replace(Seen::Gone);
                }
                // Whoever waited may have given up.
                let _gave_up = known.take().map(|known| known.send(()));
            }
            Ok(Event::Init) => is_there = false,
            // A deleted object says nothing about this node; it will be made again.
            Ok(Event::Delete(_)) => {
                seen.send_replace(Seen::Gone);
            }
            Err(error) => tracing::warn!(%error, "cannot watch the DataplaneNode; trying again"),
        }
    }
}

fn events<K>(client: Client, name: &str) -> impl Stream<Item = watcher::Result<Event<K>>> + use<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_api_server_that_takes_a_request_and_says_nothing_is_asked_again() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let mut config = limited(kube::Config::new(url));
        assert!(config.read_timeout.unwrap() > Duration::from_secs(WATCH_SECONDS.into()));
        config.read_timeout = Some(Duration::from_millis(50));
        let events = events::<Assignment>(Client::try_from(config).unwrap(), "canary");
        pin_mut!(events);
        let (mut taken, mut refusals) = (Vec::new(), 0);
        while refusals < 2 {
            tokio::select! {
                accepted = silent.accept() => taken.push(accepted.unwrap()),
                event = events.next() => match event.unwrap() {
                    Ok(event) => assert!(matches!(event, Event::Init)),
                    Err(_) => refusals += 1,
                },
            }
        }
    }
}
