//! `upstream`: a tiny HTTP application that says what it received and fails on demand.
//!
//! Any request is answered with JSON: application, pod, method, path, headers, body length. `POST /upstream/status?503`
//! makes the answers to all others 503 until the next such request; `UPSTREAM_STATUS` sets the first status.
//! A request may ask for its own: `x-upstream-status: 418`, `x-upstream-delay-ms: 250`.

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, signal::unix};

struct Application {
    name: String,
    pod: String,
    status: AtomicU16,
    requests: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let variable = |key: &str, otherwise: &str| env::var(key).unwrap_or_else(|_| otherwise.to_owned());
    let application = Arc::new(Application {
        name: variable("UPSTREAM_NAME", "upstream"),
        pod: variable("POD_NAME", "none"),
        status: AtomicU16::new(variable("UPSTREAM_STATUS", "200").parse().context("UPSTREAM_STATUS is a number")?),
        requests: AtomicU64::new(0),
    });
    let address: SocketAddr =
        variable("UPSTREAM_LISTEN", "0.0.0.0:8080").parse().context("UPSTREAM_LISTEN is an address")?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    // As the first process of a container it gets no default handler, and Kubernetes would wait 30 s for its end.
    let mut end = unix::signal(unix::SignalKind::terminate())?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = end.recv() => return Ok(()),
        };
        let application = Arc::clone(&application);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let application = Arc::clone(&application);
                async move { answer(&application, request).await }
            });
            // A client that goes away is its own business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(application: &Application, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    match parts.uri.path() {
        "/upstream/ready" => return respond(StatusCode::OK, "ready\n".to_owned()),
        "/upstream/requests" => {
            return respond(StatusCode::OK, application.requests.load(Ordering::Relaxed).to_string());
        }
        "/upstream/status" => {
            let Some(status) = parts.uri.query().and_then(|query| query.parse().ok()) else {
                return respond(StatusCode::BAD_REQUEST, "write /upstream/status?503\n".to_owned());
            };
            application.status.store(status, Ordering::Relaxed);
            return respond(StatusCode::OK, format!("now {status}\n"));
        }
        _ => {}
    }
    let number = application.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let body = body.collect().await?.to_bytes();
    if let Some(delay) = number_in(&parts.headers, "x-upstream-delay-ms") {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let wanted = number_in(&parts.headers, "x-upstream-status").and_then(|status| u16::try_from(status).ok());
    let status = wanted.unwrap_or_else(|| application.status.load(Ordering::Relaxed));
    let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in &parts.headers {
        headers.entry(name.as_str()).or_default().push(value.to_str().unwrap_or("(not text)"));
    }
    let said = json!({
        "application": application.name,
        "pod": application.pod,
        "request": number,
        "method": parts.method.as_str(),
        "path": parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        "headers": headers,
        "body_bytes": body.len(),
    });
    respond(StatusCode::from_u16(status)?, format!("{said}\n"))
}

fn number_in(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn respond(status: StatusCode, body: String) -> Result<Response<Full<Bytes>>> {
    let response =
        Response::builder().status(status).header("x-upstream", "yes").header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from(body)))?)
}
