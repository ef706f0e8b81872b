//! Revision: the immutable content of a unit, named by its digest.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::Digest;

/// The full content of a unit, immutable. Named `<unit>-<w|r|c>-<first 16 of digest>`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "Revision",
    doc = "The full content of a unit, immutable, named by its digest. Written by the operator.",
    namespaced,
    derive = "PartialEq",
    category = "sluice",
    shortname = "slrev",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.content.kind"),
    printcolumn(name = "Unit", type_ = "string", json_path = ".spec.content.name"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".spec.digest"),
    printcolumn(name = "Commit", type_ = "string", json_path = ".spec.source.commit", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a revision never changes: push another commit"))]
pub struct RevisionSpec {
    /// Digest of `content`.
    pub digest: Digest,
    /// The content, as nodes read it.
    pub content: sluice_config::Revision,
    /// Where the content was first seen; no part of the digest.
    pub source: Source,
}

/// Where a revision was first seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Name of the Repository.
    pub repository: String,
    /// Commit.
    pub commit: String,
    /// Path of the manifest.
    pub path: String,
    /// Path of the artifact in that commit; workers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_path: Option<String>,
}

impl RevisionSpec {
    /// Name of the object that holds a unit's revision with this digest.
    #[must_use]
    pub fn object_name(unit: &sluice_config::UnitRef, digest: &Digest) -> String {
        format!("{}-{}", unit.object_name(), &digest.as_str()[..16])
    }
}
