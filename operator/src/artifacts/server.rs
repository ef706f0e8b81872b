//! `GET /v1/artifacts/<digest>` over TLS, for nodes and for other replicas.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sluice_config::Digest;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{
    auth::{Decision, Doorkeeper, ReviewTokens},
    ca::Identity,
    store::Store,
};

/// Connections at one time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// Artifacts in memory at one time, 32 MiB each at most.
const BODIES_MAX: usize = 4;
/// A client has so long for its handshake, and for each request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection ends after this, whatever it does: a slow reader holds memory.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What the server needs.
pub struct ServeOptions {
    /// What is served.
    pub store: Store,
    /// As whom.
    pub identity: Identity,
    /// Who vouches for callers.
    pub reviewer: Arc<dyn ReviewTokens>,
    /// Who may call, as `system:serviceaccount:<namespace>:<name>`: the dataplane's and the operator's own.
    pub callers: BTreeSet<String>,
}

/// Serves until `shutdown`; connections under way end with the process.
pub async fn serve(listener: TcpListener, options: ServeOptions, shutdown: impl Future<Output = ()>) {
    let ServeOptions { store, identity, reviewer, callers } = options;
    let server = Arc::new(Server {
        store,
        doorkeeper: Doorkeeper::new(reviewer, callers),
        bodies: Arc::new(Semaphore::new(BODIES_MAX)),
    });
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            accepted = accept(&listener, &connections) => accepted,
        };
        let Some((stream, permit)) = accepted else { continue };
        let (server, config) = (server.clone(), identity.server_config());
        tokio::spawn(async move {
            let served = server.connection(stream, config);
            if tokio::time::timeout(CONNECTION_TIMEOUT, served).await.is_err() {
                tracing::debug!("artifact connection took too long");
            }
            drop(permit);
        });
    }
}

async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            // Out of file descriptors, usually: do not spin.
            tracing::warn!(%error, "artifact connection not accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

struct Server {
    store: Store,
    doorkeeper: Doorkeeper,
    bodies: Arc<Semaphore>,
}

impl Server {
    async fn connection(self: Arc<Self>, stream: TcpStream, config: Arc<rustls::ServerConfig>) {
        let handshake = tokio_rustls::TlsAcceptor::from(config).accept(stream);
        let stream = match tokio::time::timeout(HEAD_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "artifact handshake failed"),
            Err(_) => return tracing::debug!("artifact handshake took too long"),
        };
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(&request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "artifact connection failed");
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Artifact> {
        // Whoever is not let in learns nothing, not even which paths there are.
        let refused = match self.doorkeeper.decide(bearer(request)).await {
            Decision::Allowed => None,
            Decision::Unauthenticated => Some(StatusCode::UNAUTHORIZED),
            Decision::Forbidden => Some(StatusCode::FORBIDDEN),
            Decision::Unknown => Some(StatusCode::SERVICE_UNAVAILABLE),
        };
        if let Some(status) = refused {
            return status_only(status);
        }
        if request.method() != Method::GET {
            return status_only(StatusCode::METHOD_NOT_ALLOWED);
        }
        let digest = request.uri().path().strip_prefix("/v1/artifacts/").and_then(|d| d.parse::<Digest>().ok());
        let Some(digest) = digest else { return status_only(StatusCode::NOT_FOUND) };
        let Ok(permit) = self.bodies.clone().acquire_owned().await else {
            return status_only(StatusCode::SERVICE_UNAVAILABLE);
        };
        match self.store.get(&digest).await {
            Ok(Some(bytes)) => {
                let mut response = Response::new(Artifact { bytes: Some(bytes.into()), _memory: Some(permit) });
                let wasm = HeaderValue::from_static("application/wasm");
                response.headers_mut().insert(header::CONTENT_TYPE, wasm);
                response
            }
            Ok(None) => status_only(StatusCode::NOT_FOUND),
            Err(error) => {
                tracing::warn!(%error, %digest, "artifact not served");
                status_only(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

fn bearer(request: &Request<Incoming>) -> Option<&str> {
    let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    // Two tokens are an attempt at something.
    if values.next().is_some() {
        return None;
    }
    value.strip_prefix("Bearer ").map(str::trim)
}

fn status_only(status: StatusCode) -> Response<Artifact> {
    let mut response = Response::new(Artifact { bytes: None, _memory: None });
    *response.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A body that gives its turn back only when it is sent.
struct Artifact {
    bytes: Option<Bytes>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Body for Artifact {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |b| b.len() as u64))
    }
}
