//! A git provider that is played: the one endpoint for commit statuses that GitHub and Gitea have, and what it was told.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};

/// What it takes, as it comes in the header.
pub(crate) const TOKEN: &str = "told-you-so";

/// One status, as it was told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) commit: String,
    pub(crate) context: String,
    pub(crate) state: String,
    pub(crate) description: String,
}

/// It ends when this is dropped.
pub(crate) struct Provider {
    shared: Arc<Shared>,
    address: SocketAddr,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    refuses: AtomicBool,
    told: Mutex<Vec<Told>>,
}

impl Provider {
    pub(crate) async fn start(listen: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((listen, 0)).await?;
        let (address, shared) = (listener.local_addr()?, Arc::new(Shared::default()));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { shared, address, _server: server })
    }

    /// Base of its API.
    pub(crate) fn api(&self) -> String {
        format!("http://{}/api/v1", self.address)
    }

    /// Whether it refuses everybody.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::Relaxed);
    }

    /// What it was told of a commit, in order.
    pub(crate) fn told(&self, commit: &str) -> Vec<Told> {
        let told = self.shared.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().filter(|told| told.commit == commit).cloned().collect()
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let answer = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move {
                    let status = take(&shared, request).await.unwrap_or(StatusCode::BAD_REQUEST);
                    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
                    *response.status_mut() = status;
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            // How a connection ends is the client's business.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn take(shared: &Shared, request: Request<Incoming>) -> Result<StatusCode> {
    let allowed = request.headers().get(AUTHORIZATION).is_some_and(|value| value == &format!("token {TOKEN}"));
    if !allowed || shared.refuses.load(Ordering::Relaxed) {
        return Ok(StatusCode::UNAUTHORIZED);
    }
    let path = request.uri().path().to_owned();
    let commit = path.strip_prefix("/api/v1/repos/team/edge/statuses/").context("another path")?.to_owned();
    let body: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let text = |key: &str| body[key].as_str().map(str::to_owned).context("a field is missing");
    let told = Told { commit, context: text("context")?, state: text("state")?, description: text("description")? };
    shared.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    Ok(StatusCode::CREATED)
}
