//! Why nothing came back from an upstream, and whose fault that is.

use std::{net::IpAddr, time::Duration};

use crate::{BodyError, Origin, RangeDenied};

/// Why a request got no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// The policy does not list the origin.
    #[error("{origin} is not granted")]
    NotGranted {
        /// What was asked for.
        origin: Origin,
    },
    /// The name resolves to nothing but addresses that are never connected to.
    #[error("{origin} resolves to {address}, which is {range}: denied")]
    AddressDenied {
        /// What was asked for.
        origin: Origin,
        /// The last address looked at.
        address: IpAddr,
        /// Why.
        range: RangeDenied,
    },
    /// What was asked for is no origin at all.
    #[error("no origin: {why}")]
    Unnamed {
        /// What is wrong with it.
        why: String,
    },
    /// There is no such name.
    #[error("{origin} is no name that exists: {why}")]
    Unknown {
        /// What was asked for.
        origin: Origin,
        /// What the resolver said.
        why: String,
    },
    /// The name cannot be resolved now.
    #[error("{origin} does not resolve: {why}")]
    Resolve {
        /// What was asked for.
        origin: Origin,
        /// What the resolver said.
        why: String,
    },
    /// No address accepts a connection.
    #[error("{origin} accepts no connection: {why}")]
    Connect {
        /// What was asked for.
        origin: Origin,
        /// What the system said.
        why: String,
    },
    /// No connection in time.
    #[error("{origin} accepts no connection within {limit:?}")]
    ConnectTimeout {
        /// What was asked for.
        origin: Origin,
        /// The route's connect timeout.
        limit: Duration,
    },
    /// No response head in time.
    #[error("{origin} sends no response within {limit:?}")]
    ResponseTimeout {
        /// What was asked for.
        origin: Origin,
        /// The route's response timeout.
        limit: Duration,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("{origin} broke off: {why}")]
    Broken {
        /// What was asked for.
        origin: Origin,
        /// What happened.
        why: String,
    },
    /// The request has used up its `next` calls.
    #[error("the request has used up its `next` calls")]
    Budget,
    /// The request's own body broke off.
    #[error("the request broke off: {0}")]
    Request(BodyError),
}

/// Whose fault an [`EgressError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Whoever named the origin: not granted, denied, no such name.
    Named,
    /// The upstream's, or that of a resolver that is away: every route has it then, whatever its revision.
    Upstream,
    /// Whoever sent the request.
    Sender,
}

impl EgressError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotGranted { .. } | Self::AddressDenied { .. } | Self::Unnamed { .. } | Self::Unknown { .. } => {
                Fault::Named
            }
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::ResponseTimeout { .. }
            | Self::Broken { .. } => Fault::Upstream,
            Self::Budget | Self::Request(_) => Fault::Sender,
        }
    }

    /// Whether nothing of the request can have gone upstream: a fallback may be tried.
    #[must_use]
    pub fn nothing_sent(&self) -> bool {
        match self {
            Self::NotGranted { .. }
            | Self::AddressDenied { .. }
            | Self::Unnamed { .. }
            | Self::Unknown { .. }
            | Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Budget => true,
            Self::ResponseTimeout { .. } | Self::Broken { .. } | Self::Request(_) => false,
        }
    }
}
