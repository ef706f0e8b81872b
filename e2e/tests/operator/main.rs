//! The operator as a process against a real API server and a real git server, with nodes that are played.

mod base;
mod crash;
mod evidence;
mod fields;
mod fleet;
mod orders;
mod outcome;
mod promises;
mod provider;
mod rounds;
mod schema;
mod steady;
mod told;
mod world;
