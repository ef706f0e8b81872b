//! Sends a request over a pooled connection.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use sluice_config::Upstream;

use crate::{Body, EgressError, Origin, OriginError, Policy};

/// Settings of the node, not of a route.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// Connect to loopback addresses too: for tests, and where upstreams share the host.
    pub allow_loopback: bool,
    /// Idle connections kept per origin.
    pub idle_per_origin_max: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
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
#[derive(Clone, Debug)]
pub struct Egress {
    shared: Arc<()>,
}

/// An origin made ready: parsed, with its timeouts and its pool. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Target {
    origin: Arc<Origin>,
    timeouts: Timeouts,
}

impl Egress {
    /// The way out.
    #[must_use]
    pub fn new(_config: EgressConfig) -> Self {
        todo!()
    }

    /// Makes an upstream ready. Pools outlive snapshots: the same upstream keeps its connections.
    ///
    /// # Errors
    /// The upstream's `url` is no origin.
    pub fn target(&self, _upstream: &Upstream) -> Result<Target, OriginError> {
        todo!()
    }

    /// Sends a request; its path, query and headers are used, scheme and authority come from the target.
    ///
    /// # Errors
    /// There is no response head, see [`EgressError`].
    pub async fn send(
        &self,
        _policy: &Policy,
        _target: &Target,
        _request: Request<Body>,
    ) -> Result<Response<Body>, EgressError> {
        todo!()
    }
}
