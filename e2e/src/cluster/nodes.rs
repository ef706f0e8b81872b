//! The nodes of a running cluster: adding, stopping, cutting off, removing.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    address::NODES_MAX,
    cluster::{Cluster, Kind, Own},
    network,
    node::Node,
    state::{NodeState, State},
    wait::{Look, until},
};

const READY_LIMIT: Duration = Duration::from_secs(120);

impl Cluster {
    async fn node_api(&self) -> Result<Api<NodeObject>> {
        Ok(Api::all(self.client().await?))
    }

    /// The names of the nodes, in the order in which they were added.
    pub async fn node_names(&self) -> Result<Vec<String>> {
        if let Kind::Own(own) = &self.kind {
            let state = own.state()?;
            let mut nodes: Vec<_> = state.nodes.iter().collect();
            nodes.sort_by_key(|(_, node)| node.index);
            return Ok(nodes.into_iter().map(|(name, _)| name.clone()).collect());
        }
        let nodes = self.node_api().await?.list(&ListParams::default()).await?;
        Ok(nodes.items.into_iter().filter_map(|node| node.metadata.name).collect())
    }

    /// A node's address on the bridge.
    pub fn node_ip(&self, name: &str) -> Result<Ipv4Addr> {
        let state = self.own()?.state()?;
        let node = state.nodes.get(name).with_context(|| format!("there is no node {name}"))?;
        Ok(state.addresses().node_ip(node.index))
    }

    /// Adds a node and waits until it is ready; returns its name.
    pub async fn add_node(&self) -> Result<String> {
        let mut added = self.add_nodes(1).await?;
        added.pop().context("no node was added")
    }

    /// Adds several nodes at once, which is quicker than one after another.
    pub async fn add_nodes(&self, count: u8) -> Result<Vec<String>> {
        let own = self.own()?;
        let mut state = own.state()?;
        let mut added = Vec::new();
        for _ in 0..count {
            let index = (1..=NODES_MAX)
                .find(|index| state.nodes.values().all(|node| node.index != *index))
                .with_context(|| format!("a cluster has at most {NODES_MAX} nodes"))?;
            let name = format!("node-{index}");
            state.nodes.insert(name.clone(), NodeState { index, labels: BTreeMap::new(), stopped: false });
            added.push(name);
        }
        own.folder.save(&state)?;
        self.start_known_nodes(&added).await?;
        Ok(added)
    }

    /// Sets labels as an administrator; kubelets themselves may not set those under `node-restriction.kubernetes.io/`.
    pub async fn label_nodes(&self, labels: &BTreeMap<String, BTreeMap<String, String>>) -> Result<()> {
        let nodes = self.node_api().await?;
        for (name, labels) in labels {
            let patch = json!({"metadata": {"labels": labels}});
            let patched = nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            patched.with_context(|| format!("cannot label {name}"))?;
            if let Kind::Own(own) = &self.kind {
                own.change_node(name, |node| node.labels.extend(labels.clone()))?;
            }
        }
        Ok(())
    }

    /// Pulls a node's plug: its processes die, nobody is told, its disk stays.
    pub fn stop_node(&self, name: &str) -> Result<()> {
        let own = self.own()?;
        let state = own.state()?;
        Node::of(&own.plane(&state), name)?.cut_power()?;
        own.change_node(name, |node| node.stopped = true)?;
        // Services must stay reachable from the machine through another node.
        self.join_pods()
    }

    /// Starts a stopped node and waits until it is ready.
    pub async fn start_node(&self, name: &str) -> Result<()> {
        self.own()?.change_node(name, |node| node.stopped = false)?;
        self.start_known_nodes(&[name.to_owned()]).await
    }

    /// Unplugs a node's cable; what runs on it goes on running.
    pub fn disconnect_node(&self, name: &str) -> Result<()> {
        self.plug_node(name, false)
    }

    /// Plugs it in again.
    pub fn reconnect_node(&self, name: &str) -> Result<()> {
        self.plug_node(name, true)
    }

    fn plug_node(&self, name: &str, connected: bool) -> Result<()> {
        let state = self.own()?.state()?;
        let node = state.nodes.get(name).with_context(|| format!("there is no node {name}"))?;
        if node.stopped {
            bail!("{name} is stopped: it has no cable");
        }
        network::plug(state.addresses(), node.index, connected)
    }

    /// Removes a node for good, with its object.
    pub async fn remove_node(&self, name: &str) -> Result<()> {
        let own = self.own()?;
        let mut state = own.state()?;
        Node::of(&own.plane(&state), name)?.remove()?;
        state.nodes.remove(name);
        own.folder.save(&state)?;
        self.join_pods()?;
        match self.node_api().await?.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot delete node {name}")),
            Ok(_) => Ok(()),
        }
    }

    /// Waits until the API server thinks that a node is ready, or that it is not.
    pub async fn wait_node(&self, name: &str, wanted: bool) -> Result<()> {
        let nodes = self.node_api().await?;
        let what = format!("{name} to be {}", if wanted { "ready" } else { "not ready" });
        let result = until(&what, READY_LIMIT, || async {
            if let (Kind::Own(own), true) = (&self.kind, wanted) {
                let state = own.state()?;
                Node::of(&own.plane(&state), name)?.check()?;
            }
            let Some(node) = nodes.get_opt(name).await? else { return Ok(Look::NotYet("not registered".to_owned())) };
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            let Some(ready) = conditions.into_iter().find(|condition| condition.type_ == "Ready") else {
                return Ok(Look::NotYet("no condition yet".to_owned()));
            };
            let is = ready.status == "True";
            Ok(if is == wanted { Look::Done(()) } else { Look::NotYet(ready.message.unwrap_or_default()) })
        });
        let result = result.await;
        let kubelet = format!("{name}-kubelet");
        match &self.kind {
            // Where the kubelet has ended, the error shows its log already.
            Kind::Own(own) if wanted && own.processes.pid(&kubelet).is_some() => {
                result.with_context(|| format!("{kubelet} runs{}", own.processes.tail(&kubelet)))
            }
            Kind::Own(_) | Kind::External(_) => result,
        }
    }

    pub(super) fn join_pods(&self) -> Result<()> {
        let own = self.own()?;
        let state = own.state()?;
        let plane = own.plane(&state);
        let mut nodes = Vec::new();
        for (name, node) in &state.nodes {
            nodes.push((node.index, Node::of(&plane, name)?.pid()));
        }
        network::join_pods(state.addresses(), &nodes)
    }
}

impl Own {
    fn change_node(&self, name: &str, change: impl FnOnce(&mut NodeState)) -> Result<()> {
        let mut state: State = self.state()?;
        change(state.nodes.get_mut(name).with_context(|| format!("there is no node {name}"))?);
        self.folder.save(&state)
    }
}
