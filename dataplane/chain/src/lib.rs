//! Matches requests to routes and workers and runs the chain.
//!
//! [`Runtime::snapshot`] compiles what a group should run into a [`Snapshot`]; [`Snapshot::handle`]
//! answers a request with it, from first line to last. What happened is told to a [`Recorder`].

mod accept;
mod build;
mod cpu;
mod ending;
mod filter;
mod handle;
mod inner;
mod invoke;
mod matching;
mod passage;
mod place;
mod rate;
mod record;
mod replay;
mod set;
mod share;
mod trace;
mod upstream;
mod walk;

pub use build::{Code, Loaded, LoadedRoutes, Plan, Runtime, RuntimeConfig, Snapshot, Warning};
pub use handle::ClientInfo;
pub use record::{CallRecord, Class, Origin, Recorder, RequestRecord, UnitRecorder};
pub use sluice_egress::{Body, BodyError};
pub use trace::{Step, Trace};
