//! `match` of a worker: the requests that it sees.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use sluice_config::PercentBy;

use crate::quantities::Percent;

/// What a request has to have, all of it, as in the Gateway API; what is left out matches all. Headers and percent look
/// at what the client sent; hosts, paths and methods also at what workers in front rewrite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatchRule {
    /// `shop.example` or `*.shop.example`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// `/checkout` exactly, or `/checkout/*` for that path and all below.
    #[serde(default)]
    pub paths: Vec<String>,
    /// One of these, in upper case. `GET` is not `HEAD`: write both where both are meant.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub methods: Vec<String>,
    /// All of these. Of several with one name, the first counts.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub headers: Vec<HeaderMatch>,
    /// A share of the clients, always the same ones.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PercentMatch")]
    pub percent: Option<PercentMatch>,
}

/// A header with exactly this value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    /// How the value is compared.
    #[serde(rename = "type", default)]
    pub how: HeaderMatchType,
    /// Its name, in any case. Not `host`: that is for `hosts`.
    #[schemars(length(min = 1, max = 256), regex(pattern = "^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$"))]
    pub name: String,
    /// All that it says: where a request has it several times, the values joined by `, `.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

/// How a header's value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HeaderMatchType {
    /// Byte by byte.
    #[default]
    Exact,
}

/// A share of the clients: the same ones on every node and for every revision, others for another worker. A higher share
/// keeps those that were in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PercentMatch {
    /// How many, `10%` or `0.5%`.
    pub share: Percent,
    /// What tells one client from another: `clientAddress`, `header` or `cookie`. A request without it does not match.
    pub by: PercentBy,
    /// Name of the header or the cookie.
    #[serde(default)]
    pub name: Option<String>,
}

/// An empty `percent:` is no share, and not all.
fn given<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PercentMatch>, D::Error> {
    PercentMatch::deserialize(d).map(Some)
}

impl From<MatchRule> for sluice_config::MatchRule {
    fn from(rule: MatchRule) -> Self {
        let MatchRule { hosts, paths, methods, headers, percent } = rule;
        let headers = headers
            .into_iter()
            .map(|HeaderMatch { how: HeaderMatchType::Exact, name, value }| sluice_config::HeaderMatch { name, value })
            .collect();
        let percent = percent.map(|PercentMatch { share, by, name }| {
            let ppm = share.ppm;
            sluice_config::PercentMatch { ppm, by, name }
        });
        Self { hosts, paths, methods, headers, percent }
    }
}
