//! The operator as a process against a real API server, with nodes that are played: what it must do whatever happens
//! to it. One test, because a control plane takes seconds to set up and each act goes on from where the last one ended.

use anyhow::{Result, ensure};
use kube::ResourceExt;
use serde_json::json;
use sluice_config::Environment::{Production, Staging};
use sluice_crds::{Phase, Rollout};
use sluice_e2e::{
    Cluster, Options,
    operators::Metrics,
    rollouts::{self, group},
    wait::{Look, until},
};

use crate::{
    fleet::Fleet,
    world::{self, LIMIT, World, flags, shop},
};

const SHOP: &str = "shop (routes)";
const FLAGS: &str = "flags (config)";
const ROUTES: &str = "routes/shop.yaml";
const CONFIG: &str = "config/flags.yaml";

#[tokio::test]
async fn the_operator_does_what_it_promises() -> Result<()> {
    let mut options = Options::ephemeral("operator", 0);
    options.audit = true;
    let cluster = Cluster::up(options).await?;
    let world = World::on(&cluster).await?;
    play(&world).await.map_err(|error| error.context(world.logs()))?;
    cluster.down().await
}

async fn play(world: &World<'_>) -> Result<()> {
    bad_objects_are_refused_with_a_sentence(world).await?;

    let errors = json!({"name": "errors", "preset": {"errorRate": {"max": "1%", "minRequests": 100}}});
    let soak = json!({"name": "soak", "soak": {"duration": "1s", "minRequests": 100}});
    let check = |command: &str| json!({"name": "e2e", "job": {"image": "x", "command": [command], "timeout": "60s"}});
    world.group("staging", Staging, 0, json!([check("true")])).await?;
    world.group("canary", Production, 10, json!([errors, soak])).await?;
    world.group("main", Production, 20, json!([errors])).await?;
    let nodes = [("node-s", "staging"), ("node-c", "canary"), ("node-m1", "main"), ("node-m2", "main")];
    let fleet = Fleet::start(&world.client, &nodes).await?;
    world.start_operator("operator-a", "one")?;

    a_first_deployment_goes_through_every_group(world).await?;
    rollouts_have_a_name_of_their_own(world).await?;
    one_broken_unit_stalls_alone(world).await?;
    a_bad_one_is_taken_back(world).await?;
    a_killed_operator_goes_on_where_it_was(world, &fleet).await?;
    world.group("staging", Staging, 0, json!([check("false")])).await?;
    a_job_that_fails_takes_it_back(world).await?;
    world.group("staging", Staging, 0, json!([check("true")])).await?;
    two_leaders_do_no_harm(world).await?;
    nothing_is_written_when_nothing_happens(world).await?;
    a_group_takes_all_of_its_own_along(world).await
}

async fn bad_objects_are_refused_with_a_sentence(world: &World<'_>) -> Result<()> {
    let group = |spec| json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "DeploymentGroup", "metadata": {"name": "x"}, "spec": spec});
    let gate = |gate| group(json!({"environment": "production", "order": 1, "gates": [gate]}));
    let repository = |spec| json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "x", "namespace": world::TEAM}, "spec": spec});
    world
        .refused(
            gate(json!({"name": "a"})),
            "a gate does exactly one thing: write one of soak, preset, prometheus or job",
        )
        .await?;
    let twice = json!({"environment": "production", "order": 1, "gates": [
        {"name": "a", "soak": {"duration": "1s"}}, {"name": "a", "soak": {"duration": "1s"}}]});
    world.refused(group(twice), "two gates have the same name: give each its own").await?;
    let compare = json!({"name": "a", "prometheus": {"query": "up", "failWhen": "it looks odd"}});
    world.refused(gate(compare), "write for example `result > 0.25`").await?;
    world
        .refused(
            repository(json!({"url": "https://user:secret@git.example/x.git"})),
            "put user and password into the Secret",
        )
        .await?;
    world
        .refused(
            repository(json!({"url": "https://git.example/x.git", "path": "/../etc"})),
            "write an absolute path inside the repository",
        )
        .await?;
    world
        .refused(
            repository(json!({"url": "https://git.example/x.git", "interval": "100h"})),
            "poll between every 1s and every 24h",
        )
        .await
}

