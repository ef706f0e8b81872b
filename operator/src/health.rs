//! `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::watch};

use crate::metrics::Metrics;

/// Why a replica is not ready; empty once it is.
pub type Readiness = watch::Receiver<String>;

#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    readiness: Readiness,
}

/// Serves until `stop` is set.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let shared = Arc::new(Shared { metrics, readiness });
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(shared);
    let stopped = async move {
        let _ended = stop.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(stopped).await
}

async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let missing = shared.readiness.borrow().clone();
    if missing.is_empty() { (StatusCode::OK, "ok\n".to_owned()) } else { (StatusCode::SERVICE_UNAVAILABLE, missing) }
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> (StatusCode, [(&'static str, &'static str); 1], String) {
    let kind = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match shared.metrics.text() {
        Ok(text) => (StatusCode::OK, kind, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, kind, error.to_string()),
    }
}
