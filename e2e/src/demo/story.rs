//! The story in four acts.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::ResourceExt;
use sluice_config::Environment::{self, Production, Staging};
use sluice_crds::{Phase, Rollout};

use super::{
    clients::Clients,
    measure::{self, Record},
    scenery::{self, Version, publish_headers, publish_request_id, publish_route},
    watch::Watch,
};
use crate::{
    Options,
    figures::Figures,
    rollouts::{self, Rollouts},
    stage::{Stage, TEAM},
    wait::{Look, until},
};

/// Through one group of the demo, with room for a slow machine.
const GROUP_LIMIT: Duration = Duration::from_secs(90);

/// How the demo ended.
#[derive(Debug)]
pub struct Ending {
    /// The stage, still up.
    pub stage: Stage,
    /// What was measured.
    pub figures: Figures,
}

struct Teller {
    start: Instant,
}

impl Teller {
    fn say(&self, text: &str) {
        println!("[{:6.1} s] {text}", self.start.elapsed().as_secs_f64());
    }

    fn act(&self, title: &str) {
        println!();
        self.say(title);
    }
}

struct Play<'a> {
    stage: &'a Stage,
    rollouts: Rollouts,
    clients: &'a Clients,
    teller: &'a Teller,
}

/// Tells the whole story on a cluster of that name, which it replaces and leaves up.
pub async fn tell(name: &str) -> Result<Ending> {
    let teller = Teller { start: Instant::now() };
    teller.act("Setting the stage");
    crate::cluster::down(name).await?;
    let groups = scenery::groups();
    let nodes = u8::try_from(groups.len())?;
    let stage = Stage::set_up(Options::new(name, nodes), groups, &|text| teller.say(text)).await?;
    teller.say("start steady client traffic to every group");
    let clients = Clients::start(&stage).await?;
    let start = teller.start;
    let watch = Watch::start(&stage.cluster, move |line| {
        println!("[{:6.1} s]     {line}", start.elapsed().as_secs_f64());
    })
    .await?;
    let rollouts = Rollouts::of(&stage.cluster, TEAM).await?;
    let play = Play { stage: &stage, rollouts, clients: &clients, teller: &teller };
    let (pushed, good) = play.act_one().await?;
    let (bad, bad_reverted) = play.act_two().await?;
    play.act_three().await?;
    drop(watch);
    let seen = clients.stop().await?;
    teller.act("What `kubectl get rollouts` says now");
    println!("{}", stage.cluster.kubectl(&["get", "rollouts.sluice.dev", "-n", TEAM]).await?);
    let strangers = measure::strangers(&seen);
    for answer in &strangers {
        teller.say(&format!("failed, and not by the bad worker: {answer}"));
    }
    for group in strangers.iter().map(|answer| answer.group.as_str()).collect::<BTreeSet<_>>() {
        println!("The dataplane of {group} logged:\n{}", stage.trouble(group).await?);
    }
    let figures = measure::figures(&Record { pushed, good, bad, bad_reverted }, &seen)?;
    Ok(Ending { stage, figures })
}

