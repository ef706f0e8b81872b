//! What the repository of the benchmark holds: one worker, which changes, and route tables around it.

use anyhow::Result;

use crate::{demo, team::Team};

/// The unit that changes.
pub(super) const WORKER: &str = "security-headers";

/// Writes so many units.
pub(super) fn write(team: &Team, units: usize) -> Result<()> {
    demo::publish_headers(team, demo::Version::V1)?;
    for number in 1..units {
        team.write(&format!("routes/shop-{number}.yaml"), routes(number))?;
    }
    Ok(())
}

/// Changes the worker, and nothing else: the same component with another limit is another revision.
pub(super) fn change(team: &Team, number: usize) -> Result<()> {
    let path = format!("workers/{WORKER}/worker.yaml");
    let text = team.read(&path)?;
    let lines = text.lines().map(|line| match line.trim_start().starts_with("limits:") {
        true => format!("  limits: {{cpu: 20ms, wall: {}ms, memory: 16Mi}}\n", 500 + number),
        false => format!("{line}\n"),
    });
    team.write(&path, lines.collect::<String>())
}

fn routes(number: usize) -> String {
    format!(
        r#"apiVersion: sluice.dev/v1alpha1
kind: Routes
metadata: {{name: shop-{number}}}
spec:
  hosts: ["shop-{number}.example"]
  rules:
  - paths: ["/*"]
    upstream: {{url: "http://shop-{number}.shop.svc:8080", connectTimeout: 1s, responseTimeout: 5s}}
"#
    )
}
