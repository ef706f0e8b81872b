//! `config/<name>.yaml`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Metadata;
use crate::Gate;

/// A bundle of keys and values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleManifest {
    /// `sluice.dev/v1alpha1`.
    pub api_version: String,
    /// `Config`.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// All else. `environments` is taken out and merged before this is read.
    pub spec: BundleSpec,
}

/// Keys and values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = super::with_environments)]
pub struct BundleSpec {
    /// The keys and values; at most 512 KiB in all.
    pub data: BTreeMap<String, String>,
    /// Added to those of every group.
    #[serde(default)]
    pub gates: Vec<Gate>,
    /// Units of this repository with the same name here are one rollout. At most 64.
    #[serde(default)]
    pub together: Option<String>,
}

impl From<BundleSpec> for sluice_config::Bundle {
    fn from(spec: BundleSpec) -> Self {
        let BundleSpec { data, gates: _, together: _ } = spec;
        Self { data }
    }
}
