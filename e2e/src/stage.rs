//! The stage of the demo and of the scenario tests: a cluster with Sluice installed as its docs say, one node a
//! group, and around it a git server, Prometheus and an application.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Pod},
};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    Cluster, Image, Options,
    parts::{
        git_server::GitServer,
        prometheus::{self, Prometheus},
        upstream,
    },
    pods, run,
    team::Team,
    tools,
    wait::{Look, until},
};

/// Where Sluice runs.
pub const SYSTEM: &str = "sluice-system";
/// Where the team's objects are.
pub const TEAM: &str = "edge-team";
/// Where the application runs.
pub const SHOP: &str = "shop";
/// The host that clients ask for.
pub const HOST: &str = "shop.example";
/// The port of the dataplane's pods.
const DATAPLANE_PORT: u16 = 8080;

const OPERATOR_IMAGE: &str = "sluice.local/sluice-operator:e2e";
const DATAPLANE_IMAGE: &str = "sluice.local/sluice-dataplane:e2e";
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const READY_LIMIT: Duration = Duration::from_secs(120);

/// A deployment group of the stage: its name, environment, order and gates. Each has one node.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// `staging` or `production`.
    pub environment: &'static str,
    /// Its place among the groups.
    pub order: u32,
    /// As in the resource.
    pub gates: Value,
}

/// A cluster with Sluice and all that is around it.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// The team that merges.
    pub team: Team,
    /// The groups, in order.
    pub groups: Vec<Group>,
}

impl Stage {
    /// Sets it up, telling each step. A cluster of that name that is up already is replaced.
    pub async fn set_up(options: Options, groups: Vec<Group>, say: &dyn Fn(&str)) -> Result<Self> {
        say(&format!("start a Kubernetes with {} nodes", options.nodes));
        let cluster = Cluster::up(Options { node_labels: labels(&groups), ..options }).await?;
        say("start a git server, Prometheus and the shop's application");
        let git = GitServer::start(&cluster).await?;
        let url = git.create("edge")?;
        let team = Team::start(&cluster.folder()?.join("team"), &url)?;
        namespaces(&cluster).await?;
        Prometheus::start(&cluster).await?;
        upstream::deploy(&cluster, SHOP, "shop", 2).await?;
        let stage = Self { cluster, team, groups };
        say("helm install sluice charts/sluice -n sluice-system");
        stage.import_images().await?;
        stage.helm("install", &[]).await?;
        stage.apply_groups(&stage.groups).await?;
        stage.wait_ready().await?;
        say("kubectl apply the team's Repository");
        stage.cluster.apply(&repository(&url)).await?;
        Ok(stage)
    }

    async fn import_images(&self) -> Result<()> {
        // Public authorities, which git servers' certificates come from.
        let operator =
            Image::of_program(OPERATOR_IMAGE, &tools::own_binary("sluice-operator")?)?.file(AUTHORITIES, AUTHORITIES);
        let dataplane = Image::of_program(DATAPLANE_IMAGE, &tools::own_binary("sluice-dataplane")?)?;
        self.cluster.import_image(&operator).await?;
        self.cluster.import_image(&dataplane).await
    }

