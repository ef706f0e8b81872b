//! One request, from its head to its response's head.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};

use crate::{Body, Snapshot};

/// What the listener knows of the client.
#[derive(Clone, Copy, Debug)]
pub struct ClientInfo {
    /// Its address.
    pub address: SocketAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
}

impl Snapshot {
    /// Answers a request. Dropping the future, or the response's body before its end, is how a client
    /// that left is known.
    pub async fn handle<B>(
        self: Arc<Self>,
        _request: Request<B>,
        _client: ClientInfo,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        todo!()
    }
}
