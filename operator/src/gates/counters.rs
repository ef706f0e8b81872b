//! Nodes' own counters, read about every second from the nodes of groups with an attempt in flight.
//!
//! Counters only grow while a node's process lives, so that the difference of two readings is what
//! happened between them. Nothing is persisted: after a restart the first readings are the new baseline.

mod history;
mod read;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use futures::{StreamExt, stream};
use sluice_config as wire;
use sluice_rollout::{Counted, GateRef, Time};
use tokio::sync::watch;

use self::history::{History, Reading};
use crate::clock::Clock;

pub use self::read::{ReadError, client};

/// Time between two rounds.
const EVERY: Duration = Duration::from_secs(1);
/// Nodes that are read at once.
const AT_ONCE: usize = 32;

/// One gate that wants requests counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// For this gate.
    pub gate: GateRef,
    /// Of this unit.
    pub unit: wire::UnitRef,
    /// Of this revision.
    pub revision: wire::Digest,
    /// Count from here.
    pub from: Time,
}

/// All that is wanted, and where the groups' nodes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The gates.
    pub gates: Vec<Want>,
    /// Admin listeners of the live nodes of each group, by node.
    pub nodes: BTreeMap<String, BTreeMap<String, SocketAddr>>,
}

/// What was counted, by gate.
pub type Counts = BTreeMap<GateRef, Counted>;

/// Counts as long as anybody listens.
pub async fn run(
    http: reqwest::Client,
    clock: Clock,
    mut wants: watch::Receiver<Wants>,
    counts: watch::Sender<Counts>,
) {
    let mut history = History::default();
    loop {
        let now_wanted = wants.borrow_and_update().clone();
        history.keep(&now_wanted.gates);
        if now_wanted.gates.is_empty() {
            counts.send_if_modified(|all| !std::mem::take(all).is_empty());
            if wants.changed().await.is_err() {
                return;
            }
            continue;
        }
        round(&http, clock.now(), &now_wanted, &mut history).await;
        let counted = now_wanted.gates.iter().filter_map(|want| {
            let nodes = now_wanted.nodes.get(&want.gate.group)?;
            let nodes = nodes.keys().map(String::as_str).collect();
            Some((want.gate.clone(), history.count(want, &nodes)?))
        });
        counts.send_replace(counted.collect());
        let known: BTreeSet<GateRef> = now_wanted.gates.into_iter().map(|want| want.gate).collect();
        let news = wants.wait_for(|wants| wants.gates.iter().any(|want| !known.contains(&want.gate)));
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            news = news => if news.is_err() { return },
        }
    }
}

/// Reads each node once. The round's time is that before its first request: whatever a reading shows
/// beyond an earlier one happened after the earlier one's time.
async fn round(http: &reqwest::Client, at: Time, wants: &Wants, history: &mut History) {
    let groups: BTreeSet<&String> = wants.gates.iter().map(|want| &want.gate.group).collect();
    let nodes = groups.into_iter().filter_map(|group| Some((group, wants.nodes.get(group)?)));
    let nodes: Vec<(String, String, SocketAddr)> =
        nodes.flat_map(|(group, nodes)| nodes.iter().map(|(node, at)| (group.clone(), node.clone(), *at))).collect();
    let read = |(group, node, address)| async move { (group, node, read::counters(http, address).await) };
    let answers = stream::iter(nodes).map(read).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    for (group, node, answer) in answers {
        match answer {
            Ok(counters) if counters.group == group && counters.node == node => {
                history.add(&group, &node, Reading::of(at, &counters, &wants.gates));
            }
            Ok(counters) => {
                tracing::warn!(node, group, says = counters.node, of = counters.group, "counters of another node");
            }
            Err(error) => tracing::debug!(node, group, %error, "counters"),
        }
    }
    history.round(at);
}
