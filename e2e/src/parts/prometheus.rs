//! Prometheus on the bridge, scraping the dataplane's pods.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    parts::targets::NAMESPACE,
    process::Spawn,
    tools,
    wait::{Look, until},
};

const PROCESS: &str = "prometheus";
const TARGETS_PROCESS: &str = "prometheus-targets";
const USER: &str = "sluice-e2e-prometheus";

/// The port on the bridge.
pub const PORT: u16 = 9090;

/// A running Prometheus; it ends with its cluster.
#[derive(Debug)]
pub struct Prometheus<'a> {
    cluster: &'a Cluster,
    ip: Ipv4Addr,
    http: reqwest::Client,
}

impl<'a> Prometheus<'a> {
    /// Starts it, or finds the one that runs, and waits until it answers queries.
    pub async fn start(cluster: &'a Cluster) -> Result<Self> {
        let prometheus = Self { cluster, ip: cluster.bridge_ip()?, http: reqwest::Client::new() };
        cluster.apply(&reader_role()).await?;
        prometheus.resume().await?;
        Ok(prometheus)
    }

    /// Starts it again after [`Self::stop`].
    pub async fn resume(&self) -> Result<()> {
        let folder = self.cluster.folder()?.join("prometheus");
        fs::create_dir_all(&folder)?;
        let targets = folder.join("targets.json");
        if !targets.exists() {
            fs::write(&targets, "[]")?;
        }
        // A process of its own, because scraping goes on when the harness has ended.
        let follow = Spawn::new(TARGETS_PROCESS, tools::own_binary("cluster")?)
            .args(["follow-targets", "--kubeconfig"])
            .arg(self.cluster.user_kubeconfig(USER, &[])?.to_string_lossy())
            .arg("--file")
            .arg(targets.to_string_lossy());
        self.cluster.start_process(&follow)?;
        let config = folder.join("prometheus.json");
        fs::write(&config, serde_json::to_string_pretty(&config_of(&targets))?)?;
        let program = tools::packaged("prometheus").context("prometheus is missing: apt-get install prometheus")?;
        let spawn = Spawn::new(PROCESS, program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={}:{PORT}", self.ip))
            .arg("--log.level=warn");
        self.cluster.start_process(&spawn)?;
        until("Prometheus", Duration::from_secs(60), || async {
            self.cluster.processes()?.check(PROCESS)?;
            let ready = self.http.get(format!("{}/-/ready", self.url())).send().await;
            Ok(match ready.and_then(reqwest::Response::error_for_status) {
                Ok(_) => Look::Done(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
        .await
    }

    /// Stops it, as an outage would; what it stored stays.
    pub fn stop(&self) -> Result<()> {
        self.cluster.processes()?.stop(PROCESS)
    }

    /// Its address, for the machine and for pods alike.
    pub fn url(&self) -> String {
        format!("http://{}:{PORT}", self.ip)
    }

    /// An instant query's result: a list of `{metric, value}`.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let url = reqwest::Url::parse_with_params(&format!("{}/api/v1/query", self.url()), [("query", query)])?;
        let body: Value = self.http.get(url).send().await?.json().await?;
        if body["status"] != "success" {
            bail!("Prometheus refused {query}: {body}");
        }
        Ok(body["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until this many dataplane pods were scraped with success.
    pub async fn wait_targets(&self, count: usize, limit: Duration) -> Result<()> {
        until(&format!("{count} scraped dataplane pods"), limit, || async {
            let up = self.query("up{job=\"sluice-dataplane\"} == 1").await?.len();
            Ok(if up >= count { Look::Done(()) } else { Look::NotYet(format!("{up} are")) })
        })
        .await
    }
}

fn config_of(targets: &Path) -> Value {
    json!({
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
        "scrape_configs": [{
            "job_name": "sluice-dataplane",
            "file_sd_configs": [{"files": [targets], "refresh_interval": "2s"}],
        }],
    })
}

/// Pods in one namespace and nothing else.
fn reader_role() -> Value {
    let metadata = json!({"name": USER, "namespace": NAMESPACE});
    let group = "rbac.authorization.k8s.io";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
        },
        {
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": USER},
            "subjects": [{"apiGroup": group, "kind": "User", "name": USER}],
        },
    ]})
}
