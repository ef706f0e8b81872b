//! Sends a request over a pooled connection.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response, Version,
    uri::{Authority, PathAndQuery, Scheme, Uri},
};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use sluice_config::Upstream;
use tokio::time::{Instant, error::Elapsed, timeout_at};

use crate::{
    Body, BodyError, EgressError, IDLE_TIMEOUT, Origin, OriginError, Policy, connect::Connector, empty, hop_by_hop,
    resolve::Resolver, timed,
};

/// Connect timeouts in use at once before unused ones are forgotten.
const CLIENTS_MAX: usize = 64;

type HttpClient = Client<Connector, Body>;

/// What came of a request, if anything within its time.
type Attempted = Result<Result<Response<Incoming>, legacy::Error>, Elapsed>;

/// Settings of the node, not of a route.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// Connect to loopback addresses too: for tests, and where upstreams share the host.
    pub allow_loopback: bool,
    /// Idle connections kept per origin.
    pub idle_per_origin_max: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// How long an upstream may send nothing in the middle of a response's body.
    pub body_idle: Duration,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            allow_loopback: false,
            idle_per_origin_max: 256,
            // Below the 60 s after which common servers close: fewer races with their closing.
            idle_timeout: Duration::from_secs(50),
            body_idle: IDLE_TIMEOUT,
        }
    }
}

/// How long an upstream may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timeouts {
    /// Until there is a connection.
    pub connect: Duration,
    /// From the request's end to the response's head.
    pub response: Duration,
}

/// The way out; cheap to clone, one for the life of the process.
#[derive(Clone)]
pub struct Egress {
    shared: Arc<Shared>,
}

struct Shared {
    config: EgressConfig,
    resolver: Arc<Resolver>,
    /// One client, with its pools, per connect timeout.
    clients: Mutex<BTreeMap<Duration, Arc<HttpClient>>>,
}

/// An origin made ready: parsed, with its timeouts and its pool. Cheap to clone.
#[derive(Clone)]
pub struct Target {
    origin: Arc<Origin>,
    authority: Authority,
    timeouts: Timeouts,
    client: Arc<HttpClient>,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("origin", &self.origin).field("timeouts", &self.timeouts).finish_non_exhaustive()
    }
}

impl Target {
    /// Where requests go.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Egress {
    /// The way out.
    #[must_use]
    pub fn new(config: EgressConfig) -> Self {
        Self { shared: Arc::new(Shared { config, resolver: Resolver::new(), clients: Mutex::default() }) }
    }

    /// Makes an upstream ready. The same timeouts share pools, which outlive snapshots.
    ///
    /// # Errors
    /// The upstream's `url` is no origin.
    pub fn target(&self, upstream: &Upstream) -> Result<Target, OriginError> {
        let timeouts = Timeouts {
            connect: Duration::from_millis(upstream.connect_timeout_ms),
            response: Duration::from_millis(upstream.response_timeout_ms),
        };
        self.target_of(upstream.url.parse()?, timeouts)
    }

    /// Makes an origin ready.
    ///
    /// # Errors
    /// The origin's host cannot stand in a URI.
    pub fn target_of(&self, origin: Origin, timeouts: Timeouts) -> Result<Target, OriginError> {
        let authority = Authority::try_from(origin.authority()).map_err(|_| OriginError::of(&origin.to_string()))?;
        Ok(Target { origin: Arc::new(origin), authority, timeouts, client: self.client(timeouts.connect) })
    }

