//! What all filters of one request share: the client's request, and their notes.

use std::net::IpAddr;

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

/// A request, from its head to its response's head.
pub struct Exchange {
    pub(super) method: Method,
    pub(super) authority: Authority,
    pub(super) path: PathAndQuery,
    pub(super) client: IpAddr,
    pub(super) is_tls: bool,
    pub(super) spelling: Spelling,
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
    ) -> Self {
        Self { method, authority, path, client: client.to_canonical(), is_tls, spelling, notes: Notes::default() }
    }

    /// Method of the client's request.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Address of the client; one of IPv4 as such.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        self.client
    }
}
