//! Rollout: one attempt to take a revision through the groups of an environment.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::{Digest, Environment, UnitKind};

use crate::quantities::Span;

/// One attempt to take a revision through the groups of one environment. Written by the operator;
/// people may set `pause`, `approve`, `abort`, `retry` and `rollback`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "Rollout",
    doc = "One attempt to take a revision through the groups of one environment. Written by the operator; people may set pause, approve, abort, retry and rollback.",
    namespaced,
    derive = "PartialEq",
    status = "RolloutStatus",
    category = "sluice",
    shortname = "slr",
    validation = Rule::new("!has(self.spec.retry) || !has(self.status) || !has(self.status.retried) || (has(oldSelf.spec.retry) && self.spec.retry == oldSelf.spec.retry) || self.spec.retry.token != self.status.retried").message("a retry with this token was followed already: to retry once more, set another spec.retry.token, the time for example"),
    validation = Rule::new("!has(self.spec.rollback) || (has(oldSelf.spec.rollback) && self.spec.rollback == oldSelf.spec.rollback) || (has(self.status) && self.status.phase == 'Succeeded')").message("only what succeeded can be rolled back: set spec.abort to take back a rollout that is under way, or spec.rollback in the rollout that brought what runs now"),
    validation = Rule::new("!has(self.spec.rollback) || (has(oldSelf.spec.rollback) && self.spec.rollback == oldSelf.spec.rollback) || !has(self.status) || !has(self.status.rollbackAnswered) || self.spec.rollback.token != self.status.rollbackAnswered").message("a rollback with this token was answered already, see status.message: to order it once more, set another spec.rollback.token, the time for example"),
    printcolumn(name = "Unit", type_ = "string", json_path = ".spec.title"),
    printcolumn(name = "Env", type_ = "string", json_path = ".spec.environment"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".spec.revision"),
    printcolumn(name = "Group", type_ = "string", json_path = ".status.group"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Waiting For", type_ = "string", json_path = ".status.waitingFor"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.units == oldSelf.units && self.environment == oldSelf.environment && self.attempt == oldSelf.attempt && self.commit == oldSelf.commit && self.author == oldSelf.author && self.subject == oldSelf.subject && self.title == oldSelf.title && self.revision == oldSelf.revision && self.alone == oldSelf.alone").message("only pause, approve, abort, retry and rollback may be changed; a new commit makes a new rollout"))]
pub struct RolloutSpec {
    /// Environment whose groups it takes.
    pub environment: Environment,
    /// For people: the unit, with its kind where it is no worker.
    #[schemars(length(max = 300))]
    pub title: String,
    /// For people: first 8 of the digest, or `removed`.
    #[schemars(length(max = 64))]
    pub revision: String,
    /// What is released as one; usually one unit.
    #[schemars(length(min = 1, max = 64))]
    pub units: Vec<RolloutUnit>,
    /// Which attempt of this unit in this environment.
    pub attempt: u32,
    /// Shares no group with another attempt while it is judged: an earlier attempt failed a gate
    /// that could not tell whose fault it was.
    #[serde(default)]
    pub alone: bool,
    /// Commit that asked for it.
    #[schemars(length(max = 64))]
    pub commit: String,
    /// Author of that commit.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub author: String,
    /// First line of that commit's message.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub subject: String,
    /// Hold where it is; what runs keeps running. Remove it to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Order>,
    /// Go into production without staging's evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approve: Option<Order>,
    /// Take it back everywhere, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<Order>,
    /// Try a rejected revision once more, or judge the group anew at which a gate paused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Order>,
    /// Of a rollout that succeeded: take what it brought off everywhere, at once, past every gate. What was there
    /// before is stable again; what it brought is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Order>,
}

