//! What people order, and what breaks around the operator, while it is at work.

use anyhow::{Context, Result, ensure};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;
use sluice_config::Environment::{Production, Staging};
use sluice_crds::{DataplaneNode, GroupPhase, Phase, Repository, Rollout, RolloutStatus};
use sluice_e2e::{
    Cluster, Options,
    kubelet::GROUP_LABEL,
    rollouts::{self, group},
    wait::{Look, until},
};

use crate::{
    fleet::Fleet,
    world::{self, LIMIT, World, shop},
};

const SHOP: &str = "shop (routes)";
const ROUTES: &str = "routes/shop.yaml";
/// Beside the shop, so that a commit can remove many.
const OTHERS: [&str; 4] = ["a", "b", "c", "d"];

#[tokio::test]
async fn the_operator_does_what_it_is_told_whatever_breaks_around_it() -> Result<()> {
    let cluster = Cluster::up(Options::ephemeral("orders", 0)).await?;
    let world = World::on(&cluster).await?;
    play(&world).await.map_err(|error| error.context(world.logs()))?;
    cluster.down().await
}

async fn play(world: &World<'_>) -> Result<()> {
    world.group("staging", Staging, 0, json!([])).await?;
    canary_soaks(world, 10).await?;
    world.group("main", Production, 20, json!([])).await?;
    let nodes = [("node-s", "staging"), ("node-c", "canary"), ("node-m1", "main"), ("node-m2", "main")];
    let _fleet = Fleet::start(&world.client, &nodes).await?;
    world.start_operator("operator-a", "one")?;
    let first = open_all(world).await?;

    what_never_was_in_staging_waits_for_approval(world, &first).await?;
    a_paused_one_goes_no_further_until_it_is_resumed(world).await?;
    an_aborted_one_stays_away_until_it_is_retried(world).await?;
    many_nodes_that_join_keep_stable_until_the_verdict(world).await?;
    an_api_server_that_restarts_changes_nothing(world).await?;
    a_git_server_that_is_gone_changes_nothing(world).await?;
    a_commit_that_removes_many_waits_until_it_is_confirmed(world).await?;
    what_runs_outlives_its_repository(world).await
}

fn other(name: &str) -> String {
    shop("good").replace("name: shop", &format!("name: {name}")).replace("shop.example", &format!("{name}.example"))
}

async fn open_all(world: &World<'_>) -> Result<Rollout> {
    let others = OTHERS.map(|name| (format!("routes/{name}.yaml"), other(name)));
    let mut files: Vec<(&str, Option<&str>)> = vec![];
    files.extend(others.iter().map(|(path, text)| (path.as_str(), Some(text.as_str()))));
    let text = shop("good-1");
    files.push((ROUTES, Some(&text)));
    let commit = world.merge("Open the shops", &files).await?;
    world.follow_repository("InCluster").await?;
    for name in OTHERS {
        world.production(&format!("{name} (routes)"), &commit, Phase::Succeeded).await?;
    }
    world.production(SHOP, &commit, Phase::Succeeded).await
}

async fn what_never_was_in_staging_waits_for_approval(world: &World<'_>, first: &Rollout) -> Result<()> {
    let commit = world.git.commit("edge", "production", "Hot fix", &[(ROUTES, Some(&*shop("good-2")))]).await?;
    let rollout = until("the hot fix to wait", LIMIT, || async {
        let Some(rollout) = world.rollouts.find(SHOP, Production, &commit).await? else {
            return Ok(Look::NotYet("no rollout".to_owned()));
        };
        let waiting = rollouts::status(&rollout).waiting_for;
        Ok(if waiting.contains("staging") { Look::Done(rollout) } else { Look::NotYet(waiting) })
    })
    .await?;
    let waiting = rollouts::status(&rollout).waiting_for;
    ensure!(waiting.contains("approve"), "it does not say what to do: {waiting}");
    ensure!(world.assigned("canary", "shop").await? == first.spec.units[0].revision, "canary did not wait");
    world.order(&rollout, json!({"approve": {"reason": "outage 4711", "by": "grace"}})).await?;
    let rollout = world.production(SHOP, &commit, Phase::Succeeded).await?;
    let events = world.cluster.kubectl(&["get", "events", "-n", world::TEAM, "-o", "json"]).await?;
    ensure!(events.contains("outage 4711") && events.contains("grace"), "nobody can tell who said so");
    world.git.commit("edge", "staging", "Hot fix", &[(ROUTES, Some(&*shop("good-2")))]).await?;
    ensure!(rollout.spec.attempt > first.spec.attempt, "another attempt");
    Ok(())
}

