//! Rollout: one attempt to take a revision through the groups of an environment.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::{Digest, Environment, UnitKind};

/// One attempt to take a revision through the groups of one environment. Written by the operator;
/// people may set `pause`, `abort` and `retry`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "Rollout",
    namespaced,
    derive = "PartialEq",
    status = "RolloutStatus",
    category = "sluice",
    shortname = "slr",
    printcolumn(name = "Unit", type_ = "string", json_path = ".spec.title"),
    printcolumn(name = "Env", type_ = "string", json_path = ".spec.environment"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".spec.revision"),
    printcolumn(name = "Group", type_ = "string", json_path = ".status.group"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Waiting For", type_ = "string", json_path = ".status.waitingFor"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.units == oldSelf.units && self.environment == oldSelf.environment && self.attempt == oldSelf.attempt && self.groups == oldSelf.groups && self.commit == oldSelf.commit && self.title == oldSelf.title && self.revision == oldSelf.revision").message("only pause, abort and retry may be changed; a new commit makes a new rollout"))]
pub struct RolloutSpec {
    /// Environment whose groups it takes.
    pub environment: Environment,
    /// For people: the unit, with its kind where it is no worker.
    #[schemars(length(max = 253))]
    pub title: String,
    /// For people: first 8 of the digest, or `removed`.
    #[schemars(length(max = 64))]
    pub revision: String,
    /// What is released as one; usually one unit.
    #[schemars(length(min = 1, max = 64))]
    pub units: Vec<RolloutUnit>,
    /// Which attempt of this unit in this environment.
    pub attempt: u32,
    /// The groups, fixed when the attempt starts; those of equal order go together.
    #[schemars(length(max = 200))]
    pub groups: Vec<String>,
    /// Commit that asked for it.
    #[schemars(length(max = 64))]
    pub commit: String,
    /// Author of that commit.
    #[serde(default)]
    pub author: String,
    /// First line of that commit's message.
    #[serde(default)]
    pub subject: String,
    /// Hold where it is; what runs keeps running.
    #[serde(default)]
    pub pause: bool,
    /// Take it back everywhere, at once.
    #[serde(default)]
    pub abort: bool,
    /// Try a rejected revision once more: makes another attempt.
    #[serde(default)]
    pub retry: bool,
}

/// One unit in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutUnit {
    /// Kind of the unit.
    pub kind: UnitKind,
    /// Name of the unit.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Where it is to go; absent for a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Digest>,
    /// Where a revert goes; absent where the unit did not run before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<Digest>,
}

/// Where the attempt is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Where the attempt is.
    #[serde(default)]
    pub phase: Phase,
    /// For people: `2/4 canary`.
    #[serde(default)]
    pub group: String,
    /// For people: what it waits for and until when, or why it ended.
    #[serde(default)]
    pub waiting_for: String,
    /// Each group that was started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupStatus>,
    /// Why it was paused, reverted, aborted or superseded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the first group was assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// When it began to hold for the same thing; counts against the hold limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<MicroTime>,
    /// When the verdict that ended it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<MicroTime>,
    /// When it ended on every live node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<MicroTime>,
    /// Planner's own bookkeeping, opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo: Option<String>,
    /// Generation of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` when it succeeded, `Reconciling` while in flight, `Stalled` when it needs somebody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Phase of an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not yet in any group.
    #[default]
    Pending,
    /// On its way.
    Progressing,
    /// Holds until somebody or a newer revision decides.
    Paused,
    /// On its way back.
    Reverting,
    /// Back on stable everywhere; the digest is rejected.
    Reverted,
    /// Passed every group: the new stable.
    Succeeded,
    /// Given up for a newer revision.
    Superseded,
    /// Taken back on request or because the branch returned to stable; not rejected.
    Aborted,
}

/// One group of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Name of the group.
    pub name: String,
    /// Where the attempt is in this group.
    pub phase: GroupPhase,
    /// Generation at which each unit's entry changed; verdicts hold for these alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub since: Vec<UnitSince>,
    /// When the assignment was to be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_at: Option<MicroTime>,
    /// When every live node ran it and the gates started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gates_started_at: Option<MicroTime>,
    /// When the group passed or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<MicroTime>,
    /// Each gate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateStatus>,
}

/// Phase of an attempt in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GroupPhase {
    /// Assigned; nodes are taking it up.
    Applying,
    /// Gates run.
    Gating,
    /// All gates passed.
    Passed,
    /// A gate or a node failed it.
    Failed,
    /// The group went away or is optional and empty.
    Skipped,
    /// Being put back on stable.
    Reverting,
    /// Back on stable.
    Reverted,
}

/// Generation at which a unit's entry last changed in a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnitSince {
    /// Kind of the unit.
    pub kind: UnitKind,
    /// Name of the unit.
    pub name: String,
    /// The generation.
    pub since: u64,
}

/// One gate of one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateStatus {
    /// Name of the gate.
    pub name: String,
    /// What it yields.
    pub verdict: Verdict,
    /// The evidence, in a sentence.
    #[serde(default)]
    pub message: String,
    /// The query that was run, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Samples that counted.
    #[serde(default)]
    pub samples: u64,
    /// Failed samples in a row.
    #[serde(default)]
    pub consecutive_failures: u32,
    /// When the last sample was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sample_at: Option<MicroTime>,
}

/// What a gate yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    /// Not yet decided.
    Running,
    /// Good.
    Pass,
    /// Bad.
    Fail,
    /// Cannot tell: holds.
    Inconclusive,
}
