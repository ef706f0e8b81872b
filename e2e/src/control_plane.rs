//! etcd, API server, controller manager and scheduler, as processes on the machine.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use kube::Client;
use serde_json::json;

use crate::{
    address::API_SERVER_PORT,
    pki::{Identity, Pki},
    process::{Processes, Spawn},
    state::{Folder, State},
    tools,
    wait::{Look, until},
};

const READY_LIMIT: Duration = Duration::from_secs(90);
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The process names, in starting order; the scheduler only where there are nodes.
pub const ETCD: &str = "etcd";
pub const API_SERVER: &str = "kube-apiserver";
pub const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub const SCHEDULER: &str = "kube-scheduler";

/// A cluster's control plane.
pub struct ControlPlane<'a> {
    /// Where its files are.
    pub folder: &'a Folder,
    /// Which addresses it has.
    pub state: &'a State,
    /// Its certificates.
    pub pki: &'a Pki,
    /// Its processes.
    pub processes: &'a Processes,
}

impl ControlPlane<'_> {
    fn api_server_ip(&self) -> String {
        self.state.addresses().bridge_ip().to_string()
    }

    fn etcd_url(&self) -> String {
        format!("http://{}:2379", self.state.addresses().etcd_ip())
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> Result<PathBuf> {
        self.pki.kubeconfig("admin", &self.api_server_ip(), &Identity::client("admin", &["system:masters"]))
    }

    /// A kubeconfig for one of Kubernetes' own users.
    pub fn component_kubeconfig(&self, file: &str, user: &str, groups: &[&str]) -> Result<PathBuf> {
        self.pki.kubeconfig(file, &self.api_server_ip(), &Identity::client(user, groups))
    }

    /// Starts all of it and waits until it answers.
    pub async fn up(&self, with_scheduler: bool) -> Result<()> {
        self.start_etcd()?;
        self.start_api_server().await?;
        self.start_controller_manager()?;
        if with_scheduler {
            self.start_scheduler()?;
        }
        Ok(())
    }

    fn start_etcd(&self) -> Result<()> {
        let peer = format!("http://{}:2380", self.state.addresses().etcd_ip());
        let spawn = Spawn::new(ETCD, tools::built(ETCD)?)
            .arg(format!("--data-dir={}", self.folder.join("etcd").display()))
            .arg(format!("--listen-client-urls={}", self.etcd_url()))
            .arg(format!("--advertise-client-urls={}", self.etcd_url()))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            // A cluster for tests may lose its data in a power cut; waiting for the disk would only slow it down.
            .args(["--unsafe-no-fsync", "--log-level=warn"]);
        self.processes.start(&spawn)
    }

    /// Starts the API server and waits until it is ready.
    pub async fn start_api_server(&self) -> Result<()> {
        let mut spawn = Spawn::new(API_SERVER, tools::built(API_SERVER)?).args(self.api_server_flags()?);
        if self.state.audit {
            spawn = spawn.args(self.audit_flags()?);
        }
        self.processes.start(&spawn)?;
        self.wait_ready().await
    }

    fn api_server_flags(&self) -> Result<Vec<String>> {
        let addresses = self.state.addresses();
        let names =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
                .map(str::to_owned)
                .into_iter()
                .chain([addresses.bridge_ip().to_string(), addresses.api_service_ip().to_string()])
                .collect();
        let (server, server_key) = self.pki.issue("kube-apiserver", &Identity::server("kube-apiserver", names))?;
        let to_kubelets = Identity::client("kube-apiserver-kubelet-client", &["system:masters"]);
        let (kubelet_client, kubelet_client_key) = self.pki.issue("kubelet-client", &to_kubelets)?;
        let ca = self.pki.ca();
        let signing_key = self.pki.service_account_key();
        Ok(vec![
            format!("--etcd-servers={}", self.etcd_url()),
            format!("--bind-address={}", addresses.bridge_ip()),
            format!("--advertise-address={}", addresses.bridge_ip()),
            format!("--secure-port={API_SERVER_PORT}"),
            format!("--service-cluster-ip-range={}", addresses.service_cidr()),
            format!("--tls-cert-file={}", server.display()),
            format!("--tls-private-key-file={}", server_key.display()),
            format!("--client-ca-file={}", ca.display()),
            format!("--kubelet-certificate-authority={}", ca.display()),
            format!("--kubelet-client-certificate={}", kubelet_client.display()),
            format!("--kubelet-client-key={}", kubelet_client_key.display()),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--service-account-issuer={ISSUER}"),
            format!("--service-account-signing-key-file={}", signing_key.display()),
            format!("--service-account-key-file={}", self.pki.service_account_public_key().display()),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--profiling=false".to_owned(),
        ])
    }

    fn audit_flags(&self) -> Result<Vec<String>> {
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "RequestResponse", "resources": [{"group": "sluice.dev"}]},
                {"level": "Metadata"},
            ],
        });
        let path = self.folder.join("audit-policy.json");
        fs::write(&path, serde_json::to_string_pretty(&policy)?)?;
        Ok(vec![
            format!("--audit-policy-file={}", path.display()),
            format!("--audit-log-path={}", self.audit_log().display()),
        ])
    }

    /// Where the audit log is written, if it is.
    pub fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    async fn wait_ready(&self) -> Result<()> {
        let client = client(&self.admin_kubeconfig()?).await?;
        let ready = until("the API server", READY_LIMIT, || async {
            self.processes.check(ETCD)?;
            self.processes.check(API_SERVER)?;
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok(match client.request_text(request).await {
                Ok(_) => Look::Done(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
        .await;
        // Where the process has ended, the error shows its log already.
        if ready.is_err() && self.processes.pid(API_SERVER).is_some() {
            return ready
                .with_context(|| format!("the API server runs but is not ready{}", self.processes.tail(API_SERVER)));
        }
        ready
    }

    fn start_controller_manager(&self) -> Result<()> {
        let kubeconfig = self.component_kubeconfig(CONTROLLER_MANAGER, "system:kube-controller-manager", &[])?;
        let spawn = Spawn::new(CONTROLLER_MANAGER, tools::built(CONTROLLER_MANAGER)?)
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--root-ca-file={}", self.pki.ca().display()))
            .arg(format!("--service-account-private-key-file={}", self.pki.service_account_key().display()))
            .arg(format!("--bind-address={}", self.api_server_ip()))
            // Scenarios that cut a node off wait for this; the default is 50 s.
            .args(["--use-service-account-credentials", "--leader-elect=false", "--node-monitor-grace-period=30s"]);
        self.processes.start(&spawn)
    }

    fn start_scheduler(&self) -> Result<()> {
        let kubeconfig = self.component_kubeconfig(SCHEDULER, "system:kube-scheduler", &[])?;
        let spawn = Spawn::new(SCHEDULER, tools::built(SCHEDULER)?)
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--bind-address={}", self.api_server_ip()))
            .arg("--leader-elect=false");
        self.processes.start(&spawn)
    }
}

/// A client for a kubeconfig's current context.
pub async fn client(kubeconfig: &std::path::Path) -> Result<Client> {
    // Several parts may be first; whoever comes second finds it done.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let text = kube::config::Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(text, &kube::config::KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
