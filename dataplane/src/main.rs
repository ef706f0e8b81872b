//! `sluice-dataplane`: the proxy that runs workers, one process a node.
//!
//! Two runtimes: *serving* threads run requests and nothing else; everything that decides, fetches,
//! compiles, saves and reports is on the *control* thread and its blocking pool, so that neither
//! load on the one side nor work on the other delays what matters there: requests, and the way back.
//!
//! A panic in a request's task ends that connection, one while loading ends that load, one in the
//! control loop ends the process: the container restarts and serves from disk. Components are compiled
//! in processes of their own, this program's command `compile`.

mod admin;
mod args;
mod backoff;
mod cache;
mod code;
mod control;
mod decide;
mod desired;
mod drain;
#[cfg(test)]
mod fixture;
mod framing;
mod kept;
mod listener;
mod load;
mod logging;
mod metrics;
mod report;
mod snapshot;
mod source;
mod static_files;
mod status;
mod traces;
mod watch;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use sluice_chain::{Runtime, RuntimeConfig};
use sluice_config::{Digest, NodeReport, Revision};
use sluice_egress::{Egress, EgressConfig};
use sluice_worker::{
    Engine, EngineConfig, ask_for_slices,
    compiler::{self, Bounds, Compiler},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime, sync,
};

use args::{Args, Cli, Command};
use control::{Control, Input, Parts};
use drain::Phase;
use metrics::Metrics;
use source::{Directory, Operator, Source};

/// A call makes and drops hundreds of small objects: with glibc's allocator a step takes a quarter more (decision 28).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// `next` calls a request may make, over all workers, beyond one for each of them.
const NEXT_BUDGET: u32 = 64;
/// One unit has at most this part of the worker instances at once: when what it waits for is slow, the others go on.
const UNIT_SHARE: u32 = 2;
const UPSTREAM_IDLE_PER_ORIGIN: usize = 64;
/// Inputs that the control loop has not taken yet; more wait where they come from.
const INPUTS: usize = 256;
const BACKLOG: u32 = 4096;
/// What decides and loads is interrupted by whoever serves.
const CONTROL_SLICE: Duration = Duration::from_millis(10);

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Digest { file }) => return print_digest(&file),
        Some(Command::Compile { memory_bytes, cpu_seconds }) => {
            let status = compiler::run_child(Bounds { memory_bytes, cpu_seconds });
            std::process::exit(status.into());
        }
        None => {}
    }
    let log = logging::init(&cli.args.log)?;
    // One provider for the process: kube, reqwest and later the listeners find it here.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider is installed already");
    }
    let serving = runtime::Builder::new_multi_thread()
        .worker_threads(cli.args.threads())
        .thread_name("serve")
        .enable_all()
        .build()?;
    // This thread, and those of its blocking pool.
    ask_for_slices(CONTROL_SLICE);
    let control = runtime::Builder::new_current_thread()
        .thread_name("control")
        .on_thread_start(|| {
            ask_for_slices(CONTROL_SLICE);
        })
        .enable_all()
        .build()?;
    drop(control.spawn(log.tell_lost()));
    let result = control.block_on(run(cli.args, serving.handle()));
    // What is left has had its deadline.
    serving.shutdown_background();
    control.shutdown_background();
    result
}

async fn run(args: Args, serving: &runtime::Handle) -> anyhow::Result<()> {
    let boot = boot_id();
    let admin = TcpListener::bind(args.admin).await.with_context(|| format!("cannot listen on {}", args.admin))?;
    let clients = listen(&args, serving)?;
    let (admin_address, client_address) = (admin.local_addr()?, clients.local_addr()?);
    tracing::info!(boot, node = args.node, group = args.group, listen = %client_address, admin = %admin_address, "starting");

    let metrics = Arc::new(Metrics::new(args.node.clone(), args.group.clone(), boot.clone()));
    let (ready, is_ready) = sync::watch::channel(false);
    let (phase, in_phase) = sync::watch::channel(Phase::Serving);
    let (reports, reported) = sync::watch::channel(NodeReport::default());
    let (inputs, from_inputs) = sync::mpsc::channel(INPUTS);
    let in_force = snapshot::InForce::default();

    let runtime = chain_runtime(&args, &metrics);
    let views = admin::Views {
        metrics: Arc::clone(&metrics),
        ready: is_ready,
        report: reported.clone(),
        runtime: runtime.clone(),
    };
    let (seen, is_seen) = sync::watch::channel(status::Seen::default());
    let report_to = status::Follow {
        node: args.node.clone(),
        pod: args.pod.clone(),
        seen: is_seen,
        reports: reported,
        ready: views.ready.clone(),
        in_phase: in_phase.clone(),
    };
    let client = follow(&args, &inputs, seen, report_to).await?;
    let cache = Arc::new(cache::Cache::new(args.state_dir.clone()));
    if let Err(error) = cache.prepare() {
        tracing::warn!(%error, "without a disk cache a restart needs the API server and the operator");
    }
    let compiler = Compiler::new(args.compile_limits(), args.compiler.clone());
    let codes = code::Codes::new(engine(&args)?, compiler, Arc::clone(&cache));
    let loader =
        load::Loader::new(Arc::clone(&cache), source(&args, client), codes, args.group.clone(), args.threads());
    let parts = Parts {
        who: report::Identity {
            group: args.group.clone(),
            boot,
            pod: args.pod.clone(),
            admin: args.admin_address(admin_address),
        },
        cache,
        loader: Arc::new(loader),
        runtime,
        in_force: Arc::clone(&in_force),
        metrics: Arc::clone(&metrics),
        ready,
        reports,
    };
    let mut control = tokio::spawn(Control::new(parts, inputs).run(from_inputs));
    drop(tokio::spawn(admin::serve(admin, views)));
    let front = listener::Front { in_force, metrics: Arc::clone(&metrics), phase: in_phase };
    drop(serving.spawn(listener::serve(clients, front)));

    tokio::select! {
        signal = drain::signalled() => signal.context("cannot wait for signals")?,
        ended = &mut control => anyhow::bail!("the control loop ended: {ended:?}"),
    }
    drain::run(args.drain(), &phase, &metrics).await;
    Ok(())
}

