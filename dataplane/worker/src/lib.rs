//! Runs workers: engine, pool, limits, host capabilities.
//!
//! [`compiler::Compiler`] turns bytes into [`OwnCode`] in a process of its own, or says plainly why not, and
//! [`Engine::load`] that into a [`Compiled`] worker. [`Proxy::call`] runs one of `wasi:http`, 0.2 or 0.3, for one request, [`Filter::on_request`] and [`Filter::on_response`] one of `sluice:worker/filter`; each call under its
//! [`Limits`], in a fresh instance, or, where the worker asks for it, in one that has served before
//! ([`Compiled::serving`]). What it ended in is an [`Outcome`].
//!
//! Without the feature `runtime` (on by default) only [`imports`] is there: the operator checks
//! what a component asks for in the same words, without an engine.
//!
//! [`Limits`]: sluice_config::Limits

pub mod imports;

#[cfg(feature = "runtime")]
mod apart;
#[cfg(feature = "runtime")]
mod bodies;
#[cfg(feature = "runtime")]
mod budget;
#[cfg(feature = "runtime")]
mod call;
#[cfg(feature = "runtime")]
mod clock;
#[cfg(feature = "runtime")]
mod compile;
#[cfg(feature = "runtime")]
pub mod compiler;
#[cfg(feature = "runtime")]
mod computing;
#[cfg(feature = "runtime")]
mod engine;
#[cfg(feature = "runtime")]
mod failure;
#[cfg(feature = "runtime")]
mod filter;
#[cfg(feature = "runtime")]
mod hands;
#[cfg(feature = "runtime")]
mod limiter;
#[cfg(feature = "runtime")]
mod logs;
#[cfg(feature = "runtime")]
mod meter;
#[cfg(feature = "runtime")]
mod metered;
#[cfg(feature = "runtime")]
mod outcome;
#[cfg(feature = "runtime")]
mod own_code;
#[cfg(feature = "runtime")]
mod reuse;
#[cfg(feature = "runtime")]
mod slices;
#[cfg(feature = "runtime")]
mod state;
#[cfg(feature = "runtime")]
mod store;

#[cfg(feature = "runtime")]
pub use budget::LogBudget;
#[cfg(feature = "runtime")]
pub use call::{Calls, NextFuture};
#[cfg(feature = "runtime")]
pub use clock::process_cpu;
#[cfg(feature = "runtime")]
pub use compile::{CompileError, Compiled, Proxy, Slot};
#[cfg(feature = "runtime")]
pub use engine::{Engine, EngineConfig, EngineError};
#[cfg(feature = "runtime")]
pub use filter::{
    Bindings, Chosen, Decision, Exchange, Filter, Grants, HEAD_BYTES_MAX, NoBinding, Spelling, Stopped, UPSTREAM,
    address, head_bytes,
};
#[cfg(feature = "runtime")]
pub use outcome::{Ended, Failure, Identity, Outcome, Phase};
#[cfg(feature = "runtime")]
pub use own_code::{Key, OwnCode, Seal, SealError, Sealed, new_key, precompile};
#[cfg(feature = "runtime")]
pub use slices::ask_for_slices;

/// Contracts that this crate runs, as nodes report them.
pub const CONTRACTS: [&str; 4] =
    ["wasi:http/proxy@0.2", "wasi:http/service@0.3", "wasi:http/middleware@0.3", "sluice:worker/filter@0.1"];

/// The authority that stands for the rest of the chain.
pub const NEXT_AUTHORITY: &str = "next.sluice";
