//! Assignment: what one group should run.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the nodes of one deployment group should run. Named like the group; written only by the
/// operator, watched by the group's nodes.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "Assignment",
    doc = "What the nodes of one deployment group should run. Named like the group; written only by the operator.",
    derive = "PartialEq",
    category = "sluice",
    shortname = "asg",
    printcolumn(name = "Env", type_ = "string", json_path = ".spec.environment"),
    printcolumn(name = "Generation", type_ = "integer", json_path = ".spec.generation"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct AssignmentSpec {
    /// What to run, as nodes read it.
    #[serde(flatten)]
    pub wire: sluice_config::Assignment,
}
