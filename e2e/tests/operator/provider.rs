//! A git provider that is played: the endpoints for commit statuses and pull requests that GitHub and Gitea have, and
//! what it was told there.

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
use serde_json::{Value, json};
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

/// One pull request, as it was opened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pull {
    pub(crate) head: String,
    pub(crate) base: String,
    pub(crate) title: String,
    pub(crate) body: String,
}

/// Where it says that pull requests are shown.
pub(crate) const PAGE: &str = "http://provider.example/team/edge/pulls/1";
const REPOSITORY: &str = "/api/v1/repos/team/edge/";

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
    pulls: Mutex<Vec<Pull>>,
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

    /// The pull requests that were opened, in order.
    pub(crate) fn pulls(&self) -> Vec<Pull> {
        self.shared.pulls.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
                    let body = if status.is_success() { json!({"html_url": PAGE}) } else { json!({}) };
                    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
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
    let path = request.uri().path().strip_prefix(REPOSITORY).context("another repository")?.to_owned();
    let body: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let text = |key: &str| body[key].as_str().map(str::to_owned).context("a field is missing");
    if path == "pulls" {
        let pull = Pull { head: text("head")?, base: text("base")?, title: text("title")?, body: text("body")? };
        let mut pulls = shared.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        if pulls.iter().any(|open| open.head == pull.head) {
            return Ok(StatusCode::CONFLICT);
        }
        pulls.push(pull);
        return Ok(StatusCode::CREATED);
    }
    let commit = path.strip_prefix("statuses/").context("another path")?.to_owned();
    let told = Told { commit, context: text("context")?, state: text("state")?, description: text("description")? };
    shared.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    Ok(StatusCode::CREATED)
}
