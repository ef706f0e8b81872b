//! The wire types that the operator and the nodes share: what a group should run
//! ([`Assignment`]), what a revision is ([`Revision`]), what a node counted ([`Counters`]).
//!
//! Nothing here does I/O. A node treats what it reads as hostile: [`Assignment::validate`] and
//! [`Revision::validate`] come before any use.
#![warn(missing_docs)]

mod assignment;
mod canonical;
mod counters;
mod digest;
mod node;
mod revision;
mod unit;
mod validate;

#[cfg(test)]
mod tests;

pub use assignment::{Assignment, Entry, NoEntry};
pub use counters::{Counters, LATENCY_BUCKETS_MS, UnitCounters};
pub use digest::{Digest, DigestError};
pub use node::{Exception, ExceptionKind, MAX_EXCEPTIONS, NodeReport};
pub use revision::{
    Artifact, Binding, BindingKind, Bundle, ChainPosition, Content, Environment, FALLBACK, HeaderMatch, Instances,
    Limits, MatchRule, OnFailure, PercentBy, PercentMatch, Revision, RouteRule, Routes, Upstream, Worker,
};
pub use unit::{UnitKind, UnitRef};
pub use validate::{Invalid, limits};

/// Version of the wire format. Nodes report the versions they read, the operator writes the
/// lowest; the version before this one stays readable on both sides.
pub const FORMAT: u32 = 1;

/// Stages of the chain, in order, where an assignment names no others.
pub const DEFAULT_STAGES: [&str; 4] = ["edge", "security", "transform", "route"];
