//! A cluster for tests and demos: one of our own, or a context that the user names.

mod nodes;
mod up;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use kube::Client;
use serde_json::Value;

use crate::{
    control_plane::{API_SERVER, ControlPlane, client},
    external::External,
    image::Image,
    node::Node,
    pki::{Identity, Pki},
    process::{Processes, Spawn},
    run,
    state::{Folder, State},
    teardown, tools,
};

/// What kind of cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells clusters on one machine apart.
    pub name: String,
    /// How many nodes; with none there is only a control plane, which is ready in seconds.
    pub nodes: u8,
    /// Labels by node name; nodes are `node-1`, `node-2` and so on.
    pub node_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// Whether the API server writes an audit log.
    pub audit: bool,
    /// Use this context of the user's kubeconfig instead.
    pub context: Option<String>,
    /// Replace a cluster of that name rather than use it, and remove it when this value is dropped: for tests.
    pub ephemeral: bool,
}

impl Options {
    /// A cluster with nodes that outlives the harness.
    pub fn new(name: &str, nodes: u8) -> Self {
        Self {
            name: name.to_owned(),
            nodes,
            node_labels: BTreeMap::new(),
            audit: false,
            context: None,
            ephemeral: false,
        }
    }

    /// One for a test: fresh, and gone with the value that holds it.
    pub fn ephemeral(name: &str, nodes: u8) -> Self {
        Self { ephemeral: true, ..Self::new(name, nodes) }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    kubeconfig: PathBuf,
    kind: Kind,
    remove_on_drop: bool,
}

#[derive(Debug)]
enum Kind {
    Own(Own),
    External(External),
}

/// What a cluster of our own consists of on this machine.
#[derive(Debug)]
struct Own {
    folder: Folder,
    pki: Pki,
    processes: Processes,
}

impl Own {
    fn of(folder: Folder) -> Result<Self> {
        Ok(Self { pki: Pki::of(&folder)?, processes: Processes::of(&folder), folder })
    }

    fn state(&self) -> Result<State> {
        self.folder.load()?.with_context(|| format!("{} is gone", self.folder.path().display()))
    }

    fn plane<'a>(&'a self, state: &'a State) -> ControlPlane<'a> {
        ControlPlane { folder: &self.folder, state, pki: &self.pki, processes: &self.processes }
    }
}

impl Cluster {
    /// An existing cluster of our own.
    pub fn open(name: &str) -> Result<Self> {
        let folder = Folder::of(name)?;
        let Some(state) = folder.load()? else {
            bail!("there is no cluster {name}: `cluster up --name {name}` makes it")
        };
        let own = Own::of(folder)?;
        let kubeconfig = own.plane(&state).admin_kubeconfig()?;
        Ok(Self { name: name.to_owned(), kubeconfig, kind: Kind::Own(own), remove_on_drop: false })
    }

    fn own(&self) -> Result<&Own> {
        match &self.kind {
            Kind::Own(own) => Ok(own),
            Kind::External(external) => bail!("this needs a cluster of our own, not the context {}", external.context),
        }
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The administrator's kubeconfig; its certificates are inside.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// An administrator's client.
    pub async fn client(&self) -> Result<Client> {
        client(&self.kubeconfig).await
    }

    /// A kubeconfig for any other user, to see what roles allow.
    pub fn user_kubeconfig(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let own = self.own()?;
        let file = format!("user-{}", user.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        own.pki.kubeconfig(&file, &self.bridge_ip()?.to_string(), &Identity::client(user, groups))
    }

    /// Where parts outside of the cluster listen so that pods reach them; also the API server's address.
    pub fn bridge_ip(&self) -> Result<Ipv4Addr> {
        Ok(self.own()?.state()?.addresses().bridge_ip())
    }

    /// The files of the cluster: logs, state, what parts keep.
    pub fn folder(&self) -> Result<&Folder> {
        Ok(&self.own()?.folder)
    }

    /// The processes of the cluster.
    pub fn processes(&self) -> Result<&Processes> {
        Ok(&self.own()?.processes)
    }

    /// Starts a process on the machine that belongs to the cluster: it outlives the harness and ends with the cluster.
    pub fn start_process(&self, spawn: &Spawn) -> Result<()> {
        self.processes()?.start(spawn)
    }

    /// The audit log of a cluster that was started with one.
    pub fn audit_log(&self) -> Result<PathBuf> {
        let own = self.own()?;
        let state = own.state()?;
        if !state.audit {
            bail!("cluster {} was started without an audit log", self.name);
        }
        Ok(own.plane(&state).audit_log())
    }

    /// `kubectl` with this cluster's kubeconfig; returns what it prints.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run::output_later(self.kubectl_command(arguments), None).await
    }

    /// `kubectl apply --server-side` of one object or a list.
    pub async fn apply(&self, objects: &Value) -> Result<String> {
        let command = self.kubectl_command(&["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        run::output_later(command, Some(objects.to_string())).await
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tools::kubectl());
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command
    }

    /// Makes an image known on every node, also on those that come later. Pods use it with `imagePullPolicy: Never`.
    pub async fn import_image(&self, image: &Image) -> Result<()> {
        let own = match &self.kind {
            Kind::Own(own) => own,
            Kind::External(external) => return external.import_image(image).await,
        };
        let (image, folder) = (image.clone(), own.folder.clone());
        let archive = tokio::task::spawn_blocking(move || image.write_archive(&folder)).await??;
        let state = own.state()?;
        let plane = own.plane(&state);
        let running = state.nodes.iter().filter(|(_, node)| !node.stopped);
        let imports = running.map(|(name, _)| async {
            let node = Node::of(&plane, name)?;
            node.import(&archive).await
        });
        futures::future::try_join_all(imports).await?;
        Ok(())
    }

    /// Stops the API server, as an outage would.
    pub fn stop_api_server(&self) -> Result<()> {
        self.processes()?.stop(API_SERVER)
    }

    /// Starts the API server again and waits until it is ready.
    pub async fn start_api_server(&self) -> Result<()> {
        let own = self.own()?;
        own.plane(&own.state()?).start_api_server().await
    }

    /// Both in turn.
    pub async fn restart_api_server(&self) -> Result<()> {
        self.stop_api_server()?;
        self.start_api_server().await
    }

    /// Removes the cluster whole. A context that the user named is left as it is.
    pub async fn down(mut self) -> Result<()> {
        self.remove_on_drop = false;
        match &self.kind {
            Kind::Own(own) => remove(own.folder.clone()).await,
            Kind::External(_) => Ok(()),
        }
    }
}

/// Removes a cluster by name, also one that never came up.
pub async fn down(name: &str) -> Result<()> {
    remove(Folder::of(name)?).await
}

async fn remove(folder: Folder) -> Result<()> {
    tokio::task::spawn_blocking(move || {
        let _lock = folder.lock()?;
        teardown::remove(&folder)
    })
    .await?
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let (true, Kind::Own(own)) = (self.remove_on_drop, &self.kind)
            && let Err(error) = teardown::remove(&own.folder)
        {
            tracing::error!("cluster {} is not wholly removed: {error:#}", self.name);
        }
    }
}
