//! The kinds, one a file.

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
    Branches, DeletionPolicy, Repository, RepositorySpec, RepositoryStatus, SecretRef, StagingEvidence,
    Verbs as RepositoryVerbs,
};
pub use revision::{Revision, RevisionSpec, Source};
pub use rollout::{
    GateStatus, GroupPhase, GroupStatus, Phase, Rollout, RolloutSpec, RolloutStatus, RolloutUnit, UnitSince, Verdict,
};
pub use unit::{Change, Head, Memory, Passed, Rejected, Stable, Unit, UnitEnvironments, UnitSpec, UnitStatus};