async fn a_paused_one_goes_no_further_until_it_is_resumed(world: &World<'_>) -> Result<()> {
    let commit = world.merge("Third shop", &[(ROUTES, Some(&*shop("good-3")))]).await?;
    let rollout = world.entered(SHOP, &commit, "canary").await?;
    world.order(&rollout, json!({"pause": {"reason": "lunch", "by": "grace"}})).await?;
    let paused = |status: &RolloutStatus| {
        let canary = group(status, "canary").map(|group| group.phase);
        status.phase == Phase::Paused && canary.is_ok_and(|phase| phase == GroupPhase::Passed)
    };
    let name = rollout.name_any();
    let rollout = world.until("to pause after canary has passed", &name, paused).await?;
    let status = rollouts::status(&rollout);
    ensure!(status.waiting_for.contains("grace"), "it does not say who paused it: {}", status.waiting_for);
    ensure!(group(&status, "main")?.entered_at.is_none(), "it went on to main");
    world.order(&rollout, json!({"pause": null})).await?;
    world.production(SHOP, &commit, Phase::Succeeded).await.map(drop)
}

async fn an_aborted_one_stays_away_until_it_is_retried(world: &World<'_>) -> Result<()> {
    let good = world.assigned("canary", "shop").await?;
    let commit = world.merge("Fourth shop", &[(ROUTES, Some(&*shop("good-4")))]).await?;
    let rollout = world.entered(SHOP, &commit, "canary").await?;
    world.order(&rollout, json!({"abort": {"reason": "wrong colour", "by": "grace"}})).await?;
    let name = rollout.name_any();
    let rollout = world.until("to be aborted", &name, |status| status.phase == Phase::Aborted).await?;
    ensure!(world.assigned("canary", "shop").await? == good, "canary is not back");
    until("the unit to say that it was rejected", LIMIT, || async {
        let conditions = world.unit("shop-r").await?.status.unwrap_or_default().conditions;
        let said = conditions.iter().any(|c| c.reason == "Rejected" && c.message.contains("wrong colour"));
        Ok(if said { Look::Done(()) } else { Look::NotYet(format!("{conditions:?}")) })
    })
    .await?;
    world.order(&rollout, json!({"retry": {"reason": "it was right", "by": "grace", "token": "1"}})).await?;
    until("another attempt", LIMIT, || async {
        let newest = world.rollouts.find(SHOP, Production, &commit).await?.context("a rollout")?;
        let again = newest.spec.attempt == rollout.spec.attempt + 1;
        Ok(if again { Look::Done(()) } else { Look::NotYet(newest.name_any()) })
    })
    .await?;
    world.production(SHOP, &commit, Phase::Succeeded).await.map(drop)
}

async fn many_nodes_that_join_keep_stable_until_the_verdict(world: &World<'_>) -> Result<()> {
    canary_soaks(world, 1_000_000_000).await?;
    let commit = world.merge("Fifth shop", &[(ROUTES, Some(&*shop("good-5")))]).await?;
    let rollout = world.entered(SHOP, &commit, "canary").await?;
    let on_trial =
        |status: &RolloutStatus| group(status, "canary").is_ok_and(|canary| canary.phase == GroupPhase::Verifying);
    world.until("to be on trial in canary", &rollout.name_any(), on_trial).await?;
    move_nodes(world, "canary").await?;
    keep_stable(world, &["node-m1", "node-m2"]).await?;
    move_nodes(world, "main").await?;
    keep_stable(world, &[]).await?;
    canary_soaks(world, 10).await?;
    world.production(SHOP, &commit, Phase::Succeeded).await.map(drop)
}

async fn canary_soaks(world: &World<'_>, requests: u64) -> Result<()> {
    let soak = json!({"name": "soak", "soak": {"duration": "2s", "minRequests": requests}});
    world.group("canary", Production, 10, json!([soak])).await
}

async fn move_nodes(world: &World<'_>, group: &str) -> Result<()> {
    let label = format!("{GROUP_LABEL}={group}");
    world.cluster.kubectl(&["label", "node", "node-m1", "node-m2", &label, "--overwrite"]).await.map(drop)
}

/// Waits until just these nodes keep the shop on stable.
async fn keep_stable(world: &World<'_>, wanted: &[&str]) -> Result<()> {
    let nodes: Api<DataplaneNode> = Api::all(world.client.clone());
    until(&format!("{wanted:?} to keep the shop on stable"), LIMIT, || async {
        let all = nodes.list(&ListParams::default()).await?;
        let keeps = |node: &&DataplaneNode| node.spec.keep_stable.iter().any(|unit| unit.name == "shop");
        let kept: Vec<String> = all.iter().filter(keeps).map(ResourceExt::name_any).collect();
        Ok(if kept == wanted { Look::Done(()) } else { Look::NotYet(format!("{kept:?}")) })
    })
    .await
}