async fn a_first_deployment_goes_through_every_group(world: &World<'_>) -> Result<()> {
    let files = [(ROUTES, Some(&*shop("good-1"))), (CONFIG, Some(&*flags("on")))];
    let commit = world.merge("Open the shop", &files).await?;
    world.follow_repository("None").await?;
    let rollout = world.production(SHOP, &commit, Phase::Succeeded).await?;
    world.production(FLAGS, &commit, Phase::Succeeded).await?;
    let status = rollouts::status(&rollout);
    let (canary, main) = (group(&status, "canary")?, group(&status, "main")?);
    ensure!(canary.entered_at < main.entered_at, "main must come after canary: {status:#?}");
    let requests = canary.gates.iter().map(|gate| gate.requests).min();
    ensure!(requests >= Some(100), "a gate passed on too few requests: {canary:#?}");
    let digest = rollout.spec.units[0].revision.clone();
    for group in ["canary", "main"] {
        ensure!(world.assigned(group, "shop").await? == digest, "{group} runs something else");
    }
    let staged = world.all_rollouts().await?;
    ensure!(staged.iter().any(|r| r.spec.environment == Staging && r.spec.title == SHOP), "staging was left out");
    Ok(())
}

async fn rollouts_have_a_name_of_their_own(world: &World<'_>) -> Result<()> {
    let names = json!({"plural": "rollouts", "singular": "rollout", "kind": "Rollout", "listKind": "RolloutList"});
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let versions = json!([{"name": "v1alpha1", "served": true, "storage": true, "schema": schema}]);
    let argo = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "rollouts.argoproj.io"},
        "spec": {"group": "argoproj.io", "scope": "Namespaced", "names": names, "versions": versions}});
    world.cluster.apply(&argo).await?;
    let established = ["wait", "--for=condition=Established", "crd/rollouts.argoproj.io", "--timeout=60s"];
    world.cluster.kubectl(&established).await?;
    for name in ["slr", "rollouts.sluice.dev"] {
        let table = world.cluster.kubectl(&["get", name, "-n", world::TEAM]).await?;
        for shown in ["WAITING FOR", SHOP, "Succeeded", "2/2 main"] {
            ensure!(table.contains(shown), "`kubectl get {name}` does not show {shown}:\n{table}");
        }
    }
    let groups = world.cluster.kubectl(&["get", "dg"]).await?;
    ensure!(groups.contains("2/2"), "{groups}");
    Ok(())
}

async fn one_broken_unit_stalls_alone(world: &World<'_>) -> Result<()> {
    let before = world.assigned("main", "flags").await?;
    let broken = "apiVersion: sluice.dev/v1alpha1\nkind: Config\nmetadata: {name: flags}\nspec:\n  dada: {}\n";
    let commit = world.merge("Break the flags", &[(ROUTES, Some(&*shop("good-2"))), (CONFIG, Some(broken))]).await?;
    world.production(SHOP, &commit, Phase::Succeeded).await?;
    let said = stalled(world, "flags-c").await?;
    ensure!(said.contains("config/flags.yaml:5"), "file and line are missing: {said}");
    ensure!(world.assigned("main", "flags").await? == before, "a broken file must change nothing");
    world.merge("Mend the flags", &[(CONFIG, Some(&*flags("on")))]).await?;
    until("flags to be fine", LIMIT, || async {
        let unit = world.unit("flags-c").await?;
        let conditions = unit.status.map(|s| s.conditions).unwrap_or_default();
        let fine = conditions.iter().all(|c| c.type_ != "Stalled");
        Ok(if fine { Look::Done(()) } else { Look::NotYet(format!("{conditions:?}")) })
    })
    .await
}

