//! What the operator is told by flags and environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;

/// The Sluice operator: follows git, decides rollouts, tells nodes what to run.
#[derive(Clone, Debug, Parser)]
#[command(name = "sluice-operator", version)]
pub struct Config {
    /// Namespace of the operator, of the dataplane's pods and of the gates' Jobs.
    #[arg(long, env = "POD_NAMESPACE", default_value = "sluice-system")]
    pub namespace: String,
    /// Name of this replica; holds the lease.
    #[arg(long, env = "POD_NAME", default_value = "sluice-operator")]
    pub pod_name: String,
    /// Address of this replica's pod: nodes and other replicas reach its artifacts there.
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1")]
    pub pod_ip: String,
    /// Folder for clones and artifacts; may be lost at any time.
    #[arg(long, env = "SLUICE_WORK_DIR", default_value = "/var/lib/sluice")]
    pub work_dir: PathBuf,
    /// Where /healthz, /readyz and /metrics are.
    #[arg(long, env = "SLUICE_METRICS_ADDR", default_value = "0.0.0.0:8080")]
    pub metrics_addr: SocketAddr,
    /// Where artifacts are served over HTTPS.
    #[arg(long, env = "SLUICE_ARTIFACTS_ADDR", default_value = "0.0.0.0:8443")]
    pub artifacts_addr: SocketAddr,
    /// Name of the Service in front of all replicas' artifacts; stands in their certificates.
    #[arg(long, env = "SLUICE_ARTIFACTS_SERVICE", default_value = "sluice-operator-artifacts")]
    pub artifacts_service: String,
    /// Name of the headless Service that names every replica, ready or not.
    #[arg(long, env = "SLUICE_PEERS_SERVICE", default_value = "sluice-operator-peers")]
    pub peers_service: String,
    /// File with the token to show to other replicas; without it none is asked.
    #[arg(long, env = "SLUICE_PEERS_TOKEN", default_value = "/var/run/secrets/sluice/token")]
    pub peers_token: PathBuf,
    /// Name of the dataplane's ServiceAccount, whose pods may read artifacts.
    #[arg(long, env = "SLUICE_DATAPLANE_SERVICE_ACCOUNT", default_value = "sluice-dataplane")]
    pub dataplane_service_account: String,
    /// Name of the operator's ServiceAccount, whose pods may read artifacts of each other.
    #[arg(long, env = "SLUICE_SERVICE_ACCOUNT", default_value = "sluice-operator")]
    pub service_account: String,
    /// Label of Nodes that names their group.
    #[arg(long, env = "SLUICE_GROUP_LABEL", default_value = "node-restriction.kubernetes.io/sluice-group")]
    pub group_label: String,
    /// ConfigMap whose key `daemonset.yaml` is the template of each group's DaemonSet.
    #[arg(long, env = "SLUICE_DATAPLANE_TEMPLATE", default_value = "sluice-dataplane-template")]
    pub dataplane_template: String,
    /// Prometheus that gates query; without one such gates are inconclusive.
    #[arg(long, env = "SLUICE_PROMETHEUS_URL")]
    pub prometheus_url: Option<String>,
    /// PEM file of the authority of Prometheus' certificate.
    #[arg(long, env = "SLUICE_PROMETHEUS_CA")]
    pub prometheus_ca: Option<PathBuf>,
    /// File with a bearer token for Prometheus.
    #[arg(long, env = "SLUICE_PROMETHEUS_TOKEN")]
    pub prometheus_token: Option<PathBuf>,
    /// PEM file of authorities that git servers' certificates may come from, beside the public ones.
    #[arg(long, env = "SLUICE_GIT_CA")]
    pub git_ca: Option<PathBuf>,
    /// Addresses that no git server may have, e.g. the API server's.
    #[arg(long, env = "SLUICE_GIT_REFUSE", value_delimiter = ',')]
    pub git_refuse: Vec<std::net::IpAddr>,
    /// The API server as pods see it, no git server either; some clouds write a name here, which is left out.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    pub api_server: Option<String>,
    /// Allow git servers on loopback addresses: tests and local tries only.
    #[arg(long, env = "SLUICE_GIT_ALLOW_LOOPBACK")]
    pub git_allow_loopback: bool,
    /// Name of the Lease that decides who leads. Only tests have two: to see that two leaders do no harm.
    #[arg(long, default_value = "sluice-operator", hide = true)]
    pub lease_name: String,
    /// Seconds after which another replica may take over from a leader that is silent.
    #[arg(long, env = "SLUICE_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=600))]
    pub lease_seconds: u64,
}

impl Config {
    /// After this time of silence another replica may lead.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }
}
