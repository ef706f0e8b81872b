//! Runs workers: engine, pool, limits, host capabilities.
//!
//! [`Engine::compile`] turns bytes into a [`Compiled`] worker or says plainly why not;
//! [`Compiled::call`] runs it for one request, in a fresh instance, under its [`Limits`].
//! What a call ended in is an [`Outcome`], told once through [`Calls::ended`].
//!
//! Without the feature `runtime` (on by default) only [`imports`] is there: the operator checks
//! what a component asks for in the same words, without an engine.
//!
//! [`Limits`]: sluice_config::Limits

pub mod imports;

#[cfg(feature = "runtime")]
mod bodies;
#[cfg(feature = "runtime")]
mod budget;
#[cfg(feature = "runtime")]
mod call;
#[cfg(feature = "runtime")]
mod compile;
#[cfg(feature = "runtime")]
mod engine;
#[cfg(feature = "runtime")]
mod limiter;
#[cfg(feature = "runtime")]
mod logs;
#[cfg(feature = "runtime")]
mod meter;
#[cfg(feature = "runtime")]
mod outcome;
#[cfg(feature = "runtime")]
mod state;

#[cfg(feature = "runtime")]
pub use budget::LogBudget;
#[cfg(feature = "runtime")]
pub use call::{Calls, NextFuture};
#[cfg(feature = "runtime")]
pub use compile::{CompileError, Compiled};
#[cfg(feature = "runtime")]
pub use engine::{Engine, EngineConfig, EngineError};
#[cfg(feature = "runtime")]
pub use outcome::{Ended, Failure, Identity, Outcome, Phase};

/// Contracts that this crate runs, as nodes report them.
pub const CONTRACTS: [&str; 1] = ["wasi:http/proxy@0.2"];

/// The authority that stands for the rest of the chain.
pub const NEXT_AUTHORITY: &str = "next.sluice";
