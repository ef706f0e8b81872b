//! The admin listener: probes, metrics, the counters that the operator reads, and the report that
//! goes into the node's status.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

use sluice_chain::Runtime;
use sluice_config::NodeReport;

use crate::{
    metrics::{Metrics, export},
    traces::View,
};

const CONNECTIONS: usize = 64;
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What can be looked at.
#[derive(Clone)]
pub(crate) struct Views {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) report: watch::Receiver<NodeReport>,
    pub(crate) runtime: Runtime,
}

/// Serves until the process ends, also while it drains: a draining pod stays ready.
pub(crate) async fn serve(listener: TcpListener, views: Views) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin listener cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let views = views.clone();
        drop(tokio::spawn(async move {
            let views = &views;
            let service = service_fn(|request: Request<Incoming>| async move {
                let (head, _body) = request.into_parts();
                Ok::<_, Infallible>(answer(&head.method, head.uri.path(), views).await)
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(READ_TIMEOUT)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "admin connection");
            }
            drop(permit);
        }));
    }
}

async fn answer(method: &Method, path: &str, views: &Views) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match path {
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if *views.ready.borrow() => plain(StatusCode::OK, "ready\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "no assignment is in force yet\n"),
        "/metrics" => match export::render(&views.metrics) {
            Ok(text) => typed(StatusCode::OK, export::MEDIA_TYPE, text.into()),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the metrics\n"),
        },
        "/counters" => json(&views.metrics.counters()),
        "/report" => json(&*views.report.borrow()),
        "/traces" => traces(views.runtime.clone()).await,
        _ => plain(StatusCode::NOT_FOUND, "here are /healthz, /readyz, /metrics, /counters, /report, /traces\n"),
    }
}

/// They may be many megabytes: too many for the thread that decides what is in force.
async fn traces(runtime: Runtime) -> Response<Full<Bytes>> {
    let told = tokio::task::spawn_blocking(move || {
        json(&runtime.traces().iter().map(|trace| View::from(&**trace)).collect::<Vec<_>>())
    });
    told.await.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode it\n"))
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(json) => typed(StatusCode::OK, "application/json", json.into()),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode it\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn typed(status: StatusCode, media_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    response
}