/// What somebody ordered, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Why.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// Who. Where the chart's admission policy is in force, the name that the API server knows.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub by: String,
    /// Tells a second order of the same kind from the first: a time, for example. A second `retry` needs
    /// another one than the first, and so does a second `rollback`.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub token: String,
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
    #[schemars(length(max = 64))]
    pub revision: Option<Digest>,
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
    /// Why it is paused, going back, or over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The cause with its evidence, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What each unit goes back to; fixed when it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stable: Vec<UnitStable>,
    /// The groups in order; fixed when it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupStatus>,
    /// When it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// When it stopped going forward: succeeded, began to go back, was superseded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<MicroTime>,
    /// Since when something else than its groups keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<MicroTime>,
    /// Token of the last `retry` that was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub retried: Option<String>,
    /// Token of the last `rollback` that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub rollback_answered: Option<String>,
    /// When this status was written; paces the writes that only tell progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_at: Option<MicroTime>,
    /// Generation of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` when it succeeded, `Reconciling` while in flight, `Stalled` when it needs somebody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Where an attempt stands.
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
    /// Back on stable everywhere; the digest is rejected. One that succeeded gets here by `rollback` alone.
    Reverted,
    /// Passed every group: the new stable.
    Succeeded,
    /// Given up for a newer revision.
    Superseded,
    /// Taken back on request; rejected as well.
    Aborted,
}

/// Why an attempt is paused, going back, or over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// What kind of cause.
    pub kind: CauseKind,
    /// Names of the other attempts that share the failure, or of the one that took its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollouts: Vec<RolloutRef>,
}

/// Another rollout, which may be in another namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What kind of cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CauseKind {
    /// A gate failed.
    GateFailed,
    /// A node refused the digest.
    Refused,
    /// Nodes did not apply it within the group's `applyDeadline`.
    NotApplied,
    /// It held longer than the group's `holdLimit`.
    HoldLimit,
    /// A person paused or aborted it.
    Person,
    /// A person took it off after it had succeeded.
    RolledBack,
    /// The branch went back to what was stable.
    HeadReturned,
    /// A gate failed that cannot tell units apart, and other attempts were in the group, too.
    Shared,
    /// The branch moved on.
    Superseded,
}

/// What a unit goes back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnitStable {
    /// Kind of the unit.
    pub kind: UnitKind,
    /// Name of the unit.
    pub name: String,
    /// Digest of the revision; absent where the unit did not run before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// One group of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Name of the group.
    pub name: String,
    /// Its order when the attempt started; equal orders go together.
    pub order: i32,
    /// Where the attempt is in this group.
    pub phase: GroupPhase,
    /// When the group was told to run it, or when it began to be judged anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entered_at: Option<MicroTime>,
    /// Nodes that joined later are newcomers; judging the group anew leaves this as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_at: Option<MicroTime>,
    /// Since when some live node does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_since: Option<MicroTime>,
    /// Generation at which each unit's entry changed; verdicts hold for these alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub since: Vec<UnitSince>,
    /// When every live node ran it and the gates started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gates_started_at: Option<MicroTime>,
    /// Each gate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateStatus>,
}

/// Where an attempt is in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GroupPhase {
    /// Not its turn.
    Waiting,
    /// Told to run it; not every live node has it.
    Deploying,
    /// The gates look.
    Verifying,
    /// Every gate passed.
    Passed,
    /// Left out: deleted on the way, or optional and without live nodes.
    Skipped,
    /// A gate failed, a node refused, or a deadline passed, here.
    Failed,
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
    /// Name of the gate, with the unit's name where that is needed.
    pub name: String,
    /// What it yields.
    pub verdict: Verdict,
    /// The evidence, in a sentence.
    #[serde(default)]
    pub message: String,
    /// The query that was run, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// When it started.
    pub started_at: MicroTime,
    /// Samples that counted.
    #[serde(default)]
    pub samples: u32,
    /// Failed samples in a row.
    #[serde(default)]
    pub consecutive_failures: u32,
    /// Requests counted.
    #[serde(default)]
    pub requests: u64,
    /// Errors counted.
    #[serde(default)]
    pub errors: u64,
    /// Time that was watched; only this counts for a soak, so no clock that jumps can shorten one.
    pub watched: Span,
    /// Until when it was watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched_until: Option<MicroTime>,
    /// End of the last sample that counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sample_at: Option<MicroTime>,
    /// How often its Job was started again after one that could not be run.
    #[serde(default)]
    pub reruns: u32,
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