async fn stalled(world: &World<'_>, unit: &str) -> Result<String> {
    until(&format!("{unit} to stall"), LIMIT, || async {
        let status = world.unit(unit).await?.status.unwrap_or_default();
        let stalled = status.conditions.iter().find(|c| c.type_ == "Stalled");
        Ok(stalled.map_or_else(|| Look::NotYet(format!("{status:?}")), |c| Look::Done(c.message.clone())))
    })
    .await
}

async fn a_bad_one_is_taken_back(world: &World<'_>) -> Result<()> {
    let good = world.assigned("canary", "shop").await?;
    let commit = world.merge("Break the shop", &[(ROUTES, Some(&*shop("bad")))]).await?;
    let rollout = world.production(SHOP, &commit, Phase::Reverted).await?;
    let status = rollouts::status(&rollout);
    ensure!(status.message.contains("% > 1% on node-c"), "the evidence is missing: {}", status.message);
    ensure!(group(&status, "main")?.entered_at.is_none(), "main must not see it");
    for group in ["canary", "main"] {
        ensure!(world.assigned(group, "shop").await? == good, "{group} is not back");
    }
    until("the unit to remember that it was rejected", LIMIT, || async {
        let memory = world.unit("shop-r").await?.spec.environments.production;
        let done = memory.rejected.len() == 1 && memory.in_flight.is_none();
        Ok(if done { Look::Done(()) } else { Look::NotYet(format!("{memory:?}")) })
    })
    .await?;
    let events = world.cluster.kubectl(&["get", "events", "-n", world::TEAM, "-o", "wide"]).await?;
    ensure!(events.contains("Rejected") || events.contains("Reverting"), "nobody was told:\n{events}");
    Ok(())
}

async fn a_killed_operator_goes_on_where_it_was(world: &World<'_>, fleet: &Fleet) -> Result<()> {
    // Between being told and being run: nodes take nothing up while it is down.
    fleet.stop_applying(true);
    let commit = world.merge("Third shop", &[(ROUTES, Some(&*shop("good-3")))]).await?;
    world.entered(SHOP, &commit, "canary").await?;
    world.kill_operator("operator-a")?;
    fleet.stop_applying(false);
    world.start_operator("operator-a", "one")?;
    // While gates look, at two more moments.
    for group in ["canary", "main"] {
        world.entered(SHOP, &commit, group).await?;
        world.kill_operator("operator-a")?;
        world.start_operator("operator-a", "one")?;
    }
    let rollout = world.production(SHOP, &commit, Phase::Succeeded).await?;
    ensure!(rollout.spec.attempt == attempts(world, "shop-r").await?, "another attempt was made");
    once_in_each_group(world, &rollout)?;

    // Right after a revert was decided.
    let good = world.assigned("canary", "shop").await?;
    let commit = world.merge("Break it again", &[(ROUTES, Some(&*shop("bad.again")))]).await?;
    until("the revert to begin", LIMIT, || async {
        let found = world.rollouts.find(SHOP, Production, &commit).await?;
        let phase = found.map(|r| rollouts::status(&r).phase);
        let begun = matches!(phase, Some(Phase::Reverting | Phase::Reverted));
        Ok(if begun { Look::Done(()) } else { Look::NotYet(format!("{phase:?}")) })
    })
    .await?;
    world.kill_operator("operator-a")?;
    world.start_operator("operator-a", "one")?;
    world.production(SHOP, &commit, Phase::Reverted).await?;
    ensure!(world.assigned("canary", "shop").await? == good, "canary is not back");
    Ok(())
}

async fn a_job_that_fails_takes_it_back(world: &World<'_>) -> Result<()> {
    let commit = world.git.commit("edge", "staging", "For staging", &[(CONFIG, Some(&*flags("no")))]).await?;
    let rollout = world.rollouts.reach(FLAGS, Staging, &commit, Phase::Reverted, LIMIT).await?;
    let message = rollouts::status(&rollout).message;
    ensure!(message.contains("Job failed: exit code 1: one | checkout answers 500"), "{message}");
    let jobs = world.cluster.kubectl(&["get", "jobs", "-n", world::SYSTEM, "-o", "yaml"]).await?;
    ensure!(jobs.contains("runAsNonRoot: true") && jobs.contains("sluice.dev/rollout: "), "{jobs}");
    Ok(())
}

