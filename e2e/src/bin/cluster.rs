//! `cluster`: brings local Kubernetes clusters up and down.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use sluice_e2e::{Cluster, Options, cluster, parts::targets, state, teardown};

/// Local Kubernetes clusters made of real parts.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring a cluster up; one that is up and healthy is kept.
    Up(Up),
    /// Remove a cluster whole.
    Down {
        #[arg(long, default_value = "sluice")]
        name: String,
        /// Remove all of them.
        #[arg(long)]
        all: bool,
    },
    /// Show all clusters and whether what belongs to them runs.
    Status,
    /// Print the path of a cluster's kubeconfig.
    Kubeconfig {
        #[arg(long, default_value = "sluice")]
        name: String,
    },
    /// Keep Prometheus's file of targets up to date: the harness starts this itself.
    #[command(hide = true)]
    FollowTargets {
        #[arg(long)]
        kubeconfig: PathBuf,
        #[arg(long)]
        file: PathBuf,
    },
    /// List processes, devices, mounts and control groups that no cluster owns; fails if there are any.
    Leftovers,
}

#[derive(clap::Args)]
struct Up {
    #[arg(long, default_value = "sluice")]
    name: String,
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// etcd, API server and controller manager only.
    #[arg(long)]
    control_plane_only: bool,
    /// Label a node: node-1:key=value. May be repeated.
    #[arg(long = "label", value_name = "NODE:KEY=VALUE")]
    labels: Vec<String>,
    /// Let the API server write an audit log.
    #[arg(long)]
    audit: bool,
    /// Use this context of your kubeconfig instead of a cluster of our own.
    #[arg(long)]
    context: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    // The client reports every attempt at a server that is still starting.
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,kube_client=off".into());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).with_target(false).init();
    match Arguments::parse().command {
        Command::Up(up) => bring_up(up).await,
        Command::Down { name, all } => bring_down(if all { state::names()? } else { vec![name] }).await,
        Command::Status => status().await,
        Command::Kubeconfig { name } => {
            println!("{}", Cluster::open(&name)?.kubeconfig_path().display());
            Ok(())
        }
        Command::FollowTargets { kubeconfig, file } => targets::follow(&kubeconfig, &file).await,
        Command::Leftovers => leftovers(),
    }
}

async fn bring_up(up: Up) -> Result<()> {
    let start = Instant::now();
    let mut options = Options::new(&up.name, if up.control_plane_only { 0 } else { up.nodes });
    options.audit = up.audit;
    options.context = up.context;
    options.node_labels = node_labels(&up.labels)?;
    let cluster = Cluster::up(options).await?;
    println!("cluster {} is up after {:.1} s", cluster.name(), start.elapsed().as_secs_f64());
    println!("export KUBECONFIG={}", cluster.kubeconfig_path().display());
    Ok(())
}

fn node_labels(labels: &[String]) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut by_node: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for label in labels {
        let parts = label.split_once(':').and_then(|(node, pair)| Some((node, pair.split_once('=')?)));
        let (node, (key, value)) = parts.with_context(|| format!("--label takes NODE:KEY=VALUE, not {label}"))?;
        by_node.entry(node.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
    }
    Ok(by_node)
}

async fn bring_down(names: Vec<String>) -> Result<()> {
    for name in names {
        let start = Instant::now();
        cluster::down(&name).await?;
        println!("cluster {name} is gone after {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn status() -> Result<()> {
    let names = state::names()?;
    if names.is_empty() {
        println!("no clusters");
    }
    for name in names {
        let Some(state) = state::Folder::of(&name)?.load()? else { continue };
        let cluster = Cluster::open(&name)?;
        let health = match cluster.check().await {
            Ok(()) if state.complete => "healthy".to_owned(),
            Ok(()) => "incomplete".to_owned(),
            Err(error) => format!("not healthy: {error:#}"),
        };
        println!(
            "{name}: slot {}, {} nodes, API server {}, {health}",
            state.slot,
            state.nodes.len(),
            cluster.bridge_ip()?
        );
        for (process, runs) in cluster.processes()?.list() {
            println!("  {process}: {}", if runs { "runs" } else { "has ended" });
        }
    }
    Ok(())
}

fn leftovers() -> Result<()> {
    let found = teardown::leftovers()?;
    if found.is_empty() {
        println!("nothing is left over");
        return Ok(());
    }
    bail!("left over:\n  {}", found.join("\n  "));
}
