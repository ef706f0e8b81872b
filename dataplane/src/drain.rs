//! The end: SIGTERM to exit without a failed request.
//!
//! From the signal on, answers carry `Connection: close` while everything else goes on: the pod
//! stays ready, new connections are served, since the cluster takes a while to send them elsewhere.
//! Shortly before the deadline, or once it was quiet for a while, the listener closes and idle
//! connections are ended; requests under way have until the deadline.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};

use crate::{logging, metrics::Metrics};

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// Answers close their connections.
    Draining,
    /// No new connections; idle ones end.
    Closing,
}

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Without a connection for so long, nobody is sent here any more.
const QUIET: Duration = Duration::from_secs(5);

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn signalled() -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// Goes through the phases; returns when the process may end.
pub(crate) async fn run(limit: Duration, phase: &watch::Sender<Phase>, metrics: &Arc<Metrics>) {
    let begin = Instant::now();
    let open = || metrics.connections.load(Ordering::Relaxed);
    tracing::info!(deadline_s = limit.as_secs(), connections = open(), "draining");
    phase.send_replace(Phase::Draining);
    let quiet_enough = QUIET.min(limit / 2);
    let close_at = begin + limit.mul_f64(0.8);
    let mut quiet_since = begin;
    while Instant::now() < close_at && quiet_since.elapsed() < quiet_enough {
        if open() > 0 {
            quiet_since = Instant::now();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    phase.send_replace(Phase::Closing);
    // The listener takes what is there before it closes.
    tokio::time::sleep(LOOK_EVERY).await;
    while open() > 0 && begin.elapsed() < limit {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tracing::info!(connections = open(), after_ms = logging::millis(begin.elapsed()), "drained");
}
