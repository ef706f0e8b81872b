//! Operators as processes beside a control plane without nodes: what is there before the first one, and its start.

use std::{
    net::TcpListener,
    ops::Range,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    Cluster, Spawn,
    stage::{SYSTEM, TEAM},
    tools,
};

/// The account of the dataplane's pods.
pub const DATAPLANE_ACCOUNT: &str = "sluice-dataplane";

/// Installs the resource definitions, makes the namespaces, the account and the template of the dataplane.
pub async fn prepare(cluster: &Cluster) -> Result<()> {
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/yaml");
    for file in std::fs::read_dir(crds).with_context(|| format!("cannot list {crds}"))? {
        let path = file?.path();
        if path.extension().is_some_and(|e| e == "yaml") {
            cluster.kubectl(&["apply", "--server-side", "-f", &path.to_string_lossy()]).await?;
        }
    }
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).await?;
    for name in [SYSTEM, TEAM] {
        // Gates' Jobs must pass the strictest profile, wherever they run.
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let metadata = json!({"name": name, "labels": labels});
        cluster.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})).await?;
    }
    let metadata = json!({"name": DATAPLANE_ACCOUNT, "namespace": SYSTEM});
    cluster.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})).await?;
    cluster.apply(&template()).await?;
    Ok(())
}

/// How an operator is started.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// Of the process, and of the pod that it believes to be.
    pub name: &'a str,
    /// Tells apart those that are to lead at the same time.
    pub lease: &'a str,
    /// Leads it to the API server.
    pub kubeconfig: &'a Path,
    /// What it logs.
    pub log: &'a str,
    /// Where it serves artifacts; any free port otherwise.
    pub artifacts_port: Option<u16>,
    /// An authority that it believes beside the public ones.
    pub git_ca: Option<&'a Path>,
}

/// A started operator.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Its own metrics.
    pub metrics: Metrics,
    /// Where it serves artifacts.
    pub artifacts_port: u16,
    /// Its folder of clones and artifacts.
    pub work_dir: PathBuf,
}

impl Start<'_> {
    /// Starts it.
    pub fn on(&self, cluster: &Cluster) -> Result<Operator> {
        let (metrics, artifacts) = (free_port()?, self.artifacts_port.map_or_else(free_port, Ok)?);
        let work_dir = cluster.folder()?.join(self.name);
        let git_ca = self.git_ca.map(|path| format!("--git-ca={}", path.display()));
        let spawn = Spawn::new(self.name, tools::own_binary("sluice-operator")?)
            .arg(format!("--pod-name={}", self.name))
            .arg(format!("--namespace={SYSTEM}"))
            .arg(format!("--work-dir={}", work_dir.display()))
            .arg(format!("--metrics-addr=127.0.0.1:{metrics}"))
            .arg(format!("--artifacts-addr=127.0.0.1:{artifacts}"))
            .arg(format!("--lease-name={}", self.lease))
            .arg("--lease-seconds=4")
            .args(git_ca)
            .env("RUST_LOG", self.log)
            .env("KUBECONFIG", self.kubeconfig.to_string_lossy());
        cluster.start_process(&spawn)?;
        let metrics = Metrics { url: format!("http://127.0.0.1:{metrics}/metrics") };
        Ok(Operator { metrics, artifacts_port: artifacts, work_dir })
    }
}

/// An operator's own metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    url: String,
}

impl Metrics {
    /// The sum of a metric over its labels.
    pub async fn sum(&self, name: &str) -> Result<f64> {
        let text = reqwest::get(&self.url).await?.text().await?;
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit(' ').next().unwrap_or("0").parse::<f64>().context("a number")).sum()
    }
}

/// A deployment group.
pub fn group(name: &str, environment: &str, order: i32, gates: &Value) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "DeploymentGroup", "metadata": {"name": name},
        "spec": {"environment": environment, "order": order, "gates": gates}})
}

/// Below those that Linux gives to connections, which would take one before it is listened on.
const PORTS: Range<u16> = 20_000..32_000;

/// A port that nobody listens on.
pub fn free_port() -> Result<u16> {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let many = PORTS.end - PORTS.start;
    // Tests run beside each other, and not all of them in one process.
    let begin = u16::try_from(process::id() % u32::from(many))?;
    let next = || PORTS.start + begin.wrapping_add(ASKED.fetch_add(1, Relaxed)) % many;
    let mut ports = (0..many).map(|_| next());
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).context("every port is taken")
}

fn template() -> Value {
    let set = r#"apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: sluice-dataplane-${GROUP}
spec:
  selector:
    matchLabels:
      app.kubernetes.io/component: dataplane
  template:
    metadata:
      labels:
        app.kubernetes.io/component: dataplane
    spec:
      serviceAccountName: sluice-dataplane
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: dataplane
          image: sluice.local/dataplane
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: ["ALL"]}}
          env:
            - {name: SLUICE_GROUP, value: "${GROUP}"}
          resources:
            requests: {cpu: 1000m}
          ports:
            - {name: http, containerPort: 8080}
"#;
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "sluice-dataplane-template", "namespace": SYSTEM}, "data": {"daemonset.yaml": set}})
}
