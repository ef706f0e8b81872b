//! DeploymentGroup: a set of nodes with an order inside its environment.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::Environment;

use super::gate::Gate;
use crate::quantities::Span;

/// A set of nodes, with an order inside its environment: the lower, the less is at stake. A node
/// belongs to the group that its label `node-restriction.kubernetes.io/sluice-group` names.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "DeploymentGroup",
    doc = "A set of nodes with an order inside its environment: the lower, the less is at stake. A node belongs to the group that its label node-restriction.kubernetes.io/sluice-group names.",
    derive = "PartialEq",
    status = "DeploymentGroupStatus",
    category = "sluice",
    shortname = "dg",
    printcolumn(name = "Env", type_ = "string", json_path = ".spec.environment"),
    printcolumn(name = "Order", type_ = "integer", json_path = ".spec.order"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes"),
    printcolumn(name = "Units", type_ = "integer", json_path = ".status.units"),
    printcolumn(name = "Rolling", type_ = "integer", json_path = ".status.rolling"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40").message("the name becomes a label and part of other names: use at most 40 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.gates.all(g, self.gates.exists_one(o, o.name == g.name))").message("two gates have the same name: give each its own"))]
pub struct DeploymentGroupSpec {
    /// Whose branch the group follows.
    #[x_kube(validation = Rule::new("self == oldSelf").message("a group cannot change its environment: delete it and create another"))]
    pub environment: Environment,
    /// Groups go in this order, lowest first; equal ones go together.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub order: i32,
    /// All must pass before the next group starts. A group without gates passes as soon as its
    /// live nodes run the revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub gates: Vec<Gate>,
    /// What a failed gate does.
    #[serde(default)]
    pub on_gate_failure: OnGateFailure,
    /// A group without live nodes holds a rollout, unless it is optional.
    #[serde(default)]
    pub optional: bool,
    /// How long local trouble of a node (disk full, artifact unreachable) may last before the
    /// rollout pauses.
    #[serde(default = "default_apply_deadline")]
    pub apply_deadline: Span,
    /// How long anything may hold a rollout before it pauses.
    #[serde(default = "default_hold_limit")]
    pub hold_limit: Span,
    /// A rollout that goes back to what succeeded in this environment within this time needs no soak here; all
    /// other gates look. Absent: it soaks like any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_window: Option<Span>,
}

/// What a failed gate does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnGateFailure {
    /// Every group that the attempt touched goes back to stable, all at once.
    #[default]
    Revert,
    /// The rollout stays where it is until somebody decides.
    Pause,
}

/// What the operator sees of the group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentGroupStatus {
    /// Live and all nodes, `3/4`.
    #[serde(default)]
    pub nodes: String,
    /// Units that the group runs.
    #[serde(default)]
    pub units: i64,
    /// Rollouts that are in this group now.
    #[serde(default)]
    pub rolling: i64,
    /// Generation of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: at least one node is live and all live nodes run what is assigned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

fn default_apply_deadline() -> Span {
    Span::from_secs(300)
}

fn default_hold_limit() -> Span {
    Span::from_secs(24 * 3600)
}
