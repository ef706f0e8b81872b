//! The process: flags, logging, signals.

use anyhow::Context;
use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing_subscriber::EnvFilter;

use crate::{client::client, config::Config, run::run};

/// All of `sluice-operator`. No async function: those are compiled where they are awaited, so that the binary and
/// each of its test targets would compile the whole operator once more.
///
/// # Errors
/// When it cannot start.
pub fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new().context("threads")?.block_on(replica())
}

async fn replica() -> anyhow::Result<()> {
    let config = Config::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::warn!("another TLS provider was installed first");
    }
    let (stopping, stop) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopping.send_replace(true);
    });
    let api_server = client().await.context("no API server is configured")?;
    run(config, api_server, stop).await.context("the operator stopped")
}
