//! What users write in their repositories: files, not cluster objects.

mod bundle;
mod routes;
mod worker;

pub use bundle::{BundleManifest, BundleSpec};
pub use routes::{RouteRule, RoutesManifest, RoutesSpec, Upstream};
pub use worker::{Binding, Chain, FetchBinding, Limits, WorkerManifest, WorkerSpec};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Metadata of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Name of the unit: 1 to 40 of a-z, 0-9 and -.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}
