//! Puts a replica together: what every replica does, and what only the leader does.

use std::{path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    artifacts::{self, Identity, KubeReviewer, Peers, ServeOptions, Store, StoreError, Supply},
    clock::Clock,
    config::Config,
    events::Events,
    evidence::Evidence,
    execute::Hands,
    gates::{counters, measure::Gates, prometheus, prometheus::Prometheus},
    health,
    holdings::Holdings,
    lease::Elector,
    metrics::Metrics,
    polls::{Poller, Reports},
    published::Published,
    reconcile::Reconciler,
    source::{self, Source, SourceError},
    stores::Stores,
    tell::Teller,
    writer::Writer,
};

/// Why a replica cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on, a file cannot be read.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Flags about Prometheus.
    #[error(transparent)]
    Prometheus(#[from] prometheus::SetupError),
    /// The HTTP client of counters.
    #[error("the HTTP client cannot be made: {0}")]
    Http(#[from] reqwest::Error),
    /// The folder of clones.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The folder of artifacts.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn io(what: String) -> impl FnOnce(std::io::Error) -> RunError {
    move |source| RunError::Io { what, source }
}

/// Runs one replica until `stop` is set.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config, client: Client, stop: watch::Receiver<bool>) -> Result<(), RunError> {
    let metrics = Metrics::default();
    let (readiness, ready) = watch::channel("the caches are not filled yet\n".to_owned());
    let mut tasks = JoinSet::new();
    serve_health(&config, &metrics, ready, &stop, &mut tasks).await?;

    let (stores, _watches) = Stores::start(&client, &config);
    let writer = Writer::new(client.clone(), metrics.clone());
    let events = Events::new(writer.clone(), &config.pod_name, "default");
    let hands = Hands { stores: stores.clone(), writer, events, clock: Clock::default() };
    let source = Source::new(source_options(&config)?)?;
    let store = Store::open(config.work_dir.join("artifacts")).await?;

    let mut stopped = stop.clone();
    let prepared = async {
        let identity = serve_artifacts(&config, &client, &store, &stop, &mut tasks).await?;
        Ok::<_, RunError>(stores.ready().await.is_ok().then_some(identity))
    };
    let identity = tokio::select! {
        prepared = prepared => prepared?,
        _ = stopped.wait_for(|stop| *stop) => None,
    };
    let Some(identity) = identity else { return Ok(()) };
    let supply = Supply::new(store.clone(), peers(&config, identity), source.clone());
    let holdings = Holdings::new(store, supply, stores, client.clone());
    tasks.spawn(holdings.clone().hold(readiness));
    tasks.spawn(holdings.clone().collect());

    let (leading, leads) = watch::channel(false);
    let elector = Elector::new(client, &config);
    let election = tokio::spawn(elector.run(leading, stop.clone()));
    let replica = Replica { config, hands, source, holdings: Arc::new(holdings) };
    replica.lead_when_elected(leads, stop, &metrics).await?;
    // The lease is released before the process ends, so that another replica takes over at once.
    if let Err(error) = election.await {
        tracing::warn!(%error, "election");
    }
    Ok(())
}

