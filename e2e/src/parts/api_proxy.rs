//! Stands between an operator and the API server: records what the operator writes, and breaks the connection or lets
//! the operator see an older cluster, at points that a test names.

mod request;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::Instant,
};

pub use self::request::{Verb, Write};
use self::{
    request::Asked,
    stream::{Loss, Watching},
};
use crate::state::write_whole;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answer = UnsyncBoxBody<Bytes, BoxError>;
type CutAfter = Box<dyn FnMut(&Write) -> bool + Send>;

/// What belongs to one connection and must not be passed on.
const HOP_BY_HOP: [http::HeaderName; 5] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::HOST, header::ACCEPT_ENCODING];

/// A proxy for one operator. It ends when this is dropped.
#[derive(Debug)]
pub struct ApiProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    _server: JoinSet<()>,
}

struct Shared {
    api_server: Client,
    /// Writes go one at a time, so that none is under way when the connection is cut after another.
    turn: tokio::sync::Mutex<()>,
    cut: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    writes: Vec<Write>,
    requests: BTreeMap<(Verb, String), usize>,
    cut_after: Option<CutAfter>,
    loss: Loss,
    lag: Option<Lag>,
}

/// For how long the operator sees what was stored at this version.
#[derive(Clone, Copy, Debug)]
struct Lag {
    version: u64,
    until: Instant,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("cut", &*self.cut.borrow()).finish_non_exhaustive()
    }
}

impl ApiProxy {
    /// Starts one that speaks to the API server as this client.
    pub async fn start(api_server: Client) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (turn, state, cut) = (tokio::sync::Mutex::default(), Mutex::default(), watch::Sender::new(false));
        let shared = Arc::new(Shared { api_server, turn, cut, state });
        let mut server = JoinSet::new();
        server.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, address, _server: server })
    }

    /// Writes a kubeconfig that leads here.
    pub fn kubeconfig(&self, path: &Path) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "proxy", "user": {}}],
        });
        write_whole(path, &config.to_string())?;
        Ok(path.to_owned())
    }

    /// What was stored since the last [`Self::forget`], in order; but for Leases and Events.
    pub fn writes(&self) -> Vec<Write> {
        self.shared.state().writes.clone()
    }

    /// How often each was asked since the last [`Self::forget`], by verb and resource; Leases and Events too.
    pub fn requests(&self) -> BTreeMap<(Verb, String), usize> {
        self.shared.state().requests.clone()
    }

    /// Events that watches of a resource had since the last [`Self::forget`].
    pub fn events(&self, resource: &str) -> usize {
        self.shared.state().loss.seen(resource)
    }

    /// Counts from here, and breaks nothing any more.
    pub fn forget(&self) {
        *self.shared.state() = State::default();
        self.shared.cut.send_replace(false);
    }

    /// Breaks every connection as soon as the API server has stored such a write, before the operator is told, and
    /// takes no other until [`Self::mend`].
    pub fn cut_after(&self, write: impl FnMut(&Write) -> bool + Send + 'static) {
        self.shared.state().cut_after = Some(Box::new(write));
    }

    /// Whether the connection is cut.
    pub fn is_cut(&self) -> bool {
        *self.shared.cut.borrow()
    }

    /// Takes connections again.
    pub fn mend(&self) {
        self.shared.cut.send_replace(false);
    }

    /// Swallows one event of the watches of a resource, counted from 1 as [`Self::events`] does. A moment later the
    /// watch ends as one that is too old to go on, so that the operator lists anew.
    pub fn lose_event(&self, resource: &str, number: usize) {
        self.shared.state().loss.lose(resource, number);
    }

    /// For so long lists are answered as of this version, and watches tell nothing newer: an API server whose cache
    /// lags. Reads of a single object stay as they are: Kubernetes answers those with what is stored.
    pub fn lag(&self, version: u64, time: Duration) {
        self.shared.state().lag = Some(Lag { version, until: Instant::now() + time });
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lag(&self) -> Option<Lag> {
        self.state().lag.filter(|lag| Instant::now() < lag.until)
    }

    /// Records a write. Whether the connection is cut after it.
    fn stored(&self, write: Write) -> bool {
        let mut state = self.state();
        let cuts = state.cut_after.as_mut().is_some_and(|cut_after| cut_after(&write));
        if cuts {
            state.cut_after = None;
        }
        state.writes.push(write);
        cuts
    }

    async fn forward(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Answer>, BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let asked = Asked::of(&parts.method, &parts.uri);
        if let Some(Asked { verb, resource, .. }) = &asked {
            *self.state().requests.entry((*verb, resource.clone())).or_default() += 1;
        }
        match asked {
            Some(asked) if asked.is_counted_write() => self.write(asked, parts, body).await,
            Some(asked) if asked.verb == Verb::Watch => self.watch(asked, parts, body).await,
            Some(asked) if asked.verb == Verb::List => self.list(parts, body).await,
            _ => whole(self.ask(parts, body).await?).await.map(Whole::response),
        }
    }

    async fn write(&self, asked: Asked, parts: Parts, body: Bytes) -> Result<Response<Answer>, BoxError> {
        let _turn = self.turn.lock().await;
        let answer = whole(self.ask(parts, body.clone()).await?).await?;
        if answer.status.is_success() && self.stored(Write::of(asked, &body, &answer.bytes)) {
            self.cut.send_replace(true);
            // The connection ends now, without an answer.
            std::future::pending::<()>().await;
        }
        Ok(answer.response())
    }

    async fn list(&self, mut parts: Parts, body: Bytes) -> Result<Response<Answer>, BoxError> {
        if let Some(lag) = self.lag() {
            parts.uri = request::at_version(&parts.uri, lag.version)?;
        }
        whole(self.ask(parts, body).await?).await.map(Whole::response)
    }

    async fn watch(self: Arc<Self>, asked: Asked, parts: Parts, body: Bytes) -> Result<Response<Answer>, BoxError> {
        let (head, events) = self.ask(parts, body).await?.into_parts();
        let watching = Watching::new(asked.resource, events);
        let body = StreamBody::new(watching.events(self)).boxed_unsync();
        Ok(response(head.status, &head.headers, body))
    }

    async fn ask(&self, parts: Parts, body: Bytes) -> Result<Response<Body>, BoxError> {
        let mut request = Request::builder().method(parts.method).uri(parts.uri);
        for (name, value) in parts.headers.iter().filter(|(name, _)| !HOP_BY_HOP.contains(name)) {
            request = request.header(name, value);
        }
        Ok(self.api_server.send(request.body(Body::from(body))?).await?)
    }
}

/// An answer that was read to its end.
struct Whole {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Bytes,
}

impl Whole {
    fn response(self) -> Response<Answer> {
        let body = Full::new(self.bytes).map_err(|never| match never {}).boxed_unsync();
        response(self.status, &self.headers, body)
    }
}

async fn whole(answer: Response<Body>) -> Result<Whole, BoxError> {
    let (head, body) = answer.into_parts();
    Ok(Whole { status: head.status, headers: head.headers, bytes: body.collect().await?.to_bytes() })
}

fn response(status: StatusCode, headers: &HeaderMap, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers.iter().filter(|(name, _)| !HOP_BY_HOP.contains(name)) {
        response.headers_mut().append(name, value.clone());
    }
    response
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut cut = shared.cut.subscribe();
    let service = service_fn(move |request| Arc::clone(&shared).forward(request));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // An operator that is killed breaks its connections: that is what the tests are about.
        _ended = served => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}
