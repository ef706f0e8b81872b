//! What a call ended in.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use sluice_config::{Digest, UnitRef};
use sluice_egress::BodyError;

use crate::LogBudget;

/// Who a call is charged to; logs carry it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Which unit.
    pub unit: UnitRef,
    /// Which revision.
    pub revision: Digest,
    /// Group of the node.
    pub group: String,
    /// What the unit may log, guest and host together.
    pub log: Arc<LogBudget>,
    /// CPU time that its calls have used, in nanoseconds: moved on while they run.
    pub cpu_ns: Arc<AtomicU64>,
}

impl Identity {
    /// Whether one line more may be logged for the unit; says so where some were not.
    pub(crate) fn may_log(&self) -> bool {
        let Some(missed) = self.log.take(Instant::now()) else {
            return false;
        };
        if missed > 0 {
            let Self { unit, revision, group, .. } = self;
            tracing::warn!(target: "sluice::worker", %unit, %revision, %group, missed, "it logs too much: lines are dropped");
        }
        true
    }

    /// Logs that a call failed.
    pub(crate) fn failed(&self, outcome: Outcome, why: &str) {
        if !self.may_log() {
            return;
        }
        let Self { unit, revision, group, .. } = self;
        let outcome = outcome.as_str();
        tracing::warn!(target: "sluice::worker", %unit, %revision, %group, outcome, why, "the worker failed");
    }
}

/// Which part of a request a call served. `wasi:http` has one for both directions, filters one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Request and response in one call.
    Handle,
    /// The request's head.
    OnRequest,
    /// The response's head.
    OnResponse,
}

/// What a call ended in. One that was given up (the client left), or that failed only after others broke
/// off a body in its hands, counts as `Next` or `Answered`: the label `outcome` of `sluice_worker_calls_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It called `next` and answered.
    Next,
    /// It answered without `next`.
    Answered,
    /// It trapped.
    Trap,
    /// Its CPU limit ended it.
    Cpu,
    /// Its wall limit ended it.
    Wall,
    /// Its memory limit ended it.
    Memory,
    /// It was not called: no room.
    Shed,
    /// It was not called: it could not be loaded.
    NotLoaded,
    /// It gave no answer, or not a valid one.
    Invalid,
    /// It failed when its response's head was out: the response was broken off.
    Aborted,
}

impl Outcome {
    /// All.
    pub const ALL: [Self; 10] = [
        Self::Next,
        Self::Answered,
        Self::Trap,
        Self::Cpu,
        Self::Wall,
        Self::Memory,
        Self::Shed,
        Self::NotLoaded,
        Self::Invalid,
        Self::Aborted,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Answered => "answered",
            Self::Trap => "trap",
            Self::Cpu => "cpu",
            Self::Wall => "wall",
            Self::Memory => "memory",
            Self::Shed => "shed",
            Self::NotLoaded => "not_loaded",
            Self::Invalid => "invalid",
            Self::Aborted => "aborted",
        }
    }

    /// Whether the worker itself failed: what `UnitCounters::faults` counts. To find no room is the node's
    /// state, and often others' doing.
    #[must_use]
    pub fn is_fault(self) -> bool {
        !matches!(self, Self::Next | Self::Answered | Self::Shed)
    }
}

impl Phase {
    /// All.
    pub const ALL: [Self; 3] = [Self::Handle, Self::OnRequest, Self::OnResponse];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handle => "handle",
            Self::OnRequest => "on-request",
            Self::OnResponse => "on-response",
        }
    }
}

/// Why a call gave no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", .outcome.as_str())]
pub struct Failure {
    /// Which kind: a fault, or that it was shed.
    pub outcome: Outcome,
    /// For logs.
    pub why: String,
    /// A body had broken off in the worker's hands before it failed: whoever broke it is to blame, not the worker.
    pub provoked: Option<BodyError>,
}

/// The end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What it ended in.
    pub outcome: Outcome,
    /// Its own time: without waiting in `next` and on bodies.
    pub own: Duration,
    /// CPU time charged.
    pub cpu: Duration,
}
