//! Where clients come in: plain HTTP/1.1, each request handed to the snapshot in force.
//!
//! What hyper refuses before our code sees it: a head that is late, too large or malformed, two
//! different lengths, a transfer coding that is not chunked. What it *normalises*: a length beside
//! chunked is dropped and the connection closed after the answer (RFC 9112, 6.1).

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::FutureExt as _;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use sluice_chain::{Body, ClientInfo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

use crate::{drain::Phase, framing, metrics::Metrics, snapshot::InForce};

/// A head must be there within this time, also the next one on a kept connection: longer than
/// clients commonly keep theirs idle, so that it is they who close.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// What a head may be, and so what one that never comes to its end may hold.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Connections at once; more wait in the backlog. All of them with an unfinished head hold 10,000 × 32 KiB = 313 MiB:
/// less than a third of what the chart gives the pod.
const CONNECTIONS_MAX: usize = 10_000;
/// After an error of accept (no file descriptors left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What every connection needs.
pub(crate) struct Front {
    pub(crate) in_force: InForce,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// Accepts until the last phase of the drain.
pub(crate) async fn serve(listener: TcpListener, front: Front) {
    let front = Arc::new(front);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut phase = front.phase.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = closing(&mut phase) => break,
        };
        match accepted {
            Ok(accepted) => spawn(accepted, &front),
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whoever connected in time is served: closing the listener would reset what waits in its backlog.
    while let Some(Ok(accepted)) = accept(&listener, &permits).now_or_never() {
        spawn(accepted, &front);
    }
}

fn spawn((stream, client, permit): Accepted, front: &Arc<Front>) {
    // Counted from here on: the drain must not miss one whose task has not begun.
    let counted = Counted::new(&front.metrics);
    let front = Arc::clone(front);
    drop(tokio::spawn(async move {
        connection(stream, client, front).await;
        drop((counted, permit));
    }));
}

/// An open connection; counted until its task is gone, however it ends.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> std::io::Result<Accepted> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, client) = listener.accept().await?;
    if let Err(error) = stream.set_nodelay(true).and_then(|()| sluice_egress::watch_over(&stream)) {
        // The client left already: its own task finds out.
        tracing::debug!(%client, %error, "no socket options");
    }
    Ok((stream, client, permit))
}

async fn connection(stream: TcpStream, client: SocketAddr, front: Arc<Front>) {
    let mut phase = front.phase.clone();
    let info = Arc::new(ClientInfo::new(client, false));
    let service = service_fn(move |request| {
        let (front, info) = (Arc::clone(&front), Arc::clone(&info));
        async move { Ok::<_, Infallible>(answer(request, &info, &front).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        biased;
        ended = served.as_mut() => ended,
        () = closing(&mut phase) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%client, %error, "connection");
    }
}

/// Resolves with the drain's last phase.
async fn closing(phase: &mut watch::Receiver<Phase>) {
    // An error means that the sender is gone, and the process with it.
    drop(phase.wait_for(|p| *p == Phase::Closing).await);
}

async fn answer(request: Request<Incoming>, client: &ClientInfo, front: &Front) -> Response<Body> {
    let mut response = if let Err(problem) = framing::check(&request) {
        let mut refused = plain(StatusCode::BAD_REQUEST, problem);
        close(&mut refused);
        refused
    } else if let Some(snapshot) = front.in_force.load_full() {
        snapshot.handle(request, client).await
    } else {
        plain(StatusCode::SERVICE_UNAVAILABLE, "no assignment is in force yet\n")
    };
    if *front.phase.borrow() != Phase::Serving {
        close(&mut response);
    }
    response
}

fn close(response: &mut Response<Body>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(sluice_egress::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
