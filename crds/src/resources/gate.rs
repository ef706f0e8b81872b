//! Gates: the checks between groups.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::UnitKind;

use crate::quantities::{Percent, Span};

/// One check. Exactly one of soak, preset, prometheus, job says what it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.soak), has(self.preset), has(self.prometheus), has(self.job)].filter(x, x).size() == 1").message("a gate does exactly one thing: write one of soak, preset, prometheus or job"))]
pub struct Gate {
    /// Name of the gate, unique in its group.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What it applies to; all units where absent.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub applies_to: Option<GateMatch>,
    /// A minimum time, and where set a minimum number of requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Soak>,
    /// A ready-made check on what the nodes count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// A query to Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
    /// A Job: passes when it completes, fails when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
}

/// What a gate applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GateMatch {
    /// Kinds of units; all where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub kinds: Vec<UnitKind>,
    /// Namespaces of units; all where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub namespaces: Vec<String>,
}

/// A minimum time, and where set a minimum number of requests through the revision in the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Soak {
    /// At least this long.
    pub duration: Span,
    /// And at least this many requests.
    #[serde(default)]
    pub min_requests: u64,
}

/// A ready-made check on what the nodes count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preset {
    /// The share of requests in which the unit itself failed.
    pub error_rate: ErrorRate,
}

/// Passes when at least `minRequests` were seen and the share of errors is at most `max`; fails as
/// soon as so many were seen and the share is above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorRate {
    /// Highest share that passes.
    pub max: Percent,
    /// No verdict on fewer requests.
    #[schemars(range(min = 1))]
    pub min_requests: u64,
}

/// A query to Prometheus. `$unit`, `$namespace`, `$group`, `$revision`, `$environment` are replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.failWhen.matches('^result *(<|<=|>|>=|==|!=) *-?[0-9]+([.][0-9]+)?$')").message("failWhen compares the result with a number: write for example `result > 0.25`"))]
pub struct Prometheus {
    /// PromQL that yields one number.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
    /// The sample fails when this holds: `result`, one of < <= > >= == !=, a number.
    #[schemars(length(max = 100))]
    pub fail_when: String,
    /// Time between samples.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// So many consecutive failed samples make the gate fail.
    #[serde(default = "default_one")]
    #[schemars(range(min = 1, max = 1000))]
    pub failure_limit: u32,
    /// So many samples that did not fail make the gate pass.
    #[serde(default = "default_one")]
    #[schemars(range(min = 1, max = 1000))]
    pub success_count: u32,
}

/// A Job, run in the operator's namespace under the restricted profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Job {
    /// Image to run.
    #[schemars(length(min = 1, max = 500))]
    pub image: String,
    /// Command; the image's own where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub command: Vec<String>,
    /// The Job fails when it takes longer.
    #[serde(default = "default_job_timeout")]
    pub timeout: Span,
    /// When the kubelet pulls the image; Kubernetes' own default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(Always|IfNotPresent|Never)$"))]
    pub image_pull_policy: Option<String>,
}

fn default_interval() -> Span {
    Span::from_secs(30)
}

fn default_one() -> u32 {
    1
}

fn default_job_timeout() -> Span {
    Span::from_secs(300)
}
