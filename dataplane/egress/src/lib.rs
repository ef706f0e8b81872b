//! The only way out of the dataplane: policy first, then a pooled connection.
//!
//! [`Policy`] says which origins may be asked for; what their names resolve to is checked before
//! a connection is made ([`EgressConfig`]). [`Egress::target`] prepares an origin once, when a snapshot is
//! built; [`Egress::send`] uses it.

mod again;
mod body;
mod client;
mod connect;
mod error;
pub mod hop_by_hop;
mod liveness;
mod origin;
mod policy;
mod resolve;

pub use again::again;
pub use body::{Body, BodyError, IDLE_TIMEOUT, empty, full, timed};
pub use client::{Egress, EgressConfig, Target, Timeouts};
pub use error::{EgressError, Fault};
pub use liveness::watch_over;
pub use origin::{Origin, OriginError};
pub use policy::{Policy, RangeDenied, check_address};
