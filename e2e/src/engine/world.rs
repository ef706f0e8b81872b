//! Where the engine is measured: a control plane, a git server behind a tap, nodes, one operator at a time.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};
use sluice_config::Digest;
use sluice_crds::{Assignment, DataplaneNode};

use super::{nodes::Nodes, units::WORKER, usage::Process};
use crate::{
    Cluster,
    control_plane::{self, API_SERVER},
    operators::{self, Operator, Start},
    parts::{api_proxy::ApiProxy, git_server, git_server::GitServer, tap::Tap},
    stage::TEAM,
    team::Team,
    wait::{Look, until},
};

/// Production's groups, in order.
pub(super) const GROUPS: [&str; 4] = ["internal", "canary", "early", "main"];
/// How long the first group's soak lasts, once there are gates.
pub(super) const SOAK: Duration = Duration::from_secs(1);
/// For whatever is waited for here.
pub(super) const LIMIT: Duration = Duration::from_secs(300);

/// Progress alone is written at most 15 s late: what is quiet for longer is at its end.
const QUIET: Duration = Duration::from_secs(17);
/// What is decided or said is written faster than that.
const SILENT: Duration = Duration::from_secs(3);
const OPERATOR: &str = "operator";
const REPOSITORY: &str = "edge";

/// All that the figures are measured on.
pub(super) struct World<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) client: Client,
    pub(super) team: Team,
    /// Between the operator and git.
    pub(super) tap: Tap,
    pub(super) nodes: Nodes,
    pub(super) operator: Operator,
    kubeconfig: PathBuf,
    proxy: Option<ApiProxy>,
}

impl<'a> World<'a> {
    /// Everything but units and gates: the groups are there, and every node is in one.
    pub(super) async fn on(cluster: &'a Cluster, nodes_wanted: usize) -> Result<Self> {
        operators::prepare(cluster).await?;
        let url = GitServer::start(cluster).await?.create(REPOSITORY)?;
        let ip = IpAddr::from(cluster.bridge_ip()?);
        let tap = Tap::start(ip, (ip, git_server::PORT).into()).await?;
        let team = Team::start(&cluster.folder()?.join("team"), &url)?;
        for (order, name) in (1..).zip(GROUPS) {
            cluster.apply(&operators::group(name, "production", order * 10, &json!([]))).await?;
        }
        let client = cluster.client().await?;
        let kubeconfig = cluster.user_kubeconfig("bench-operator", &["system:masters"])?;
        let mut nodes = Nodes::join(cluster, &client, nodes_wanted).await?;
        // It makes the groups' DaemonSets, on which nodes' pods depend.
        let artifacts_port = Some(operators::free_port()?);
        let start = Start {
            name: OPERATOR,
            lease: OPERATOR,
            kubeconfig: &kubeconfig,
            log: "info",
            artifacts_port,
            git_ca: None,
        };
        let operator = start.on(cluster)?;
        nodes.settle().await?;
        members(&client, nodes_wanted).await?;
        Ok(Self { cluster, client, team, tap, nodes, operator, kubeconfig, proxy: None })
    }

