//! What the demo's team writes: groups, the shop's route, the workers in their versions.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    stage::{Group, HOST, SHOP},
    state,
    team::Team,
};

/// A release of the worker `security-headers`, a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Good.
    V1,
    /// Answers 500 to every request for `/checkout`.
    V2,
    /// Good again.
    V3,
}

impl Version {
    /// As it stands in names of files and in what the worker says of itself.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }

    /// What the worker puts into the header that names it.
    pub fn mark(self) -> String {
        format!("security-headers/{}", self.name())
    }
}

/// Staging and four groups of production, with soaks of ten seconds each.
pub fn groups() -> Vec<Group> {
    let soak = |requests: u32| json!({"name": "soak", "soak": {"duration": "10s", "minRequests": requests}});
    let errors =
        |requests: u32| json!({"name": "errors", "preset": {"errorRate": {"max": "0.5%", "minRequests": requests}}});
    let group = |name, environment, order, gates: Vec<Value>| Group { name, environment, order, gates: json!(gates) };
    vec![
        group("staging", "staging", 10, vec![errors(50), soak(50)]),
        group("internal", "production", 10, vec![e2e_job("internal"), soak(50)]),
        group("canary", "production", 20, vec![errors(200), latency(), soak(300)]),
        group("early", "production", 30, vec![errors(200), soak(300)]),
        group("main", "production", 40, vec![errors(200), soak(300)]),
    ]
}

/// An end-to-end test: the group's nodes must answer for the shop.
fn e2e_job(group: &str) -> Value {
    let url = format!("http://sluice-group-{group}.sluice-system.svc:8080/");
    let script = format!(
        "curl --fail --silent --show-error --retry 5 --retry-all-errors --retry-delay 1 --output /dev/null --header 'Host: {HOST}' {url}"
    );
    json!({"name": "e2e", "job": {
        "image": crate::image::BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "timeout": "60s",
    }})
}

fn latency() -> Value {
    let query = "histogram_quantile(0.99, sum by (le) (rate(sluice_unit_request_seconds_bucket\
                 {unit=\"$unit\", group=\"$group\", revision=\"$revision\"}[6s])))";
    json!({"name": "latency", "prometheus": {
        "query": query, "failWhen": "result > 0.5", "interval": "2s", "failureLimit": 3,
    }})
}

/// The shop's route.
pub fn publish_route(team: &Team) -> Result<()> {
    team.write(
        "routes/shop.yaml",
        format!(
            r#"apiVersion: sluice.dev/v1alpha1
kind: Routes
metadata: {{name: shop}}
spec:
  hosts: ["{HOST}"]
  rules:
  - paths: ["/*"]
    upstream: {{url: "http://shop.{SHOP}.svc:8080", connectTimeout: 1s, responseTimeout: 5s}}
"#
        ),
    )
}

/// The worker `security-headers` in a version: a filter of `sluice:worker`.
pub fn publish_headers(team: &Team, version: Version) -> Result<()> {
    let guest = guest(&format!("filter-security-headers-{}.wasm", version.name()))?;
    team.copy("workers/security-headers/security-headers.wasm", &guest)?;
    team.write("workers/security-headers/worker.yaml", worker("security-headers", "security", 20))
}

/// The worker `request-id`: a component of `wasi:http`, as others run it, too.
pub fn publish_request_id(team: &Team) -> Result<()> {
    team.copy("workers/request-id/request-id.wasm", &guest("request-id.wasm")?)?;
    team.write("workers/request-id/worker.yaml", worker("request-id", "edge", 10))
}

fn worker(name: &str, stage: &str, order: i32) -> String {
    format!(
        r#"apiVersion: sluice.dev/v1alpha1
kind: Worker
metadata: {{name: {name}}}
spec:
  wasm: ./{name}.wasm
  chain: {{stage: {stage}, order: {order}}}
  match:
  - hosts: ["{HOST}"]
  limits: {{cpu: 20ms, wall: 500ms, memory: 16Mi}}
  onFailure: closed
"#
    )
}

/// A worker that `make guests` built.
pub(super) fn guest(file: &str) -> Result<PathBuf> {
    let path = state::cache_dir()?.join("guests").join(file);
    path.canonicalize().with_context(|| format!("{} is missing: run `make guests`", path.display()))
}
