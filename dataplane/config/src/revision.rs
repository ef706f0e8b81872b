//! What a revision is: the full content of a unit, named by its digest.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Digest, UnitKind};

/// Each environment follows one branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Before production.
    Staging,
    /// What users reach.
    Production,
}

impl Environment {
    /// Both, in the order that a change takes.
    pub const ALL: [Self; 2] = [Self::Staging, Self::Production];

    /// `staging` or `production`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }

    /// `st` or `pr`, in names of objects.
    #[must_use]
    pub fn short(self) -> &'static str {
        match self {
            Self::Staging => "st",
            Self::Production => "pr",
        }
    }
}

impl std::fmt::Display for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The full content of a unit. Its digest covers all of this and nothing else: not the commit,
/// not the author, not the time.
///
/// A field added later must be left out of the JSON while it has its default: the digests of all
/// revisions written before would change otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Version of this format, see [`crate::FORMAT`].
    pub format: u32,
    /// Kind of the unit.
    pub kind: UnitKind,
    /// Name of the unit.
    pub name: String,
    /// The component; workers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// The content in staging, overlay merged.
    pub staging: Content,
    /// The content in production, overlay merged.
    pub production: Content,
    /// Gates of the unit itself, as written; opaque to nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub gates: Vec<serde_json::Value>,
    /// Units of a repository that share this name go through the groups as one; opaque to nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<String>,
}

impl Revision {
    /// The content in an environment.
    #[must_use]
    pub fn content(&self, environment: Environment) -> &Content {
        match environment {
            Environment::Staging => &self.staging,
            Environment::Production => &self.production,
        }
    }

    /// The digest: SHA-256 of the compact JSON of this value with all keys sorted.
    ///
    /// # Errors
    /// Never for values that came from JSON; serialisation of others may fail.
    pub fn digest(&self) -> Result<Digest, serde_json::Error> {
        let canonical = crate::canonical::text(&serde_json::to_value(self)?)?;
        Ok(Digest::of(canonical.as_bytes()))
    }
}

/// A published, immutable component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

/// What a unit of each kind holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// Of a worker.
    Worker(Worker),
    /// Of a route table.
    Routes(Routes),
    /// Of a config bundle.
    Config(Bundle),
}

impl Content {
    /// Kind of unit that holds this.
    #[must_use]
    pub fn kind(&self) -> UnitKind {
        match self {
            Self::Worker(_) => UnitKind::Worker,
            Self::Routes(_) => UnitKind::Routes,
            Self::Config(_) => UnitKind::Config,
        }
    }
}

/// Where a worker stands, what it may use, its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    /// Place in the chain.
    pub chain: ChainPosition,
    /// Requests that it sees; any of these rules suffices, none means all.
    #[serde(rename = "match", default, skip_serializing_if = "Vec::is_empty")]
    pub match_rules: Vec<MatchRule>,
    /// What it may use beside what every toolchain imports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<Binding>,
    /// What a call may cost.
    pub limits: Limits,
    /// Instances that serve more than one call; without it, each call gets a fresh one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Instances>,
    /// What happens to a request when the worker fails.
    pub on_failure: OnFailure,
}

/// Place in the chain: stage, then order, then namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChainPosition {
    /// One of the assignment's stages.
    pub stage: String,
    /// Lower comes first.
    pub order: i32,
}

/// What a request has to have, all of it, as in the Gateway API; what is left out matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchRule {
    /// `shop.example` or `*.shop.example`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// `/checkout` exactly, or `/checkout/*` for that path and all below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// One of these methods, in upper case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// All of these headers. Of several with one name the first counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// A share of the clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<PercentMatch>,
}

/// A header with exactly this value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderMatch {
    /// Its name, in any case.
    pub name: String,
    /// All that it says: where a request has it several times, the values joined by `, `.
    pub value: String,
}

/// A share of the clients, always the same ones: a hash of what tells one from another, salted by namespace and name of
/// the unit, decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PercentMatch {
    /// Parts per million: 1% is 10,000.
    pub ppm: u32,
    /// What tells one client from another. A request without it does not match.
    pub by: PercentBy,
    /// Name of the header or the cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What tells one client from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PercentBy {
    /// The address that the node sees: behind a load balancer that hides the client's, its own.
    ClientAddress,
    /// The value of a header.
    Header,
    /// The value of a cookie.
    Cookie,
}

/// A named capability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Name by which the worker finds it.
    pub name: String,
    /// What it gives.
    #[serde(flatten)]
    pub kind: BindingKind,
}

/// What a binding gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BindingKind {
    /// Outgoing HTTP to these origins (`http://shop.default.svc:8080`).
    Fetch {
        /// Scheme, host and port.
        origins: Vec<String>,
    },
    /// A rate that each key of the worker's choosing may not exceed, counted by each node for itself.
    #[serde(rename_all = "camelCase")]
    Rate {
        /// So many, at once as well.
        requests: u32,
        /// In so long, in milliseconds.
        per_ms: u64,
    },
}

/// What a call may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// CPU time, in milliseconds.
    pub cpu_ms: u64,
    /// Time from call to answer without waiting in `next` and on bodies, in milliseconds.
    pub wall_ms: u64,
    /// Linear memory, in bytes.
    pub memory_bytes: u64,
}

/// For how long an instance serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Instances {
    /// Calls that one instance serves, one after the other.
    pub reuse: u32,
    /// From its start, in milliseconds.
    pub max_age_ms: u64,
}

/// What happens to a request when its worker fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Answer 503.
    #[default]
    Closed,
    /// Go on without the worker.
    Open,
    /// The route's fallback upstream.
    Fallback,
}

/// Hosts and paths to upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Routes {
    /// `shop.example` or `*.shop.example`.
    pub hosts: Vec<String>,
    /// The longest matching path wins, exact before prefix.
    pub rules: Vec<RouteRule>,
}

/// Where requests of some paths go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteRule {
    /// As in [`MatchRule::paths`].
    pub paths: Vec<String>,
    /// Where they go.
    pub upstream: Upstream,
    /// Where they go when the upstream cannot be reached or a worker says `fallback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Upstream>,
    /// Where they go when a worker says so, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alternatives: BTreeMap<String, Upstream>,
}

/// What a worker calls the fallback of a route.
pub const FALLBACK: &str = "fallback";

/// An upstream application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// `http://host:port`, without a path.
    pub url: String,
    /// In milliseconds.
    pub connect_timeout_ms: u64,
    /// From the request's end to the response's head, in milliseconds.
    pub response_timeout_ms: u64,
}

/// A bundle of keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bundle {
    /// The keys and values.
    pub data: BTreeMap<String, String>,
}

fn any_objects(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}
