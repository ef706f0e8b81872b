//! One request, from its head to its response's head.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, uri::PathAndQuery};
use sluice_egress::{BodyError, timed};
use sluice_worker::Exchange;

use crate::{
    Body, Class, Snapshot,
    accept::{self, Refusal},
    ending::ending,
    matching::Client,
    passage::{Maker, Passage},
    place,
    set::WorkerSet,
};

/// What the listener knows of the client: the same for all requests of a connection.
#[derive(Debug)]
pub struct ClientInfo {
    address: IpAddr,
    pub(crate) tls: bool,
    /// The address as a header has it.
    pub(crate) named: HeaderValue,
}

impl ClientInfo {
    /// A client at this address; `tls` says whether its connection is TLS.
    #[must_use]
    pub fn new(address: SocketAddr, tls: bool) -> Self {
        let address = address.ip().to_canonical();
        let named = HeaderValue::from_str(&address.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { address, tls, named }
    }
}

impl Snapshot {
    /// Answers a request. Dropping the future, or the response's body before its end, is how a client
    /// that left is known.
    pub async fn handle<B>(self: Arc<Self>, request: Request<B>, client: &ClientInfo) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        match self.begin(request, client) {
            Ok((underway, workers, request)) => underway.run(workers, request).await,
            Err(refusal) => {
                let recorder = &self.shared.recorder;
                recorder.unrouted(Class::of(refusal.status));
                refusal.response()
            }
        }
    }

    /// A request that may go on, and the workers that see it.
    fn begin<B>(
        self: &Arc<Self>,
        request: Request<B>,
        client: &ClientInfo,
    ) -> Result<(Underway, WorkerSet, Request<Body>), Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let began = Instant::now();
        let (request, place) = accept::accept(request, client, self.shared.config.body_idle)?;
        let refuse = |status, why| Err(Refusal::new(status, why));
        let Some(route) = self.routing.find(&place) else {
            return refuse(StatusCode::NOT_FOUND, "no route");
        };
        let Ok(permit) = self.shared.admission.clone().try_acquire_owned() else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once");
        };
        let Some(authority) = request.uri().authority().cloned() else {
            return refuse(StatusCode::BAD_REQUEST, "no Host");
        };
        let path = request.uri().path_and_query().cloned();
        let exchange = Exchange::new(
            request.method().clone(),
            authority.clone(),
            path.unwrap_or_else(|| PathAndQuery::from_static("/")),
            client.address,
            client.tls,
            place::SPELLING,
            self.routes[route].names.clone(),
        );
        let asked = Client { method: request.method(), headers: request.headers(), address: exchange.client() };
        let workers = self.workers.matches(&place, &asked);
        let mut passage = Passage::new(self.clone(), route, authority, place, exchange, permit, began);
        if self.workers.may_read_again(&workers) {
            passage.client_headers = request.headers().clone();
        }
        Ok((Underway(Some(Arc::new(passage))), workers, request))
    }
}

/// A request without a response yet. Dropped as such, its client has left.
struct Underway(Option<Arc<Passage>>);

impl Underway {
    async fn run(mut self, workers: WorkerSet, request: Request<Body>) -> Response<Body> {
        let Some(passage) = &self.0 else {
            return accept::plain(StatusCode::INTERNAL_SERVER_ERROR, "no passage");
        };
        let reply = passage.advance(workers, 0, request).await;
        let Some(passage) = self.0.take() else {
            return reply.response;
        };
        passage.count(Some(reply.response.status()), reply.maker);
        if !passage.has_handled() {
            return reply.response;
        }
        passage.release_slots();
        let (over, idle) = (passage.snapshot.over.subscribe(), passage.snapshot.shared.config.body_idle);
        reply.response.map(|body| ending(timed(body, idle, BodyError::Worker), over))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if let Some(passage) = self.0.take() {
            passage.count(None, Maker::Client);
        }
    }
}
