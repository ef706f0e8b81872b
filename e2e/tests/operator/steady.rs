//! A cluster in which nothing happens: nothing may be written to it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_config::Environment::{Production, Staging};
use sluice_crds::Phase;
use sluice_e2e::{
    Cluster, Options,
    wait::{Look, until},
};

use crate::{
    fleet::Fleet,
    world::{World, shop},
};

const UNITS: usize = 50;
const WATCHED: Duration = Duration::from_secs(600);
const POLLS: &str = "sluice_operator_polls_total";

#[tokio::test]
#[ignore = "takes ten minutes: `make test-steady` runs it"]
async fn steady_state_writes_nothing_but_leases() -> Result<()> {
    let mut options = Options::ephemeral("steady", 0);
    options.audit = true;
    let cluster = Cluster::up(options).await?;
    let world = World::on(&cluster).await?;
    play(&world).await.map_err(|error| error.context(world.logs()))?;
    cluster.down().await
}

async fn play(world: &World<'_>) -> Result<()> {
    world.group("staging", Staging, 0, json!([])).await?;
    world.group("main", Production, 10, json!([])).await?;
    let _fleet = Fleet::start(&world.client, &[("node-s", "staging"), ("node-m", "main")]).await?;
    // Either may lead, and only the one that does asks git.
    let (a, b) = (world.start_operator("operator-a", "one")?, world.start_operator("operator-b", "one")?);
    let files: Vec<(String, String)> = (0..UNITS).map(route).collect();
    let files: Vec<(&str, Option<&str>)> =
        files.iter().map(|(path, text)| (path.as_str(), Some(text.as_str()))).collect();
    let commit = world.merge("Fifty shops", &files).await?;
    world.follow_repository("None").await?;
    for number in 0..UNITS {
        world.production(&format!("shop-{number} (routes)"), &commit, Phase::Succeeded).await?;
    }
    settled(world).await?;
    let polls = async || anyhow::Ok(a.sum(POLLS).await? + b.sum(POLLS).await?);
    let (before, polled_before) = (world.writes()?.len(), polls().await?);
    let began = Instant::now();
    until("ten minutes to pass", WATCHED * 2, || async {
        let writes = world.writes()?;
        ensure!(writes.len() == before, "written although nothing happened: {:?}", &writes[before..]);
        let passed = began.elapsed();
        Ok(if passed >= WATCHED { Look::Done(()) } else { Look::NotYet(format!("{} s", passed.as_secs())) })
    })
    .await?;
    let polled = polls().await? - polled_before;
    ensure!(polled >= 60.0, "git was asked only {polled} times");
    println!("{} s, {UNITS} units, git asked {polled} times: no write but Leases", WATCHED.as_secs());
    Ok(())
}

fn route(number: usize) -> (String, String) {
    let text = shop("good").replace("name: shop", &format!("name: shop-{number}"));
    (format!("routes/shop-{number}.yaml"), text.replace("shop.example", &format!("shop-{number}.example")))
}

/// Waits until the last statuses are written: what is paced is written at most 15 s later.
async fn settled(world: &World<'_>) -> Result<()> {
    let mut last = (world.writes()?.len(), Instant::now());
    until("writes to end", Duration::from_secs(120), || {
        let writes = world.writes().map(|writes| writes.len());
        let quiet = writes.map(|writes| {
            if writes != last.0 {
                last = (writes, Instant::now());
            }
            last.1.elapsed()
        });
        async move {
            let quiet = quiet?;
            Ok(if quiet > Duration::from_secs(20) { Look::Done(()) } else { Look::NotYet(format!("{quiet:?}")) })
        }
    })
    .await
}
