//! The chain with real guests and a real upstream on loopback.
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

mod bodies;
mod conditions;
mod counting;
mod egress;
mod examples;
mod failure;
mod filters;
mod handlers;
mod harness;
mod limits;
mod order;
mod reuse;
mod shares;
mod swap;
mod traces;
mod upstreams;
