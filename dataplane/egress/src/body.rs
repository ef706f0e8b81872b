//! The body type that listeners, chain, workers and egress pass along, and how one ends badly.

use std::fmt;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};

/// A body on its way, in either direction.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Who broke off a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The client left or sent what is not HTTP.
    Client(String),
    /// The upstream left or sent what is not HTTP.
    Upstream(String),
    /// The worker that was making it failed.
    Worker(String),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(why) => write!(f, "the client's body broke off: {why}"),
            Self::Upstream(why) => write!(f, "the upstream's body broke off: {why}"),
            Self::Worker(why) => write!(f, "a worker's body broke off: {why}"),
        }
    }
}

impl std::error::Error for BodyError {}

/// A body of nothing.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