async fn serve_health(
    config: &Config,
    metrics: &Metrics,
    ready: health::Readiness,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> Result<(), RunError> {
    let address = config.metrics_addr;
    let listener = TcpListener::bind(address).await.map_err(io(format!("--metrics-addr {address}")))?;
    let (metrics, stop) = (metrics.clone(), stop.clone());
    tasks.spawn(async move {
        if let Err(error) = health::serve(listener, metrics, ready, stop).await {
            tracing::error!(%error, "health");
        }
    });
    Ok(())
}

/// Serves artifacts, as soon as the cluster's authority can be had.
async fn serve_artifacts(
    config: &Config,
    client: &Client,
    store: &Store,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> Result<Identity, RunError> {
    let address = config.artifacts_addr;
    let listener = TcpListener::bind(address).await.map_err(io(format!("--artifacts-addr {address}")))?;
    let (service, namespace) = (&config.artifacts_service, &config.namespace);
    let names = ["", ".svc", ".svc.cluster.local"].map(|suffix| format!("{service}.{namespace}{suffix}"));
    let identity = loop {
        match Identity::establish(client, namespace, names.to_vec()).await {
            Ok(identity) => break identity,
            Err(error) => tracing::warn!(%error, "artifacts cannot be served yet"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    tasks.spawn(identity.clone().keep_fresh(client.clone(), namespace.clone()));
    let account = |name: &str| format!("system:serviceaccount:{namespace}:{name}");
    let callers = [account(&config.dataplane_service_account), account(&config.service_account)].into();
    let reviewer = Arc::new(KubeReviewer::new(client.clone()));
    let options = ServeOptions { store: store.clone(), identity: identity.clone(), reviewer, callers };
    let mut stop = stop.clone();
    tasks.spawn(artifacts::serve(listener, options, async move {
        let _ended = stop.wait_for(|stop| *stop).await;
    }));
    Ok(identity)
}

/// The other replicas; nobody where there is no token to show them.
fn peers(config: &Config, identity: Identity) -> Option<Peers> {
    config.peers_token.exists().then(|| Peers {
        service: format!("{}.{}.svc", config.peers_service, config.namespace),
        port: config.artifacts_addr.port(),
        server_name: format!("{}.{}.svc", config.artifacts_service, config.namespace),
        own_addresses: config.pod_ip.parse().into_iter().collect(),
        token_file: PathBuf::clone(&config.peers_token),
        identity,
    })
}

/// What the leader works with.
struct Replica {
    config: Config,
    hands: Hands,
    source: Source,
    holdings: Arc<Holdings>,
}

impl Replica {
    async fn lead_when_elected(
        &self,
        mut leads: watch::Receiver<bool>,
        mut stop: watch::Receiver<bool>,
        metrics: &Metrics,
    ) -> Result<(), RunError> {
        loop {
            tokio::select! {
                elected = leads.wait_for(|leads| *leads) => if elected.is_err() { return Ok(()) },
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
            tracing::info!("this replica leads");
            metrics.leads(true);
            let (poller, reconciler) = self.leader()?;
            let teller = Teller::new(self.hands.clone(), self.source.clone());
            tokio::select! {
                () = poller.run() => {}
                () = teller.run() => {}
                () = reconciler.run() => {}
                _ = leads.wait_for(|leads| !*leads) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            metrics.leads(false);
            tracing::info!("this replica leads no more");
        }
    }

    fn leader(&self) -> Result<(Poller, Reconciler), RunError> {
        let (reports, reported) = watch::channel(Reports::new());
        self.hands.clock.begin();
        let gates = Gates::start(
            counters::client()?,
            Prometheus::new(&self.config)?,
            &self.config.namespace,
            &self.hands.clock,
        );
        let (hands, source, holdings) = (self.hands.clone(), self.source.clone(), self.holdings.clone());
        let evidence = Evidence::new(hands.clone(), source.web().clone());
        let published = Published::default();
        let reconciler = Reconciler::new(hands.clone(), gates, evidence, reported, published.clone(), &self.config);
        Ok((Poller { source, hands, holdings, reports, published }, reconciler))
    }
}

fn source_options(config: &Config) -> Result<source::Options, RunError> {
    let mut options = source::Options::new(config.work_dir.join("git"));
    options.allow_loopback = config.git_allow_loopback;
    let api_server = config.api_server.as_ref().and_then(|address| address.parse().ok());
    options.refused_addresses = config.git_refuse.iter().copied().chain(api_server).collect();
    options.extra_ca_pem = match &config.git_ca {
        Some(path) => Some(std::fs::read(path).map_err(io(format!("--git-ca {}", path.display())))?),
        None => None,
    };
    Ok(options)
}
