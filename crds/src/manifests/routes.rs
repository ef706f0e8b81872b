//! `routes/<name>.yaml`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Metadata;
use crate::{Gate, quantities::Span};

/// A route table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoutesManifest {
    /// `sluice.dev/v1alpha1`.
    pub api_version: String,
    /// `Routes`.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// All else. `environments` is taken out and merged before this is read.
    pub spec: RoutesSpec,
}

/// Hosts and paths to upstreams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = super::with_environments)]
pub struct RoutesSpec {
    /// `shop.example` or `*.shop.example`.
    pub hosts: Vec<String>,
    /// The longest matching path wins, exact before prefix.
    pub rules: Vec<RouteRule>,
    /// Added to those of every group.
    #[serde(default)]
    pub gates: Vec<Gate>,
    /// Units of this repository with the same name here are one rollout. At most 64.
    #[serde(default)]
    pub together: Option<String>,
}

/// Where requests of some paths go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteRule {
    /// `/cart` for that path alone, `/cart/*` for it and all below.
    pub paths: Vec<String>,
    /// Where they go.
    pub upstream: Upstream,
    /// Where they go when the upstream cannot be reached or a worker says `fallback`.
    #[serde(default)]
    pub fallback: Option<Upstream>,
    /// Where they go when a worker says so, by name: `{blue: {url: "http://blue.default.svc:8080"}}`.
    #[serde(default)]
    pub alternatives: BTreeMap<String, Upstream>,
}

/// An upstream application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Upstream {
    /// `http://host:port`.
    pub url: String,
    /// 1ms to 60s.
    #[serde(default = "default_connect")]
    pub connect_timeout: Span,
    /// From the request's end to the response's head, 1ms to 1h.
    #[serde(default = "default_response")]
    pub response_timeout: Span,
}

fn default_connect() -> Span {
    Span::from_secs(1)
}

fn default_response() -> Span {
    Span::from_secs(30)
}

impl From<RoutesSpec> for sluice_config::Routes {
    fn from(spec: RoutesSpec) -> Self {
        let RoutesSpec { hosts, rules, gates: _, together: _ } = spec;
        let rules = rules
            .into_iter()
            .map(|RouteRule { paths, upstream, fallback, alternatives }| sluice_config::RouteRule {
                paths,
                upstream: upstream.into(),
                fallback: fallback.map(Into::into),
                alternatives: alternatives.into_iter().map(|(name, upstream)| (name, upstream.into())).collect(),
            })
            .collect();
        Self { hosts, rules }
    }
}

impl From<Upstream> for sluice_config::Upstream {
    fn from(upstream: Upstream) -> Self {
        let Upstream { url, connect_timeout, response_timeout } = upstream;
        Self { url, connect_timeout_ms: connect_timeout.millis(), response_timeout_ms: response_timeout.millis() }
    }
}
