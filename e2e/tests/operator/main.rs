//! The operator as a process against a real API server and a real git server, with nodes that are played.

mod fleet;
mod orders;
mod promises;
mod steady;
mod world;
