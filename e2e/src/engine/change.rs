//! One push that changes one unit of all: what the operator does for it, as the proxy before the API server sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_config::Environment;
use sluice_crds::Phase;

use super::{
    numbers::{count, rounded},
    steady, units,
    units::WORKER,
    world::{GROUPS, LIMIT, World},
};
use crate::{
    figures::Figures,
    kubelet,
    parts::api_proxy::{Verb, Write},
    rollouts::Rollouts,
    stage::TEAM,
};

pub(super) async fn measure(world: &World<'_>, figures: &mut Figures) -> Result<()> {
    let (operator, proxy) = (world.operator_process()?, world.proxy()?);
    world.quiet().await?;
    proxy.forget();
    let (began, cpu) = (Instant::now(), operator.cpu()?);
    let commit = push(world, 1)?;
    let client = world.client.clone();
    let checks = tokio::spawn(async move {
        while kubelet::run_checks(&client, |_| true).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let rollouts = Rollouts::of(world.cluster, TEAM).await?;
    let reached = rollouts.reach(WORKER, Environment::Production, &commit, Phase::Succeeded, LIMIT).await;
    checks.abort();
    reached?;
    world.quiet().await?;
    let (used, passed) = (operator.cpu()?.saturating_sub(cpu), began.elapsed());
    let writes = proxy.writes();
    let others: Vec<String> = writes.iter().filter(|write| !is_of_the_change(write)).map(Write::to_string).collect();
    for other in &others {
        tracing::warn!("written for one change, and not of it: {other}");
    }
    println!("  {}", by_kind(&writes));
    let made = |resource: &str| writes.iter().filter(|w| w.verb == Verb::Create && w.resource == resource).count();
    let entries = entries_changed(&writes);
    ensure!(made("rollouts") == 1, "the push made {} rollouts", made("rollouts"));
    let name = |what: &str| format!("one push, 1 unit changed: {what}");
    figures.add_at_most(name("writes to other units' objects"), count(others.len()), "writes", 0.0);
    figures.add_at_most(name("units told anew to a group"), count(entries.len()), "units", 1.0);
    figures.add_at_most(name("Revisions made"), count(made("revisions")), "objects", 1.0);
    figures.add_at_most(name("Rollouts made"), count(made("rollouts")), "objects", 1.0);
    figures.add(name("writes to objects"), count(writes.len()), "writes");
    figures.add(name("the same and Events"), count(steady::writes(proxy)), "writes");
    let reads = proxy
        .requests()
        .into_iter()
        .filter(|((verb, resource), _)| matches!(verb, Verb::Get | Verb::List) && resource != "leases");
    figures.add(name("reads"), count(reads.map(|(_, times)| times).sum()), "requests");
    let share = 100.0 * used.as_secs_f64() / passed.as_secs_f64();
    figures.add(name("operator's CPU"), rounded(used.as_secs_f64()), "s");
    figures.add(name(&format!("that is, over {} s", passed.as_secs())), rounded(share), "% of a core");
    Ok(())
}

/// How often each kind was written.
fn by_kind(writes: &[Write]) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for Write { verb, resource, subresource, .. } in writes {
        let gap = if subresource.is_empty() { "" } else { "/" };
        *kinds.entry(format!("{verb:?} {resource}{gap}{subresource}")).or_default() += 1;
    }
    kinds.into_iter().map(|(kind, times)| format!("{kind}: {times}")).collect::<Vec<_>>().join(", ")
}

/// Changes the worker and merges it; returns the commit.
pub(super) fn push(world: &World<'_>, number: usize) -> Result<String> {
    units::change(&world.team, number)?;
    let commit = world.team.commit(&format!("Change {number}"))?;
    world.tap.seek(&commit);
    world.team.merge_to("production")?;
    Ok(commit)
}

/// Whether a write is about the unit that changed, its attempt, a group as a whole, or the repository.
fn is_of_the_change(write: &Write) -> bool {
    match write.resource.as_str() {
        "units" | "revisions" | "rollouts" => write.name.starts_with(WORKER),
        "jobs" => write.name.contains(WORKER) || write.object.to_string().contains(WORKER),
        "assignments" | "deploymentgroups" => GROUPS.contains(&write.name.as_str()),
        "repositories" => true,
        _ => false,
    }
}

/// Units whose entry in some Assignment changed with it: its `since` is the Assignment's own generation.
fn entries_changed(writes: &[Write]) -> BTreeSet<String> {
    let assignments = writes.iter().filter(|write| write.resource == "assignments");
    let changed = assignments.flat_map(|write| {
        let spec = &write.object["spec"];
        let entries = spec["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_new = |entry: &&Value| entry["since"] == spec["generation"];
        entries.iter().filter(is_new).map(|entry| entry["name"].to_string())
    });
    changed.collect()
}
