//! What all filters of one request share: the client's request, where it may go, and their notes.

use std::{net::IpAddr, sync::Arc};

use http::{
    Method,
    uri::{Authority, PathAndQuery},
};

use super::notes::Notes;

/// Which hosts and paths a filter may rewrite to: the chain knows what it can match. Each says why not.
#[derive(Clone, Copy)]
pub struct Spelling {
    /// Of a host, with or without port.
    pub authority: fn(&str) -> Result<(), String>,
    /// Of a path.
    pub path: fn(&PathAndQuery) -> Result<(), String>,
}

/// The upstream that a worker chose for a request, by its place among those that its route has beside the first: an extension
/// of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen(pub usize);

/// A request, from its head to its response's head.
pub struct Exchange {
    pub(super) method: Method,
    pub(super) authority: Authority,
    pub(super) path: PathAndQuery,
    pub(super) client: IpAddr,
    pub(super) is_tls: bool,
    pub(super) spelling: Spelling,
    /// Names of the route's upstreams beside the first.
    pub(super) upstreams: Arc<[String]>,
    pub(super) notes: Notes,
}

impl Exchange {
    /// Of a client's request, as it came.
    #[must_use]
    pub fn new(
        method: Method,
        authority: Authority,
        path: PathAndQuery,
        client: IpAddr,
        is_tls: bool,
        spelling: Spelling,
        upstreams: Arc<[String]>,
    ) -> Self {
        let client = client.to_canonical();
        Self { method, authority, path, client, is_tls, spelling, upstreams, notes: Notes::default() }
    }

    /// The method, as the client sent it.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The host, as the client sent it.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The path, as the client sent it.
    #[must_use]
    pub fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// Address of the client; one of IPv4 as such.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        self.client
    }
}
