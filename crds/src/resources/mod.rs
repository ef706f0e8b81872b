//! The kinds, one a file.
#![allow(unreachable_pub, reason = "kube derives a private copy of each spec that has CEL rules")]
#![allow(clippy::duplicated_attributes, reason = "columns repeat words: that is how kube's derive reads them")]

pub mod assignment;
pub mod dataplane_node;
pub mod deployment_group;
pub mod gate;
pub mod repository;
pub mod revision;
pub mod rollout;
pub mod unit;

pub use assignment::{Assignment, AssignmentSpec};
pub use dataplane_node::{DataplaneNode, DataplaneNodeSpec, DataplaneNodeStatus};
pub use deployment_group::{DeploymentGroup, DeploymentGroupSpec, DeploymentGroupStatus, OnGateFailure};
pub use gate::{ErrorRate, Gate, GateMatch, Job, Preset, Prometheus, Soak};
pub use repository::{
    Branches, CommitStatus, DeletionPolicy, Provider, Repository, RepositorySpec, RepositoryStatus, SecretRef,
    StagingEvidence, Verbs as RepositoryVerbs,
};
pub use revision::{Revision, RevisionSpec, Source};
pub use rollout::{
    Cause, CauseKind, GateStatus, GroupPhase, GroupStatus, Order, Phase, Rollout, RolloutRef, RolloutSpec,
    RolloutStatus, RolloutUnit, UnitSince, UnitStable, Verdict,
};
pub use unit::{
    Change, Head, Memory, Passed, Rejected, Suspect, Together, TogetherUnit, Unit, UnitEnvironments, UnitSpec,
    UnitStatus,
};
