//! `bench_engine`: measures the rollout engine and says which goals are met.

use anyhow::{Result, bail};
use clap::Parser;
use sluice_e2e::engine::{self, Scale};

/// Measures the rollout engine.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    scale: Scale,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter("warn,kube_client=off").with_writer(std::io::stderr).init();
    let measured = engine::measure(&Arguments::parse().scale).await?;
    println!("\n{}", measured.figures.table());
    println!("What one change of an Assignment costs the API server:\n\n{}", measured.watchers);
    println!("The same is in {}.", measured.figures.write("engine")?.display());
    let missed: Vec<&str> = measured.figures.missed().map(|row| row.name.as_str()).collect();
    if !missed.is_empty() {
        bail!("goals missed: {}", missed.join(", "));
    }
    Ok(())
}
