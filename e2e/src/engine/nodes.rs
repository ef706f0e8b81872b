//! The nodes: at first they only say that they run what they are told; later a dataplane runs on each, as a process on
//! this machine, with the token of its pod.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use sluice_config::{FORMAT, NodeReport};
use sluice_crds::{Assignment, DataplaneNode};
use tokio::task::JoinSet;

use super::world::{GROUPS, LIMIT};
use crate::{
    Cluster, Spawn,
    kubelet::Kubelet,
    operators::DATAPLANE_ACCOUNT,
    stage::SYSTEM,
    state::write_whole,
    tools,
    wait::{Look, until},
};

/// The service that artifacts are asked from; on this machine it is a process.
const ARTIFACTS: &str = "sluice-operator-artifacts.sluice-system.svc";
/// Audience of the tokens that it takes.
const AUDIENCE: &str = "sluice-artifacts";
/// As a node's own report settles.
const SETTLE: Duration = Duration::from_millis(20);

/// All nodes. The played ones end when this is dropped, dataplanes with the cluster.
pub(super) struct Nodes {
    client: Client,
    kubelets: Vec<Arc<Kubelet>>,
    /// By node.
    pods: BTreeMap<String, String>,
    kubeconfig: PathBuf,
    _heartbeats: JoinSet<()>,
    played: JoinSet<()>,
}

impl Nodes {
    /// Makes Nodes, shared out among the groups.
    pub(super) async fn join(cluster: &Cluster, client: &Client, count: usize) -> Result<Self> {
        let mut kubelets = Vec::new();
        for (number, group) in (1..=count).zip(GROUPS.iter().cycle()) {
            kubelets.push(Arc::new(Kubelet::join(client, &format!("node-{number}"), group).await?));
        }
        let mut heartbeats = JoinSet::new();
        for kubelet in kubelets.clone() {
            heartbeats.spawn(async move {
                loop {
                    if let Err(error) = kubelet.heartbeat().await {
                        tracing::warn!("{}: {error:#}", kubelet.name());
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        let kubeconfig = cluster.user_kubeconfig("bench-dataplanes", &["system:masters"])?;
        let (client, pods) = (client.clone(), BTreeMap::new());
        Ok(Self { client, kubelets, pods, kubeconfig, _heartbeats: heartbeats, played: JoinSet::new() })
    }

    /// Waits until each has its pod, and plays dataplanes from then on.
    pub(super) async fn settle(&mut self) -> Result<()> {
        for kubelet in &self.kubelets {
            let pod = until(&format!("the pod of {}", kubelet.name()), LIMIT, || async {
                Ok(match kubelet.run_pods().await? {
                    Some(pod) => Look::Done(pod),
                    None => Look::NotYet("its DaemonSet has not made it".to_owned()),
                })
            })
            .await?;
            self.pods.insert(kubelet.name().to_owned(), pod);
        }
        for group in GROUPS {
            let of_group = self.kubelets.iter().filter(|kubelet| kubelet.group() == group);
            let nodes = of_group.map(|kubelet| (kubelet.name().to_owned(), self.pods[kubelet.name()].clone()));
            self.played.spawn(play(self.client.clone(), group, nodes.collect()));
        }
        Ok(())
    }

    /// Starts the dataplanes, and waits until each reports that it runs what its group is told.
    pub(super) async fn start_dataplanes(&mut self, cluster: &Cluster, artifacts_port: u16) -> Result<()> {
        self.played.shutdown().await;
        let folder = cluster.folder()?.join("dataplanes");
        std::fs::create_dir_all(&folder)?;
        let hosts = folder.join("hosts");
        write_whole(&hosts, &format!("127.0.0.1 localhost {ARTIFACTS}\n"))?;
        let authority = folder.join("ca.crt");
        write_whole(&authority, &self.authority().await?)?;
        for kubelet in &self.kubelets {
            let pod = self.pods.get(kubelet.name()).context("a node has a pod")?;
            let own = folder.join(kubelet.name());
            std::fs::create_dir_all(&own)?;
            write_whole(&own.join("token"), &self.token(pod).await?)?;
            let spawn = in_hosts(kubelet.name(), &hosts)?
                .args(["--node", kubelet.name(), "--group", kubelet.group(), "--pod", pod])
                .args(["--pod-ip=127.0.0.1", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"])
                .arg(format!("--state-dir={}", own.join("state").display()))
                .arg(format!("--artifacts-url=https://{ARTIFACTS}:{artifacts_port}"))
                .arg(format!("--artifacts-ca={}", authority.display()))
                .arg(format!("--token-file={}", own.join("token").display()))
                .args(["--instances-max=100", "--drain-seconds=1"])
                .env("KUBECONFIG", self.kubeconfig.to_string_lossy());
            cluster.start_process(&spawn)?;
        }
        self.follow(cluster).await
    }

    /// Each node with its group.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&str, &str)> {
        self.kubelets.iter().map(|kubelet| (kubelet.name(), kubelet.group()))
    }

    /// Stops the dataplanes.
    pub(super) fn stop(&self, cluster: &Cluster) -> Result<()> {
        self.kubelets.iter().try_for_each(|kubelet| cluster.processes()?.stop(kubelet.name()))
    }

    async fn authority(&self) -> Result<String> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM);
        let map = maps.get("sluice-artifacts-ca").await?;
        map.data.and_then(|mut data| data.remove("ca.crt")).context("the operator publishes its authority")
    }

    /// A token of a pod, as its kubelet would ask for it.
    async fn token(&self, pod: &str) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.to_owned()),
            uid: pods.get(pod).await?.uid(),
        };
        let spec = TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            bound_object_ref: Some(bound),
            expiration_seconds: Some(7200),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), SYSTEM);
        let answer = accounts.create_token_request(DATAPLANE_ACCOUNT, &PostParams::default(), &request).await?;
        Ok(answer.status.context("a token was asked for")?.token)
    }

    /// Waits until every dataplane runs what its group is told, without exceptions.
    async fn follow(&self, cluster: &Cluster) -> Result<()> {
        let nodes: Api<DataplaneNode> = Api::all(self.client.clone());
        let assignments: Api<Assignment> = Api::all(self.client.clone());
        until("every dataplane to run what is assigned", LIMIT, || async {
            for kubelet in &self.kubelets {
                cluster.processes()?.check(kubelet.name())?;
            }
            let told = assignments.list(&ListParams::default()).await?.items;
            let told: BTreeMap<String, u64> = told.iter().map(|a| (a.name_any(), a.spec.wire.generation)).collect();
            for node in nodes.list(&ListParams::default()).await? {
                let report = node.status.as_ref().map(|status| status.report.clone()).unwrap_or_default();
                let is_real = report.boot != PLAYED;
                if !is_real || Some(&report.applied_generation) != told.get(&node.spec.group) {
                    let why = report.last_error.unwrap_or_default();
                    let text = format!("{} runs {}: {why}", node.name_any(), report.applied_generation);
                    return Ok(Look::NotYet(text));
                }
                if let Some(exception) = report.exceptions.first() {
                    return Ok(Look::NotYet(format!("{}: {}", node.name_any(), exception.message)));
                }
            }
            Ok(Look::Done(()))
        })
        .await
    }
}