    /// The repository, as the team's namespace has it.
    pub(super) async fn follow_repository(&self) -> Result<()> {
        let url = format!("http://{}/{REPOSITORY}.git", self.tap.address());
        let repository = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": REPOSITORY, "namespace": TEAM},
            "spec": {"url": url, "interval": "1s", "stagingEvidence": "None"}});
        self.cluster.apply(&repository).await.map(drop)
    }

    /// One gate that takes time, and one whose end is decided here: what lies between is the engine's.
    pub(super) async fn set_gates(&self) -> Result<()> {
        let soak: Value = json!([{"name": "soak", "soak": {"duration": format!("{}s", SOAK.as_secs())}}]);
        let check = json!([{"name": "e2e", "job": {"image": "x", "command": ["true"], "timeout": "60s"}}]);
        let [first, .., last] = GROUPS;
        self.cluster.apply(&operators::group(first, "production", 10, &soak)).await?;
        self.cluster.apply(&operators::group(last, "production", 40, &check)).await.map(drop)
    }

    /// Starts the operator, which was stopped, without anything that it had on its disk.
    pub(super) fn start_cold(&mut self) -> Result<()> {
        std::fs::remove_dir_all(&self.operator.work_dir).context("an operator has a folder")?;
        self.start(&self.kubeconfig.clone())
    }

    fn start(&mut self, kubeconfig: &std::path::Path) -> Result<()> {
        let artifacts_port = Some(self.operator.artifacts_port);
        let start = Start { name: OPERATOR, lease: OPERATOR, kubeconfig, log: "info", artifacts_port, git_ca: None };
        self.operator = start.on(self.cluster)?;
        Ok(())
    }

    /// Starts the operator again, straight at the API server.
    pub(super) async fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.proxy = None;
        self.start(&self.kubeconfig.clone())?;
        self.leads().await
    }

    /// Starts the operator again, with a proxy before the API server that records.
    pub(super) async fn restart_through_proxy(&mut self) -> Result<()> {
        self.stop()?;
        let proxy = ApiProxy::start(control_plane::client(&self.kubeconfig).await?).await?;
        let kubeconfig = proxy.kubeconfig(&self.cluster.folder()?.join("proxy.kubeconfig"))?;
        self.proxy = Some(proxy);
        self.start(&kubeconfig)?;
        self.leads().await?;
        self.quiet().await
    }

    /// Stops the operator; it releases its lease.
    pub(super) fn stop(&self) -> Result<()> {
        self.cluster.processes()?.stop(OPERATOR)
    }

    /// The proxy that the operator speaks through.
    pub(super) fn proxy(&self) -> Result<&ApiProxy> {
        self.proxy.as_ref().context("the operator speaks to the API server itself")
    }

    /// The operator as a process.
    pub(super) fn operator_process(&self) -> Result<Process> {
        let pid = self.cluster.processes()?.pid(OPERATOR).context("the operator has ended")?;
        Ok(Process::of(pid))
    }

    /// The API server as a process.
    pub(super) fn api_server_process(&self) -> Result<Process> {
        let pid = self.cluster.processes()?.pid(API_SERVER).context("the API server has ended")?;
        Ok(Process::of(pid))
    }

    async fn leads(&self) -> Result<()> {
        until("the operator to lead", LIMIT, || async {
            self.cluster.processes()?.check(OPERATOR)?;
            let polls = self.operator.metrics.sum("sluice_operator_polls_total").await.unwrap_or(0.0);
            Ok(if polls >= 2.0 { Look::Done(()) } else { Look::NotYet("it has not asked git twice".to_owned()) })
        })
        .await
    }

    /// What the operator has written so far, as it counts itself.
    pub(super) async fn writes(&self) -> Result<f64> {
        self.operator.metrics.sum("sluice_operator_writes_total").await
    }

    /// Waits until the operator writes nothing more; when it last did.
    pub(super) async fn last_write(&self) -> Result<Timestamp> {
        let last = Mutex::new((self.writes().await?, Timestamp::now()));
        until("writes to end", LIMIT, || async {
            let (writes, now) = (self.writes().await?, Timestamp::now());
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if writes > last.0 {
                *last = (writes, now);
            }
            let quiet = now.duration_since(last.1).unsigned_abs();
            Ok(if quiet > SILENT { Look::Done(last.1) } else { Look::NotYet(format!("{quiet:?}")) })
        })
        .await
    }

    /// Waits until the operator writes nothing more. Only with a proxy.
    pub(super) async fn quiet(&self) -> Result<()> {
        let proxy = self.proxy()?;
        let mut last = (proxy.writes().len(), std::time::Instant::now());
        until("writes to end", LIMIT, || {
            let writes = proxy.writes().len();
            if writes != last.0 {
                last = (writes, std::time::Instant::now());
            }
            let quiet = last.1.elapsed();
            async move { Ok(if quiet > QUIET { Look::Done(()) } else { Look::NotYet(format!("{quiet:?}")) }) }
        })
        .await
    }

    /// What every group is told to run of the unit that changes.
    pub(super) async fn told_revision(&self) -> Result<Digest> {
        let api: Api<Assignment> = Api::all(self.client.clone());
        let told = api.get(GROUPS[0]).await?.spec.wire;
        let entry = told.entries.into_iter().find(|entry| entry.name == WORKER);
        entry.and_then(|entry| entry.revision).context("the unit that changes is assigned")
    }

    /// Starts a dataplane for each node, where it was played before.
    pub(super) async fn start_dataplanes(&mut self) -> Result<()> {
        self.nodes.start_dataplanes(self.cluster, self.operator.artifacts_port).await
    }

    /// Stops the operator and every dataplane: what is left is the API server.
    pub(super) fn stop_all(&mut self) -> Result<()> {
        self.stop()?;
        self.nodes.stop(self.cluster)
    }
}

/// Waits until so many nodes belong to groups.
async fn members(client: &Client, nodes: usize) -> Result<()> {
    let api: Api<DataplaneNode> = Api::all(client.clone());
    until("every node to be in a group", LIMIT, || async {
        let known = api.list(&ListParams::default()).await?.items.len();
        ensure!(known <= nodes, "there are {known} nodes");
        Ok(if known == nodes { Look::Done(()) } else { Look::NotYet(format!("{known} of {nodes}")) })
    })
    .await
}

/// The end of the operator's log.
pub(super) fn logs(cluster: &Cluster) -> String {
    cluster.processes().map(|processes| processes.tail(OPERATOR)).unwrap_or_default()
}
