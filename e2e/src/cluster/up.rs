//! Bringing a cluster up: control plane, nodes, DNS; or using the one that runs already.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ServiceAccount};
use kube::Api;

use crate::{
    cluster::{Cluster, Kind, Options, Own},
    control_plane::{CONTROLLER_MANAGER, client},
    dns,
    external::External,
    image, network,
    node::Node,
    state::Folder,
    teardown, tools,
    wait::{Look, until},
};

const DEFAULTS_LIMIT: Duration = Duration::from_secs(60);
const DNS_LIMIT: Duration = Duration::from_secs(120);

impl Cluster {
    /// Brings a cluster up, or returns the healthy one of that name, with nodes added where it has too few.
    pub async fn up(options: Options) -> Result<Self> {
        if let Some(context) = &options.context {
            let external = External::of(context).await?;
            let (name, kubeconfig) = (context.clone(), external.kubeconfig.clone());
            return Ok(Self { name, kubeconfig, kind: Kind::External(external), remove_on_drop: false });
        }
        tools::preflight(options.nodes > 0)?;
        let folder = Folder::of(&options.name)?;
        let to_lock = folder.clone();
        let _lock = tokio::task::spawn_blocking(move || to_lock.lock()).await??;
        if !options.ephemeral
            && let Some(cluster) = Self::running(&options, &folder).await?
        {
            return Ok(cluster);
        }
        let old = folder.clone();
        tokio::task::spawn_blocking(move || teardown::remove(&old)).await??;
        folder.create(options.audit)?;
        let mut cluster = Self::open(&options.name)?;
        cluster.remove_on_drop = options.ephemeral;
        if let Err(error) = cluster.bring_up(&options).await {
            if std::env::var_os("SLUICE_KEEP_FAILED").is_none() {
                cluster.down_locked().await?;
            }
            return Err(error.context(format!("cluster {} did not come up", options.name)));
        }
        Ok(cluster)
    }

    /// For callers that hold the lock.
    async fn down_locked(mut self) -> Result<()> {
        self.remove_on_drop = false;
        let folder = self.folder()?.clone();
        tokio::task::spawn_blocking(move || teardown::remove(&folder)).await?
    }

    async fn running(options: &Options, folder: &Folder) -> Result<Option<Self>> {
        let Some(state) = folder.load()? else { return Ok(None) };
        if !state.complete || state.audit != options.audit {
            return Ok(None);
        }
        let cluster = Self::open(&options.name)?;
        if let Err(error) = cluster.check().await {
            tracing::warn!("replacing cluster {}, which is not healthy: {error:#}", options.name);
            return Ok(None);
        }
        while cluster.node_names().await?.len() < usize::from(options.nodes) {
            cluster.add_node().await?;
        }
        cluster.label_nodes(&options.node_labels).await?;
        Ok(Some(cluster))
    }

    /// Fails, saying why, if anything that should run does not.
    pub async fn check(&self) -> Result<()> {
        let own = self.own()?;
        for name in own.processes.list().into_keys() {
            own.processes.check(&name)?;
        }
        let request = http::Request::get("/readyz").body(Vec::new())?;
        let ready = tokio::time::timeout(Duration::from_secs(10), async {
            client(&self.kubeconfig).await?.request_text(request).await.context("the API server is not ready")
        });
        ready.await.context("the API server does not answer")??;
        Ok(())
    }

    async fn bring_up(&self, options: &Options) -> Result<()> {
        let own = self.own()?;
        network::make_bridge(own.state()?.addresses())?;
        let images = async { if options.nodes > 0 { write_base_images(own).await } else { Ok(()) } };
        let state = own.state()?;
        let plane = own.plane(&state);
        futures::try_join!(images, plane.up(options.nodes > 0))?;
        if options.nodes > 0 {
            self.add_nodes(options.nodes).await?;
            self.label_nodes(&options.node_labels).await?;
            self.apply(&dns::manifest(state.addresses())).await?;
            self.wait_dns().await?;
        }
        self.wait_defaults(own).await?;
        let mut state = own.state()?;
        state.complete = true;
        own.folder.save(&state)
    }

    /// Without its service account a namespace refuses pods, and the first test would be too early.
    async fn wait_defaults(&self, own: &Own) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, "default");
        until("the default service account", DEFAULTS_LIMIT, || async {
            own.processes.check(CONTROLLER_MANAGER)?;
            Ok(match accounts.get_opt("default").await? {
                Some(_) => Look::Done(()),
                None => Look::NotYet("the controller manager has not made it".to_owned()),
            })
        })
        .await
    }

    async fn wait_dns(&self) -> Result<()> {
        let deployments: Api<Deployment> = Api::namespaced(self.client().await?, "kube-system");
        let ready = until("DNS", DNS_LIMIT, || async {
            let status = deployments.get("coredns").await?.status.unwrap_or_default();
            Ok(match status.ready_replicas {
                Some(ready) if ready > 0 => Look::Done(()),
                _ => Look::NotYet("no coredns pod is ready".to_owned()),
            })
        })
        .await;
        if ready.is_err() {
            let pods = self.kubectl(&["-n", "kube-system", "describe", "pods"]).await.unwrap_or_default();
            return ready.context(pods);
        }
        ready
    }

    /// Makes namespaces and processes of nodes that the state already knows, and waits until they are ready.
    pub(super) async fn start_known_nodes(&self, names: &[String]) -> Result<()> {
        let own = self.own()?;
        let state = own.state()?;
        let plane = own.plane(&state);
        for name in names {
            Node::of(&plane, name)?.make().await?;
        }
        self.join_pods()?;
        let starts = names.iter().map(|name| async {
            let node = Node::of(&plane, name)?;
            node.start_runtime().await?;
            node.start_agents()
        });
        futures::future::try_join_all(starts).await?;
        for name in names {
            self.wait_node(name, true).await?;
        }
        Ok(())
    }
}

async fn write_base_images(own: &Own) -> Result<()> {
    let folder = own.folder.clone();
    tokio::task::spawn_blocking(move || {
        for image in image::base_images()? {
            image.write_archive(&folder)?;
        }
        Ok(())
    })
    .await?
}
