//! `workers/<name>/worker.yaml`.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_config::{BindingKind, ChainPosition, OnFailure};

use super::{MatchRule, Metadata};
use crate::{
    Gate,
    quantities::{Bytes, Span},
};

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerManifest {
    /// `sluice.dev/v1alpha1`.
    pub api_version: String,
    /// `Worker`.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// All else. `environments` is taken out and merged before this is read.
    pub spec: WorkerSpec,
}

/// Where a worker stands in the chain, what it may use, its limits, its gates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = super::with_environments)]
pub struct WorkerSpec {
    /// File beside this manifest that holds the component, `./x.wasm`.
    pub wasm: String,
    /// Place in the chain.
    pub chain: Chain,
    /// Requests that it sees; any of these rules suffices, none means all.
    #[serde(rename = "match", default)]
    pub match_rules: Vec<MatchRule>,
    /// What it may use.
    #[serde(default)]
    pub bindings: Vec<Binding>,
    /// What a call may cost.
    #[serde(default)]
    pub limits: Limits,
    /// Lets an instance serve more than one call: faster, but what a call leaves in memory, the next one finds. Without it,
    /// each call gets a fresh instance.
    #[serde(default)]
    pub instances: Option<Instances>,
    /// What happens to a request when the worker fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Added to those of every group.
    #[serde(default)]
    pub gates: Vec<Gate>,
    /// Units of this repository with the same name here are one rollout. At most 64.
    #[serde(default)]
    pub together: Option<String>,
}

/// Place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// One of the cluster's stages; `edge`, `security`, `transform`, `route` by default.
    pub stage: String,
    /// Lower comes first; ties go by namespace and name.
    #[serde(default)]
    pub order: i32,
}

/// A named capability: one of `fetch` and `rate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = fetch_or_rate)]
pub struct Binding {
    /// Name of the binding.
    pub name: String,
    /// Outgoing HTTP.
    #[serde(default)]
    pub fetch: Option<FetchBinding>,
    /// A rate that each key may not exceed. Filters only; at most 8 of them.
    #[serde(default)]
    pub rate: Option<RateBinding>,
}

fn fetch_or_rate(schema: &mut Schema) {
    let given = |what: &str| json!({"required": [what], "properties": {what: {"type": "object"}}});
    schema.insert("oneOf".to_owned(), json!([given("fetch"), given("rate")]));
}

/// Outgoing HTTP to named origins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchBinding {
    /// `http://host:port` each.
    pub origins: Vec<String>,
}

/// So many requests in so long, for each key of the worker's choosing. Each node counts for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateBinding {
    /// 1 to 1000000; so many may come at once, too.
    pub requests: u32,
    /// 1s to 24h.
    pub per: Span,
}

impl Binding {
    /// What it gives; where that is two things, what checks refuse.
    fn given(self) -> Vec<sluice_config::Binding> {
        let Self { name, fetch, rate } = self;
        let rate = rate.map(|RateBinding { requests, per }| BindingKind::Rate { requests, per_ms: per.millis() });
        let fetch = fetch.map(|FetchBinding { origins }| BindingKind::Fetch { origins });
        fetch.into_iter().chain(rate).map(|kind| sluice_config::Binding { name: name.clone(), kind }).collect()
    }
}

/// What a call may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// CPU time, 1ms to 10s.
    #[serde(default = "Limits::default_cpu")]
    pub cpu: Span,
    /// Time without waiting in `next` and on bodies, 1ms to 5m.
    #[serde(default = "Limits::default_wall")]
    pub wall: Span,
    /// Linear memory, 64Ki to 256Mi.
    #[serde(default = "Limits::default_memory")]
    pub memory: Bytes,
}

impl Limits {
    fn default_cpu() -> Span {
        Span::from_millis(50)
    }

    fn default_wall() -> Span {
        Span::from_secs(1)
    }

    fn default_memory() -> Bytes {
        Bytes(32 << 20)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu: Self::default_cpu(), wall: Self::default_wall(), memory: Self::default_memory() }
    }
}

/// For how long an instance serves. One that failed, or that holds more than half of its memory limit, serves no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instances {
    /// Calls that one instance serves, one after the other, 2 to 1000000.
    pub reuse: u32,
    /// From its start, 1s to 24h.
    #[serde(default = "Instances::default_max_age")]
    pub max_age: Span,
}

impl Instances {
    fn default_max_age() -> Span {
        Span::from_secs(300)
    }
}

impl From<WorkerSpec> for sluice_config::Worker {
    fn from(spec: WorkerSpec) -> Self {
        let WorkerSpec { wasm: _, chain, match_rules, bindings, limits, instances, on_failure, gates: _, together: _ } =
            spec;
        Self {
            chain: ChainPosition { stage: chain.stage, order: chain.order },
            match_rules: match_rules.into_iter().map(Into::into).collect(),
            bindings: bindings.into_iter().flat_map(Binding::given).collect(),
            limits: sluice_config::Limits {
                cpu_ms: limits.cpu.millis(),
                wall_ms: limits.wall.millis(),
                memory_bytes: limits.memory.0,
            },
            instances: instances
                .map(|Instances { reuse, max_age }| sluice_config::Instances { reuse, max_age_ms: max_age.millis() }),
            on_failure,
        }
    }
}