/// Starts whatever feeds the control loop: watches of the API server, or of a file.
async fn follow(
    args: &Args,
    inputs: &sync::mpsc::Sender<Input>,
    seen: sync::watch::Sender<status::Seen>,
    report_to: status::Follow,
) -> anyhow::Result<Option<kube::Client>> {
    if let Some(file) = &args.assignment_file {
        drop(tokio::spawn(static_files::follow(file.clone(), args.group.clone(), inputs.clone())));
        return Ok(None);
    }
    let config = kube::Config::infer()
        .await
        .context("no access to an API server; see --assignment-file for serving without one")?;
    let client = kube::Client::try_from(watch::limited(config)).context("cannot make an API client")?;
    let (node, group) = (args.node.clone(), args.group.clone());
    drop(tokio::spawn(watch::follow(client.clone(), node, group, inputs.clone(), seen)));
    drop(tokio::spawn(status::follow(client.clone(), report_to)));
    Ok(Some(client))
}

fn source(args: &Args, api: Option<kube::Client>) -> Source {
    let asked = api.is_some() || args.artifacts_url.is_some();
    Source {
        directory: args.revisions_dir.clone().map(Directory::new),
        api,
        operator: asked.then(|| Operator {
            url: args.artifacts_url(),
            ca_file: args.artifacts_ca.clone(),
            token_file: args.token_file.clone(),
        }),
    }
}

fn engine(args: &Args) -> anyhow::Result<Engine> {
    let config = EngineConfig { instances_max: args.instances_max, ..EngineConfig::default() };
    Ok(Engine::new(&config)?)
}

fn chain_runtime(args: &Args, metrics: &Arc<Metrics>) -> Runtime {
    let egress = Egress::new(EgressConfig {
        allow_loopback: args.allow_loopback,
        idle_per_origin_max: UPSTREAM_IDLE_PER_ORIGIN,
        ..EgressConfig::default()
    });
    let config = RuntimeConfig {
        requests_max: args.requests_max,
        unit_calls_max: (args.instances_max / UNIT_SHARE).max(1) as usize,
        threads: args.threads(),
        unit_cpu_percent: args.unit_cpu_percent,
        trace_every: args.trace_every,
        next_budget: NEXT_BUDGET,
        ..RuntimeConfig::new(args.group.clone())
    };
    Runtime::new(config, egress, Arc::new(metrics::Handle(Arc::clone(metrics))))
}

/// The listener belongs to the serving threads: they are woken by it, not the control thread.
fn listen(args: &Args, serving: &runtime::Handle) -> anyhow::Result<TcpListener> {
    let _serving = serving.enter();
    let socket = if args.listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    Ok(socket.listen(BACKLOG)?)
}

/// Another one at each start.
fn boot_id() -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map(|uuid| uuid.trim().to_owned());
    random.unwrap_or_else(|_| {
        use std::hash::{BuildHasher as _, RandomState};
        format!("{:016x}", RandomState::new().hash_one(std::process::id()))
    })
}

#[allow(clippy::print_stdout, reason = "the output of a command")]
fn print_digest(file: &std::path::Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let digest = if file.extension().is_some_and(|e| e == "json") {
        let revision: Revision = serde_json::from_slice(&bytes).context("not a revision")?;
        revision.validate()?;
        revision.digest()?
    } else {
        Digest::of(&bytes)
    };
    println!("{digest}");
    Ok(())
}
