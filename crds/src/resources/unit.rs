//! Unit: the memory of what is released as one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::{Digest, Environment, UnitKind};

/// What Sluice remembers of a unit: who owns the name, and for each environment what the branch
/// wants, what is stable, in flight, passed and rejected, with why. Named `<name>-<w|r|c>`.
///
/// The memory stands in `spec`, not in `status`: it is intent that cannot be observed again, and
/// backup tools restore `spec`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "Unit",
    doc = "What is released as one (a worker, a route table, a config bundle), and all that the operator remembers of it. Written by the operator.",
    namespaced,
    derive = "PartialEq",
    status = "UnitStatus",
    category = "sluice",
    shortname = "slu",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repository"),
    printcolumn(name = "Staging", type_ = "string", json_path = ".status.staging"),
    printcolumn(name = "Production", type_ = "string", json_path = ".status.production"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct UnitSpec {
    /// Kind of the unit.
    pub kind: UnitKind,
    /// Name in its manifest.
    pub name: String,
    /// The Repository that owns the name.
    pub repository: String,
    /// The memory.
    #[serde(default)]
    pub environments: UnitEnvironments,
}

/// The memory, by environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitEnvironments {
    /// Staging.
    #[serde(default)]
    pub staging: Memory,
    /// Production.
    #[serde(default)]
    pub production: Memory,
}

impl UnitEnvironments {
    /// The memory of one environment.
    #[must_use]
    pub fn of(&self, environment: Environment) -> &Memory {
        match environment {
            Environment::Staging => &self.staging,
            Environment::Production => &self.production,
        }
    }
}

/// What is known of a unit in one environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// What the branch wants, as last read without an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// The last revision that succeeded; where every revert goes. Absent before the first success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<Change>,
    /// Name of the Rollout in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<String>,
    /// Revisions that succeeded here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<Passed>,
    /// Revisions that were rejected here, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
    /// Attempts made so far; the next one's number is one more.
    #[serde(default)]
    pub attempts: u32,
    /// What failed together with others and runs again, alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<Suspect>,
}

/// A revision or the absence of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Digest of the revision; absent for a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// What the branch wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Digest of the revision; absent where the unit is not in the branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Commit in which this content was first seen at the head of the branch.
    pub commit: String,
    /// Author of that commit.
    #[serde(default)]
    pub author: String,
    /// First line of that commit's message.
    #[serde(default)]
    pub subject: String,
    /// All that goes together with it, itself too, as that commit has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<Together>,
}

/// Units that go through the groups as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Together {
    /// What their manifests call it.
    pub name: String,
    /// All of them.
    pub units: Vec<TogetherUnit>,
}

/// One of the units that go together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TogetherUnit {
    /// Kind of the unit.
    pub kind: UnitKind,
    /// Name of the unit.
    pub name: String,
}

/// A revision that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Passed {
    /// Digest of the revision.
    pub digest: Digest,
    /// When.
    pub at: MicroTime,
}

/// A revision that was rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// Digest of the revision; absent for a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Rollout in which it failed.
    pub rollout: String,
    /// What failed.
    pub reason: String,
}

/// A revision that failed together with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Suspect {
    /// Digest of the revision; absent for a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// When its attempt had started: the oldest runs first.
    pub since: MicroTime,
}

/// What people see of a unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnitStatus {
    /// Short digest of what is stable in staging.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staging: Option<String>,
    /// Short digest of what is stable in production.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub production: Option<String>,
    /// Generation of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Stalled` with file and line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
