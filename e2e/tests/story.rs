//! The demo's story as assertions, and on the same stage what may go wrong besides.
//!
//! What may go wrong comes in one test, because a stage takes half a minute to set up.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::ResourceExt;
use sluice_config::Environment::{Production, Staging};
use sluice_crds::{CauseKind, Phase, Rollout};
use sluice_e2e::{
    demo::{self, Ending},
    parts::upstream,
    rollouts::{self, Rollouts},
    stage::{SHOP, Stage, TEAM},
    wait::{Look, until},
};

const LIMIT: Duration = Duration::from_secs(120);
const HEADERS: &str = "security-headers";
const REQUEST_ID: &str = "request-id";

#[tokio::test]
#[ignore = "needs root and the built tools: `make test` runs it"]
async fn the_story_goes_as_told() -> Result<()> {
    let Ending { stage, figures } = demo::tell("story").await?;
    println!("{}", figures.table());
    for row in figures.missed() {
        // How long something takes is for the demo's table; here only what must never happen counts.
        ensure!(row.unit != "requests", "{}: {} {}", row.name, row.value, row.unit);
    }
    stage.cluster.down().await
}

#[tokio::test]
#[ignore = "needs root and the built tools: `make test-trouble` runs it"]
async fn trouble_on_the_way() -> Result<()> {
    let Ending { stage, .. } = demo::tell("trouble").await?;
    let play = Play { rollouts: Rollouts::of(&stage.cluster, TEAM).await?, stage: &stage };
    play.an_upstream_outage_holds_and_blames_nobody().await?;
    play.a_git_revert_in_the_middle_takes_it_back().await?;
    play.one_broken_unit_holds_up_no_other().await?;
    play.a_revert_survives_the_operator().await?;
    stage.cluster.down().await
}

struct Play<'a> {
    stage: &'a Stage,
    rollouts: Rollouts,
}

impl Play<'_> {
    /// Changes a limit of the worker: another revision that works as well as the last.
    fn harmless_change(&self, worker: &str, wall_ms: u32) -> Result<String> {
        let path = format!("workers/{worker}/worker.yaml");
        let manifest = self.stage.team.read(&path)?;
        let lines = manifest.lines().map(|line| match line.trim_start().starts_with("limits:") {
            true => format!("  limits: {{cpu: 20ms, wall: {wall_ms}ms, memory: 16Mi}}"),
            false => line.to_owned(),
        });
        self.stage.team.write(&path, lines.collect::<Vec<_>>().join("\n") + "\n")?;
        self.stage.team.commit(&format!("Let {worker} take {wall_ms} ms"))
    }

    async fn to_canary(&self, worker: &str, commit: &str) -> Result<Rollout> {
        self.stage.team.merge_to("staging")?;
        self.rollouts.reach(worker, Staging, commit, Phase::Succeeded, LIMIT).await?;
        self.stage.team.merge_to("production")?;
        self.rollouts.enter(worker, Production, commit, "canary", LIMIT).await
    }

    async fn an_upstream_outage_holds_and_blames_nobody(&self) -> Result<()> {
        let clients = demo::Clients::start(self.stage).await?;
        let commit = self.harmless_change(HEADERS, 510)?;
        let rollout = self.to_canary(HEADERS, &commit).await?;
        upstream::set_status(&self.stage.cluster, SHOP, "shop", 500).await?;
        let name = rollout.name_any();
        until("the outage to hold the rollout for longer than its soak", LIMIT, || async {
            let rollout = self.rollouts.get(&name).await?;
            let status = rollouts::status(&rollout);
            ensure!(status.phase == Phase::Progressing, "{name} is {:?}: {}", status.phase, status.message);
            // After the soak's ten seconds only the missing requests can hold it.
            let canary = rollouts::group(&status, "canary")?;
            let soaked = canary.gates.iter().any(|gate| gate.name == "soak" && gate.watched.duration().as_secs() >= 10);
            ensure!(rollouts::group(&status, "early")?.entered_at.is_none(), "{name} went on during the outage");
            Ok(if soaked { Look::Done(()) } else { Look::NotYet(status.waiting_for) })
        })
        .await?;
        upstream::set_status(&self.stage.cluster, SHOP, "shop", 200).await?;
        self.rollouts.reach(HEADERS, Production, &commit, Phase::Succeeded, 3 * LIMIT).await?;
        clients.stop().await?;
        Ok(())
    }

    async fn a_git_revert_in_the_middle_takes_it_back(&self) -> Result<()> {
        let clients = demo::Clients::start(self.stage).await?;
        let commit = self.harmless_change(HEADERS, 520)?;
        let rollout = self.to_canary(HEADERS, &commit).await?;
        self.stage.team.revert()?;
        self.stage.team.merge_to("production")?;
        let reverted = self.ended(&rollout.name_any(), Phase::Reverted).await?;
        let cause = rollouts::status(&reverted).cause;
        ensure!(cause.as_ref().is_some_and(|c| c.kind == CauseKind::HeadReturned), "reverted because of {cause:?}");
        self.stage.team.merge_to("staging")?;
        clients.stop().await?;
        Ok(())
    }

    async fn one_broken_unit_holds_up_no_other(&self) -> Result<()> {
        let clients = demo::Clients::start(self.stage).await?;
        self.stage.team.write(
            "workers/request-id/worker.yaml",
            "apiVersion: sluice.dev/v1alpha1\nkind: Worker\nspec: {wasn: 1}\n",
        )?;
        let commit = self.harmless_change(HEADERS, 530)?;
        self.stage.team.merge_to("staging")?;
        self.rollouts.reach(HEADERS, Staging, &commit, Phase::Succeeded, LIMIT).await?;
        let unit =
            self.stage.cluster.kubectl(&["get", "units.sluice.dev", "-n", TEAM, "request-id-w", "-o", "yaml"]).await?;
        ensure!(unit.contains("workers/request-id/worker.yaml:3:"), "the unit does not name file and line:\n{unit}");
        clients.stop().await?;
        demo::publish_request_id(&self.stage.team)?;
        self.stage.team.commit("Mend request-id")?;
        self.stage.team.merge_to("staging")
    }

    /// The operator dies between the verdict and the last assignment; the other replica finishes.
    async fn a_revert_survives_the_operator(&self) -> Result<()> {
        let clients = demo::Clients::start(self.stage).await?;
        let commit = self.harmless_change(REQUEST_ID, 540)?;
        let rollout = self.to_canary(REQUEST_ID, &commit).await?;
        let name = rollout.name_any();
        let abort = r#"{"spec":{"abort":{"reason":"test","by":"admin"}}}"#;
        self.stage
            .cluster
            .kubectl(&["patch", "rollouts.sluice.dev", "-n", TEAM, &name, "--type=merge", "--patch", abort])
            .await?;
        self.stage.kill_leader().await?;
        self.ended(&name, Phase::Aborted).await?;
        clients.stop().await?;
        Ok(())
    }

    async fn ended(&self, name: &str, phase: Phase) -> Result<Rollout> {
        until(&format!("{name} to be {phase:?}"), LIMIT, || async {
            let rollout = self.rollouts.get(name).await?;
            let status = rollouts::status(&rollout);
            let now = status.phase;
            Ok(if now == phase { Look::Done(rollout) } else { Look::NotYet(format!("{now:?}: {}", status.message)) })
        })
        .await
    }
}
