//! DataplaneNode: one node of the dataplane, and what it says it runs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::{NodeReport, UnitRef};

/// One node that runs the dataplane, named like the Node. The operator creates it; the node writes
/// its status, on change only.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "DataplaneNode",
    doc = "One node that runs the dataplane, named like the Node. Written by the operator; the node writes its status.",
    derive = "PartialEq",
    status = "DataplaneNodeStatus",
    category = "sluice",
    shortname = "dpn",
    printcolumn(name = "Node", type_ = "string", json_path = ".metadata.name", priority = 1),
    printcolumn(name = "Group", type_ = "string", json_path = ".spec.group"),
    printcolumn(name = "Applied", type_ = "integer", json_path = ".status.appliedGeneration"),
    printcolumn(name = "Exceptions", type_ = "integer", json_path = ".status.exceptionsTotal"),
    printcolumn(name = "Error", type_ = "string", json_path = ".status.lastError", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneNodeSpec {
    /// The deployment group that the node's label names.
    pub group: String,
    /// When it came into that group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_at: Option<MicroTime>,
    /// Units that this node keeps on their stable revision for now, because it joined with many others
    /// while a newer one is on trial in the group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_stable: Vec<UnitRef>,
}

/// What the node says it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneNodeStatus {
    /// The report.
    #[serde(flatten)]
    pub report: NodeReport,
    /// `Ready`: the node runs what is assigned, without exceptions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