async fn an_api_server_that_restarts_changes_nothing(world: &World<'_>) -> Result<()> {
    let commit = world.merge("Sixth shop", &[(ROUTES, Some(&*shop("good-6")))]).await?;
    let rollout = world.entered(SHOP, &commit, "canary").await?;
    world.cluster.restart_api_server().await?;
    let ended = world.production(SHOP, &commit, Phase::Succeeded).await?;
    ensure!(ended.name_any() == rollout.name_any(), "another attempt was made: {}", ended.name_any());
    Ok(())
}

async fn a_git_server_that_is_gone_changes_nothing(world: &World<'_>) -> Result<()> {
    let commit = world.merge("Seventh shop", &[(ROUTES, Some(&*shop("good-7")))]).await?;
    world.entered(SHOP, &commit, "canary").await?;
    world.git.stop()?;
    world.production(SHOP, &commit, Phase::Succeeded).await?;
    repository_says(world, |ready| ready != "True").await?;
    world.git.resume().await?;
    repository_says(world, |ready| ready == "True").await
}

async fn repository_says(world: &World<'_>, is: impl Fn(&str) -> bool) -> Result<()> {
    let repositories: Api<Repository> = Api::namespaced(world.client.clone(), world::TEAM);
    until("the Repository's condition", LIMIT, || async {
        let conditions = repositories.get("edge").await?.status.unwrap_or_default().conditions;
        let ready = conditions.iter().find(|c| c.type_ == "Ready").context("no condition Ready")?;
        Ok(if is(&ready.status) { Look::Done(()) } else { Look::NotYet(format!("{ready:?}")) })
    })
    .await
}

async fn a_commit_that_removes_many_waits_until_it_is_confirmed(world: &World<'_>) -> Result<()> {
    let paths = OTHERS.map(|name| format!("routes/{name}.yaml"));
    let removed: Vec<(&str, Option<&str>)> = paths.iter().map(|path| (path.as_str(), None)).collect();
    for environment in [Staging, Production] {
        let commit = world.git.commit("edge", environment.as_str(), "Close most shops", &removed).await?;
        until("the removal to ask for confirmation", LIMIT, || async {
            let all = world.all_rollouts().await?;
            let asks =
                |r: &&Rollout| r.spec.commit == commit && rollouts::status(r).waiting_for.contains("confirmation");
            let asking = all.iter().filter(asks).count();
            Ok(if asking == OTHERS.len() { Look::Done(()) } else { Look::NotYet(format!("{asking} ask")) })
        })
        .await?;
        for name in OTHERS {
            ensure!(world.assigned("main", name).await?.is_some(), "{name} is gone already");
        }
        let patch = json!({"spec": {"verbs": {"confirmRemoval": commit}}}).to_string();
        let patch = ["patch", "repository.sluice.dev", "edge", "-n", world::TEAM, "--type=merge", "-p", &patch];
        world.cluster.kubectl(&patch).await?;
        for name in OTHERS {
            let title = format!("{name} (routes)");
            world.rollouts.reach(&title, environment, &commit, Phase::Succeeded, LIMIT).await?;
        }
    }
    // Nothing is said of them any more once their absence is stable.
    until("main to be told of the shop alone", LIMIT, || async {
        let left: Vec<String> = world.assignment("main").await?.entries.into_iter().map(|entry| entry.name).collect();
        Ok(if left == ["shop"] { Look::Done(()) } else { Look::NotYet(format!("{left:?} are left")) })
    })
    .await
}

async fn what_runs_outlives_its_repository(world: &World<'_>) -> Result<()> {
    let runs = world.assignment("main").await?.entries;
    world.cluster.kubectl(&["delete", "repository.sluice.dev", "edge", "-n", world::TEAM]).await?;
    // It still looks after what it has: a node's label, for one.
    world.group("late", Production, 30, json!([])).await?;
    until("a group that is made later to get stable", LIMIT, || async {
        let late = world.assigned("late", "shop").await.ok().flatten();
        let same = late.is_some() && late == world.assigned("main", "shop").await?;
        Ok(if same { Look::Done(()) } else { Look::NotYet(format!("{late:?}")) })
    })
    .await?;
    ensure!(world.assignment("main").await?.entries == runs, "main changed");
    Ok(())
}
