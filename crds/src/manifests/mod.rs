//! What users write in their repositories: files, not cluster objects.
//!
//! Each turns into the wire type that nodes read with `From`.

mod bundle;
mod matching;
mod routes;
mod worker;

pub use bundle::{BundleManifest, BundleSpec};
pub use matching::{HeaderMatch, HeaderMatchType, MatchRule, PercentMatch};
pub use routes::{RouteRule, RoutesManifest, RoutesSpec, Upstream};
pub use worker::{Binding, Chain, FetchBinding, Instances, Limits, RateBinding, WorkerManifest, WorkerSpec};

use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};

/// Metadata of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Name of the unit: 1 to 40 of a-z, 0-9 and -.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// Adds `environments` to a spec's schema: it is merged over the spec before types come in.
fn with_environments(schema: &mut Schema) {
    let overlay = json_schema!({
        "type": "object",
        "description": "What differs by environment, merged over the spec: maps merge, all else is replaced.",
        "additionalProperties": false,
        "properties": {
            "staging": {"type": ["object", "null"], "description": "Fields of the spec that differ in staging."},
            "production": {"type": ["object", "null"], "description": "Fields of the spec that differ in production."},
        },
    });
    if let Some(properties) = schema.get_mut("properties").and_then(|p| p.as_object_mut()) {
        properties.insert("environments".to_owned(), overlay.into());
    }
}