/// The boot that played dataplanes report.
const PLAYED: &str = "played";

/// A dataplane whose `/etc/hosts` is this one: it looks artifacts up by the name of their service.
fn in_hosts(name: &str, hosts: &Path) -> Result<Spawn> {
    let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
    let unshare = tools::packaged("unshare").context("unshare is missing: apt-get install util-linux")?;
    let program = tools::own_binary("sluice-dataplane")?;
    let spawn = Spawn::new(name, unshare).args(["--mount", "sh", "-c", script]);
    Ok(spawn.arg(hosts.to_string_lossy()).arg(program.to_string_lossy()))
}

/// Dataplanes of a group that run everything as soon as they hear of it.
async fn play(client: Client, group: &'static str, nodes: Vec<(String, String)>) {
    let assignments: Api<Assignment> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={group}"));
    let events = watcher(assignments, config).default_backoff().applied_objects();
    let api: Api<DataplaneNode> = Api::all(client);
    let mut events = std::pin::pin!(events);
    while let Ok(event) = events.try_next().await {
        let Some(mut newest) = event else { return };
        // What comes in a burst is one report.
        let settled = tokio::time::sleep(SETTLE);
        let mut settled = std::pin::pin!(settled);
        loop {
            tokio::select! {
                () = &mut settled => break,
                next = events.try_next() => if let Ok(Some(next)) = next { newest = next },
            }
        }
        let reports = nodes.iter().map(|(node, pod)| {
            let report = NodeReport {
                group: group.to_owned(),
                boot: PLAYED.to_owned(),
                pod: pod.clone(),
                admin: "127.0.0.1:1".to_owned(),
                applied_generation: newest.spec.wire.generation,
                formats: vec![FORMAT],
                ..NodeReport::default()
            };
            let patch = Patch::Merge(json!({"status": report}));
            let api = &api;
            async move { api.patch_status(node, &PatchParams::default(), &patch).await }
        });
        if let Err(error) = futures::future::try_join_all(reports).await {
            tracing::warn!(%error, group, "a played node cannot report");
        }
    }
}