impl Play<'_> {
    /// Everything good: a route and two workers go all the way, though the operator is killed in the middle.
    async fn act_one(&self) -> Result<([Timestamp; 2], Rollout)> {
        self.teller.act("Act 1: the first release, a route and two workers at once");
        publish_route(&self.stage.team)?;
        publish_request_id(&self.stage.team)?;
        publish_headers(&self.stage.team, Version::V1)?;
        let commit = self.stage.team.commit("Route the shop through security-headers v1 and request-id")?;
        let staged = self.merge("staging")?;
        for unit in ["shop (routes)", "request-id", "security-headers"] {
            self.reach(unit, Staging, &commit, Phase::Succeeded, 1).await?;
        }
        let merged = self.merge("production")?;
        self.rollouts.enter("security-headers", Production, &commit, "canary", 2 * GROUP_LIMIT).await?;
        let killed = self.stage.kill_leader().await?;
        self.teller.say(&format!("kill -9 of the operator that leads, {killed}, in the middle of canary"));
        let good = self.reach("security-headers", Production, &commit, Phase::Succeeded, 4).await?;
        for unit in ["shop (routes)", "request-id"] {
            self.reach(unit, Production, &commit, Phase::Succeeded, 4).await?;
        }
        self.runs_everywhere(Version::V1).await?;
        Ok(([staged, merged], good))
    }

    /// v2 passes staging, where nobody goes to the checkout; canary's customers do.
    async fn act_two(&self) -> Result<(Rollout, Timestamp)> {
        self.teller.act("Act 2: v2 answers 500 at the checkout, where no test goes");
        publish_headers(&self.stage.team, Version::V2)?;
        let commit = self.stage.team.commit("security-headers v2")?;
        self.merge("staging")?;
        self.reach("security-headers", Staging, &commit, Phase::Succeeded, 1).await?;
        self.merge("production")?;
        let bad = self.reach("security-headers", Production, &commit, Phase::Reverted, 4).await?;
        let reverted = Timestamp::now();
        let status = rollouts::status(&bad);
        ensure!(status.group.contains("canary"), "v2 was to be caught in canary, but was in {}", status.group);
        for group in ["early", "main"] {
            let progress = rollouts::group(&status, group)?;
            ensure!(progress.entered_at.is_none(), "v2 reached {group}");
        }
        self.runs_everywhere(Version::V1).await?;
        self.teller.say("`kubectl describe rollout` of it:");
        println!(
            "{}",
            self.stage.cluster.kubectl(&["describe", "rollouts.sluice.dev", "-n", TEAM, &bad.name_any()]).await?
        );
        Ok((bad, reverted))
    }

    /// v3 is fine.
    async fn act_three(&self) -> Result<()> {
        self.teller.act("Act 3: v3 is fine");
        publish_headers(&self.stage.team, Version::V3)?;
        let commit = self.stage.team.commit("security-headers v3")?;
        self.merge("staging")?;
        self.reach("security-headers", Staging, &commit, Phase::Succeeded, 1).await?;
        self.merge("production")?;
        self.reach("security-headers", Production, &commit, Phase::Succeeded, 4).await?;
        self.runs_everywhere(Version::V3).await
    }

    fn merge(&self, branch: &str) -> Result<Timestamp> {
        self.stage.team.merge_to(branch)?;
        self.teller.say(&format!("git push: merged to {branch}"));
        Ok(Timestamp::now())
    }

    async fn reach(&self, unit: &str, env: Environment, commit: &str, phase: Phase, groups: u32) -> Result<Rollout> {
        self.rollouts.reach(unit, env, commit, phase, groups * GROUP_LIMIT).await
    }

    /// Waits until the newest answers of every production group are by this version.
    async fn runs_everywhere(&self, version: Version) -> Result<()> {
        let since = Timestamp::now();
        for group in self.stage.groups.iter().filter(|group| group.environment == "production") {
            until(&format!("answers by {} from {}", version.name(), group.name), GROUP_LIMIT, || async {
                let seen = self.clients.seen();
                let newest =
                    seen.answers().iter().filter(|a| a.group == group.name && a.sent > since).max_by_key(|a| a.sent);
                let worker = newest.map(|answer| answer.worker.clone().context("no worker marked the answer"));
                Ok(match worker {
                    Some(Ok(worker)) if worker == version.mark() => Look::Done(()),
                    Some(Ok(worker)) => Look::NotYet(format!("{worker} answers")),
                    Some(Err(error)) => Look::NotYet(error.to_string()),
                    None => Look::NotYet("no answer yet".to_owned()),
                })
            })
            .await?;
        }
        self.teller.say(&format!("every production group answers with {}", version.name()));
        Ok(())
    }
}
