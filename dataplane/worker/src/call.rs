//! What a running worker asks of the chain.

use std::{future::Future, pin::Pin};

use http::{Request, Response};
use sluice_egress::{Body, EgressError};

use crate::Ended;

/// Resolves with a response from the chain or an upstream.
pub type NextFuture =
    Pin<Box<dyn Future<Output = Result<Response<Body>, EgressError>> + Send>>;

/// The chain's side of one call.
pub trait Calls: Send + Sync + 'static {
    /// The rest of the chain, then the route's upstream: a request to the authority `next.sluice`.
    fn next(&self, request: Request<Body>) -> NextFuture;
    /// Any other origin; the chain knows what the worker's bindings grant.
    fn fetch(&self, request: Request<Body>) -> NextFuture;
    /// The call is over, its response's body included. Told once.
    fn ended(&self, ended: Ended);
}
