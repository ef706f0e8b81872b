//! What git is told of rollouts.

use std::process::Command;

use anyhow::{Result, bail, ensure};
use kube::{Api, ResourceExt};
use serde_json::json;
use sluice_config::Environment::Production;
use sluice_crds::{Phase, Unit};
use sluice_e2e::{
    Cluster, Options, run,
    wait::{Look, until},
};

use crate::{
    fleet::Fleet,
    provider::{PAGE, Provider, Pull, TOKEN, Told},
    world::{LIMIT, TEAM, World, shop},
};

const SHOP: &str = "shop (routes)";
const REPOSITORY: &str = "team/edge";

#[tokio::test]
async fn git_is_told_how_rollouts_go() -> Result<()> {
    let cluster = Cluster::up(Options::ephemeral("told", 0)).await?;
    let world = World::on(&cluster).await?;
    play(&world).await.map_err(|error| error.context(world.logs()))?;
    cluster.down().await
}

async fn play(world: &World<'_>) -> Result<()> {
    let provider = Provider::start(world.cluster.bridge_ip()?.into()).await?;
    provider.refuse(true);
    let errors = json!({"name": "errors", "preset": {"errorRate": {"max": "1%", "minRequests": 100}}});
    world.group("main", Production, 10, json!([errors])).await?;
    let _fleet = Fleet::start(&world.client, &[("node-1", "main")]).await?;
    world.git.create(REPOSITORY)?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "provider", "namespace": TEAM},
        "stringData": {"token": TOKEN}});
    world.cluster.apply(&secret).await?;
    let repository = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Repository",
        "metadata": {"name": "edge", "namespace": TEAM},
        "spec": {"url": world.git.url(REPOSITORY), "interval": "1s", "stagingEvidence": "None",
            "commitStatus": {"provider": "Gitea", "api": provider.api(), "secretRef": {"name": "provider"},
                "revertPullRequest": true}}});
    world.cluster.apply(&repository).await?;
    world.start_operator("operator-a", "one")?;

    // A provider that refuses holds nothing up, and whoever looks sees why.
    let first = commit(world, "good-1").await?;
    let rollout = world.production(SHOP, &first, Phase::Succeeded).await?;
    let name = rollout.name_any();
    let says = "answers 401 ({}): see that the token in the Secret is in force";
    world
        .until("to say that git is not told", &name, |status| {
            status
                .conditions
                .iter()
                .any(|c| c.type_ == "CommitStatus" && c.status == "False" && c.message.contains(says))
        })
        .await?;
    ensure!(provider.told(&first).is_empty());
    provider.refuse(false);
    let told = told(&provider, &first, "success").await?;
    ensure!(told.context == "sluice/production/routes/shop" && told.description == "passed 1 of 1 groups", "{told:?}");

    // A bad one is told with its evidence, when the verdict is there.
    let second = commit(world, "bad").await?;
    let ended = world.production(SHOP, &second, Phase::Reverted).await?;
    let failed = self::told(&provider, &second, "failure").await?;
    ensure!(failed.description.starts_with("1/1 main: errors: ") && failed.description.contains("> 1%"), "{failed:?}");

    let taken_back = a_revert_is_proposed(world, &provider, &ended.name_any()).await?;

    // Nobody is told twice, by no operator.
    world
        .until("to be told to the end", &ended.name_any(), |status| {
            status.conditions.iter().any(|c| c.type_ == "CommitStatus" && c.status == "True" && c.reason == "Reverted")
        })
        .await?;
    let before = (provider.told(&first), provider.told(&second));
    world.kill_operator("operator-a")?;
    world.start_operator("operator-b", "one")?;
    let third = commit(world, "good-3").await?;
    world.production(SHOP, &third, Phase::Succeeded).await?;
    self::told(&provider, &third, "success").await?;
    ensure!((provider.told(&first), provider.told(&second)) == before, "told again");
    ensure!(provider.pulls() == [taken_back], "proposed again");
    Ok(())
}

/// What was rejected is still in the branch: a pull request has the files as they were, and to merge it is all there is
/// to do.
async fn a_revert_is_proposed(world: &World<'_>, provider: &Provider, rollout: &str) -> Result<Pull> {
    world
        .until("to say where it is proposed to take it out", rollout, |status| {
            status.conditions.iter().any(|c| c.type_ == "RevertPullRequest" && c.status == "True" && c.message == PAGE)
        })
        .await?;
    let pulls = provider.pulls();
    let [pull] = &pulls[..] else { bail!("{pulls:?}") };
    ensure!(
        (pull.head.as_str(), pull.base.as_str()) == (&*format!("sluice/revert-{rollout}"), "production"),
        "{pull:?}"
    );
    ensure!(pull.title.starts_with(&format!("Take {SHOP} back")) && pull.body.contains("> 1%"), "{pull:?}");
    let repository = world.git.repository(REPOSITORY);
    let git = |arguments: &[&str]| run::output(Command::new("git").arg("-C").arg(&repository).args(arguments));
    let proposed = git(&["show", &format!("{}:routes/shop.yaml", pull.head)])?;
    ensure!(proposed.trim() == shop("good-1").trim(), "{proposed}");
    ensure!(git(&["diff", "--name-only", "production", &pull.head])?.trim() == "routes/shop.yaml", "more is changed");
    git(&["fsck", "--strict"])?;
    git(&["update-ref", "refs/heads/production", &pull.head])?;
    let merged = git(&["rev-parse", &pull.head])?.trim().to_owned();
    until("the branch to want what is stable", LIMIT, || async {
        let unit = Api::<Unit>::namespaced(world.client.clone(), TEAM).get("shop-r").await?;
        let memory = unit.spec.environments.of(Production);
        let (head, stable) = (memory.head.as_ref(), memory.stable.as_ref());
        let is_back = head.is_some_and(|head| Some(&head.digest) == stable.map(|stable| &stable.digest));
        Ok(if is_back && head.is_some_and(|head| head.commit == merged) {
            Look::Done(())
        } else {
            Look::NotYet(format!("{head:?}"))
        })
    })
    .await?;
    Ok(pull.clone())
}

async fn commit(world: &World<'_>, host: &str) -> Result<String> {
    let text = shop(host);
    world.git.commit(REPOSITORY, "production", host, &[("routes/shop.yaml", Some(text.as_str()))]).await
}

/// Waits until the last that was told of a commit is this.
async fn told(provider: &Provider, commit: &str, state: &str) -> Result<Told> {
    until(&format!("{commit} to be told {state}"), LIMIT, || async {
        let told = provider.told(commit);
        Ok(match told.last() {
            Some(last) if last.state == state => Look::Done(last.clone()),
            _ => Look::NotYet(format!("{told:?}")),
        })
    })
    .await
}