    fn client(&self, limit: Duration) -> Arc<HttpClient> {
        let config = &self.shared.config;
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&limit) {
            return client.clone();
        }
        if clients.len() >= CLIENTS_MAX {
            clients.retain(|_, client| Arc::strong_count(client) > 1);
        }
        let resolver = self.shared.resolver.clone();
        let connector = Connector { allow_loopback: config.allow_loopback, resolver, limit };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(config.idle_timeout)
            .pool_max_idle_per_host(config.idle_per_origin_max)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(connector);
        let client = Arc::new(client);
        clients.insert(limit, client.clone());
        client
    }

    /// Sends a request; its path, query and headers are used, scheme and authority come from the target. What may be sent
    /// twice is sent once more where the upstream closes the connection instead of an answer.
    ///
    /// # Errors
    /// There is no response head, see [`EgressError`].
    pub async fn send(
        &self,
        policy: &Policy,
        target: &Target,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, EgressError> {
        policy.check(&target.origin)?;
        target.address(&mut request)?;
        hop_by_hop::strip(request.headers_mut());
        let spare = spare(&request);
        let mut done = target.attempt(request).await;
        if let (Ok(Err(error)), Some(spare)) = (&done, spare)
            && was_closed(error)
        {
            done = target.attempt(spare).await;
        }
        match done {
            Ok(Ok(response)) => Ok(received(response, self.shared.config.body_idle)),
            Ok(Err(error)) => Err(why(&target.origin, &error)),
            Err(_) => {
                Err(EgressError::ResponseTimeout { origin: (*target.origin).clone(), limit: target.timeouts.response })
            }
        }
    }
}

impl Target {
    /// Sends it once. It is moved to where it is sent from before anybody waits.
    fn attempt(&self, request: Request<Body>) -> impl Future<Output = Attempted> + Send + use<> {
        let sent = Arc::new(OnceLock::new());
        let mut sending = self.client.request(watched(request, &sent));
        let limit = self.timeouts.response;
        async move {
            // What it takes until all is sent is not timed here: the connector limits connecting, and a body takes what it takes.
            let mut asked = Instant::now();
            loop {
                let elapsed = match timeout_at(asked + limit, &mut sending).await {
                    Ok(done) => return Ok(done),
                    Err(elapsed) => elapsed,
                };
                asked = match sent.get() {
                    None => asked + limit,
                    Some(sent) if *sent > asked => *sent,
                    Some(_) => return Err(elapsed),
                };
            }
        }
    }

    fn address(&self, request: &mut Request<Body>) -> Result<(), EgressError> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| EgressError::Unnamed { why: e.to_string() })?;
        *request.version_mut() = Version::HTTP_11;
        Ok(())
    }
}

/// The same request again, if it may be sent twice: safe methods change nothing (RFC 9110, 9.2), and without a body there
/// is nothing that the first attempt used up.
fn spare(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut spare = Request::new(empty());
    spare.method_mut().clone_from(request.method());
    spare.uri_mut().clone_from(request.uri());
    spare.headers_mut().clone_from(request.headers());
    *spare.version_mut() = request.version();
    Some(spare)
}

/// Whether the upstream closed the connection instead of an answer, as it does with one that was idle for too long.
fn was_closed(error: &legacy::Error) -> bool {
    let is_reset = |io: &io::Error| matches!(io.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
    causes(error).any(|cause| {
        cause.downcast_ref().is_some_and(hyper::Error::is_incomplete_message)
            || cause.downcast_ref().is_some_and(is_reset)
    })
}

/// What an error comes from, outermost first.
fn causes(error: &legacy::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (**cause).source())
}

fn received(mut response: Response<Incoming>, idle: Duration) -> Response<Body> {
    hop_by_hop::strip(response.headers_mut());
    response.map(|body| {
        let body = body.map_err(|e| BodyError::Upstream(e.to_string()));
        timed(body, idle, BodyError::Upstream)
    })
}

/// What a client's error comes from: our connector, the request's body, or the upstream.
fn why(origin: &Origin, error: &legacy::Error) -> EgressError {
    let mut last = error.to_string();
    for cause in causes(error) {
        if let Some(ours) = cause.downcast_ref::<EgressError>() {
            return ours.clone();
        }
        if let Some(body) = cause.downcast_ref::<BodyError>() {
            return EgressError::Request(body.clone());
        }
        last = cause.to_string();
    }
    EgressError::Broken { origin: origin.clone(), why: last }
}

/// Notes when all of a request has been sent: its connection lets go of a body that is at its end, or of which there is none.
fn watched(request: Request<Body>, sent: &Arc<OnceLock<Instant>>) -> Request<Body> {
    request.map(|inner| Watched { inner, sent: sent.clone() }.boxed_unsync())
}

struct Watched {
    inner: Body,
    sent: Arc<OnceLock<Instant>>,
}

impl Watched {
    fn ends(&self) {
        self.sent.get_or_init(Instant::now);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.ends();
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if self.inner.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.ends();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
