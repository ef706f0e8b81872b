//! A tiny cluster that does with plans what the operator does, and checks the promises while it does.

pub mod cluster;
pub mod command;
pub mod diff;
pub mod execute;
pub mod faults;
pub mod invariants;
pub mod parse;
pub mod random;
pub mod server;
pub mod show;
pub mod world;