async fn attempts(world: &World<'_>, unit: &str) -> Result<u32> {
    Ok(world.unit(unit).await?.spec.environments.production.attempts)
}

/// Every group was told this once and never told back and forth; generations only grew.
fn once_in_each_group(world: &World<'_>, rollout: &Rollout) -> Result<()> {
    let digest = rollout.spec.units[0].revision.clone();
    for progress in &rollouts::status(rollout).groups {
        let told = world.told(&progress.name, "shop")?;
        let generations: Vec<u64> = told.iter().map(|(generation, _)| *generation).collect();
        ensure!(generations.is_sorted_by(|a, b| a < b), "{}: generations {generations:?}", progress.name);
        let mut revisions: Vec<_> = told.into_iter().map(|(_, revision)| revision).collect();
        revisions.dedup();
        let times = revisions.iter().filter(|revision| **revision == digest).count();
        let entered = progress.entered_at.is_some();
        ensure!(times == usize::from(entered), "{} was told it {times} times", progress.name);
    }
    Ok(())
}

async fn two_leaders_do_no_harm(world: &World<'_>) -> Result<()> {
    // Two leases: both lead, all the time.
    world.start_operator("operator-b", "two")?;
    let commit =
        world.merge("Fourth shop", &[(ROUTES, Some(&*shop("good-4"))), (CONFIG, Some(&*flags("off")))]).await?;
    let rollout = world.production(SHOP, &commit, Phase::Succeeded).await?;
    world.production(FLAGS, &commit, Phase::Succeeded).await?;
    once_in_each_group(world, &rollout)?;
    let good = world.assigned("main", "shop").await?;
    let commit = world.merge("A bad one for two", &[(ROUTES, Some(&*shop("bad.for-two")))]).await?;
    let rollout = world.production(SHOP, &commit, Phase::Reverted).await?;
    ensure!(world.assigned("canary", "shop").await? == good, "canary is not back");
    let same = world
        .all_rollouts()
        .await?
        .into_iter()
        .filter(|r| r.spec.environment == Production && r.spec.title == SHOP && r.spec.commit == commit);
    ensure!(same.count() == 1, "one attempt and no more: {}", rollout.name_any());
    once_in_each_group(world, &rollout)?;
    world.kill_operator("operator-b")?;
    // One lease, and its holder is shot: the other takes over when it has run out.
    world.start_operator("operator-c", "one")?;
    world.kill_operator("operator-a")?;
    let commit = world.merge("Fifth shop", &[(ROUTES, Some(&*shop("good-5")))]).await?;
    world.production(SHOP, &commit, Phase::Succeeded).await?;
    world.stop_operator("operator-c")
}

async fn nothing_is_written_when_nothing_happens(world: &World<'_>) -> Result<()> {
    let metrics = world.start_operator("operator-d", "one")?;
    polled(&metrics, 3.0).await?;
    let before = world.writes()?.len();
    polled(&metrics, 9.0).await?;
    let writes = world.writes()?;
    ensure!(writes.len() == before, "written although nothing happened: {:?}", &writes[before..]);
    Ok(())
}

async fn polled(metrics: &Metrics, times: f64) -> Result<()> {
    until(&format!("{times} polls"), LIMIT, || async {
        let polls = metrics.sum("sluice_operator_polls_total").await.unwrap_or(0.0);
        Ok(if polls >= times { Look::Done(()) } else { Look::NotYet(format!("{polls}")) })
    })
    .await
}

async fn a_group_takes_all_of_its_own_along(world: &World<'_>) -> Result<()> {
    world.cluster.kubectl(&["delete", "deploymentgroup", "main"]).await?;
    let kinds = "daemonsets,services,assignments";
    until("all of main to be gone", LIMIT, || async {
        let left = world.cluster.kubectl(&["get", kinds, "-n", world::SYSTEM, "-o", "name"]).await?;
        let gone = !left.contains("main");
        Ok(if gone { Look::Done(()) } else { Look::NotYet(left) })
    })
    .await
}
