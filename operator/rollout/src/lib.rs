//! The pure planner: from what is known to what happens next.
//!
//! [`plan`] looks at a [`Snapshot`] and answers with a [`Plan`]: what to write, what to measure, when to
//! look again, and what everyone waits for. It reads no clock, does no I/O, and keeps nothing between two
//! calls; all that it must remember is in the snapshot, hence in the cluster.
//!
//! Every write of a plan rests only on what the snapshot shows as stored, never on another write of the
//! same plan. So writes may fail one by one, the operator may die between any two of them, and intent is
//! always stored (in one plan) before its effect (in a later one). Where an assignment is not what the
//! snapshot shows, the snapshot is stale, and says nothing of how attempts go in that group.
#![warn(missing_docs)]

mod adopt;
mod advance;
mod assign;
mod blame;
mod create;
mod domain;
mod gates;
mod group;
mod index;
mod judge;
mod memory;
mod newcomers;
mod nodes;
mod pace;
mod pending;
mod plan;
mod planner;
mod progress;
mod report;
mod revert;
mod rollback;
mod room;
mod sample;
mod snapshot;
mod start;
mod time;
mod together;
mod verdict;
mod view;
mod waiting;
mod wish;

pub use domain::{Digest, DigestError, Environment, RolloutId, Target, UnitId, UnitKind};
pub use plan::{
    About, Basis, Effect, Event, GateOrigin, GateRef, Plan, Reason, RolloutReport, Severity, UnitReport, Wanted, Write,
};
pub use planner::plan;
pub use progress::{
    Cause, GateProgress, GroupPhase, GroupProgress, Phase, Rollout, RolloutSpec, RolloutStatus, Said, UnitChange,
    Verbs, Verdict,
};
pub use room::ENTRIES_MAX;
pub use sample::{Counted, JobState, Queried, QueryOutcome, Sample, WorstNode};
pub use snapshot::{
    Assignment, Check, Elsewhere, Entry, Exception, ExceptionKind, GateScope, GateSpec, Group, Head, Node, NodeReport,
    OnGateFailure, Ppm, Rejection, Repository, RepositoryId, Revision, Snapshot, StagingEvidence, Suspect, Together,
    Told, Unit, UnitMemory,
};
pub use time::Time;
pub use waiting::{InStaging, Waiting, gone as waits_for_repository, together as waits_for_together};