    /// `helm install` or `helm upgrade` of the chart in this checkout, with more values where given.
    pub async fn helm(&self, verb: &str, values: &[&str]) -> Result<String> {
        let prometheus = format!("prometheus.url=http://{}:{}", self.cluster.bridge_ip()?, prometheus::PORT);
        let mut command = Command::new(tools::built("helm")?);
        command.args([verb, "sluice"]).arg(chart()?).args(["--namespace", SYSTEM]);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig_path());
        for value in [
            "operator.image.repository=sluice.local/sluice-operator",
            "operator.image.tag=e2e",
            "operator.image.pullPolicy=Never",
            "dataplane.image.repository=sluice.local/sluice-dataplane",
            "dataplane.image.tag=e2e",
            "dataplane.image.pullPolicy=Never",
            &prometheus,
        ]
        .iter()
        .chain(values)
        {
            command.args(["--set", value]);
        }
        run::output_later(command, None).await
    }

    /// `kubectl apply` of groups.
    pub async fn apply_groups(&self, groups: &[Group]) -> Result<()> {
        let items: Vec<Value> = groups.iter().map(group_object).collect();
        self.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items})).await.map(drop)
    }

    /// What the dataplane of a group logged of failures, the last lines.
    pub async fn trouble(&self, group: &str) -> Result<String> {
        let pod = self.dataplane_pod(group).await?.name_any();
        let log = self.cluster.kubectl(&["logs", "-n", SYSTEM, &pod, "--tail=200"]).await?;
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
        Ok(lines[lines.len().saturating_sub(10)..].join("\n"))
    }

    /// Waits for the operator, and for a ready dataplane pod in every group.
    async fn wait_ready(&self) -> Result<()> {
        self.cluster
            .kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/sluice-operator", "--timeout=120s"])
            .await?;
        for group in &self.groups {
            self.dataplane(group.name).await?;
        }
        Prometheus::start(&self.cluster).await?.wait_targets(self.groups.len(), READY_LIMIT).await
    }

    /// Address of the ready dataplane pod of a group, waited for.
    pub async fn dataplane(&self, group: &str) -> Result<SocketAddr> {
        let pod = self.dataplane_pod(group).await?;
        Ok(SocketAddr::new(pods::ip(&pod).context("a ready pod has an address")?, DATAPLANE_PORT))
    }

    /// The ready dataplane pod of a group, waited for.
    pub async fn dataplane_pod(&self, group: &str) -> Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, SYSTEM);
        let selector = format!("sluice.dev/group={group},app.kubernetes.io/component=dataplane");
        until(&format!("a ready dataplane pod in {group}"), READY_LIMIT, || async {
            let list = pods.list(&ListParams::default().labels(&selector)).await?;
            let ready = list.items.iter().find(|pod| pods::is_ready(pod) && pods::ip(pod).is_some());
            Ok(match ready {
                Some(pod) => Look::Done(pod.clone()),
                None => Look::NotYet(pods::why_not_ready(&list.items)),
            })
        })
        .await
    }

    /// Name of the operator's pod that leads.
    pub async fn leader(&self) -> Result<String> {
        let leases: Api<Lease> = Api::namespaced(self.cluster.client().await?, SYSTEM);
        until("a leader among the operator's replicas", READY_LIMIT, || async {
            let holder = leases.get_opt("sluice-operator").await?.and_then(|lease| lease.spec?.holder_identity);
            Ok(match holder.filter(|name| !name.is_empty()) {
                Some(name) => Look::Done(name),
                None => Look::NotYet("nobody holds the lease".to_owned()),
            })
        })
        .await
    }

    /// `kill -9` of the operator that leads; returns its pod's name.
    pub async fn kill_leader(&self) -> Result<String> {
        let name = self.leader().await?;
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, SYSTEM);
        let uid = pods.get(&name).await?.uid().context("a pod has a UID")?;
        pods::kill_program(&uid, "sluice-operator")?;
        Ok(name)
    }
}

/// The chart of this checkout.
fn chart() -> Result<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("charts/sluice").canonicalize().context("the chart is not where this program was built")
}

fn labels(groups: &[Group]) -> BTreeMap<String, BTreeMap<String, String>> {
    let label = |group: &Group| {
        BTreeMap::from([("node-restriction.kubernetes.io/sluice-group".to_owned(), group.name.to_owned())])
    };
    groups.iter().enumerate().map(|(index, group)| (format!("node-{}", index + 1), label(group))).collect()
}

async fn namespaces(cluster: &Cluster) -> Result<()> {
    let namespace = |name: &str, profile: &str| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name, "labels": {"pod-security.kubernetes.io/enforce": profile},
        }})
    };
    let items = [namespace(SYSTEM, "restricted"), namespace(TEAM, "restricted"), namespace(SHOP, "restricted")];
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items})).await?;
    let all: Api<Namespace> = Api::all(cluster.client().await?);
    for name in [SYSTEM, TEAM, SHOP] {
        all.get(name).await?;
    }
    Ok(())
}

fn group_object(group: &Group) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "DeploymentGroup", "metadata": {"name": group.name},
        "spec": {"environment": group.environment, "order": group.order, "gates": group.gates},
    })
}

fn repository(url: &str) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "Repository",
        "metadata": {"name": "edge", "namespace": TEAM},
        "spec": {"url": url, "interval": "2s"},
    })
}
