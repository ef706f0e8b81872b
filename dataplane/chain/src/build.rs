//! From what a group should run to a snapshot that requests run on.

use std::sync::Arc;

use sluice_config::{Digest, Routes, UnitRef, Worker};
use sluice_egress::Egress;
use sluice_worker::Compiled;

use crate::Recorder;

/// Settings of the node that every snapshot shares.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// The node's group; a label of logs.
    pub group: String,
    /// Requests inside the chain at once; what is above gets 503. The engine's `instances_max`
    /// should be this times the longest chain.
    pub requests_max: usize,
    /// `next` calls a request may make, over all workers.
    pub next_budget: u32,
}

/// What outlives snapshots: egress, admission, recorder. Cheap to clone.
#[derive(Clone)]
pub struct Runtime;

/// What a group should run, loaded.
#[derive(Default)]
pub struct Plan {
    /// Stages of the chain, in order.
    pub stages: Vec<String>,
    /// Workers, in any order.
    pub workers: Vec<Loaded>,
    /// Route tables, in any order.
    pub routes: Vec<LoadedRoutes>,
}

/// One worker of a plan.
pub struct Loaded {
    /// Which unit.
    pub unit: UnitRef,
    /// Which revision.
    pub revision: Digest,
    /// Its content in this environment.
    pub worker: Worker,
    /// Its code.
    pub code: Code,
}

/// Whether a worker can be called.
pub enum Code {
    /// It can.
    Ready(Compiled),
    /// It could not be loaded and there is no stable: its `onFailure` decides for each request.
    NotLoaded {
        /// For logs.
        why: String,
    },
}

/// One route table of a plan.
pub struct LoadedRoutes {
    /// Which unit.
    pub unit: UnitRef,
    /// Which revision.
    pub revision: Digest,
    /// Its content in this environment.
    pub routes: Routes,
}

/// What a plan holds that cannot take effect; the rest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Whose content it is.
    pub unit: UnitRef,
    /// What is ignored and why.
    pub message: String,
}

/// Routes, chain and workers, compiled: immutable, shared by the requests that began on it.
pub struct Snapshot;

impl Runtime {
    /// Once per process.
    #[must_use]
    pub fn new(_config: RuntimeConfig, _egress: Egress, _recorder: Arc<dyn Recorder>) -> Self {
        todo!()
    }

    /// Compiles a plan. Never fails as a whole: what cannot take effect is a warning (a worker in
    /// a stage that the assignment does not have counts as not loaded).
    #[must_use]
    pub fn snapshot(&self, _plan: Plan) -> (Arc<Snapshot>, Vec<Warning>) {
        todo!()
    }
}
