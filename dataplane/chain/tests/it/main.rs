//! The chain with real guests and a real upstream on loopback.

mod bodies;
mod counting;
mod egress;
mod failure;
mod harness;
mod limits;
mod order;
mod swap;
