//! The demo's story as assertions, and on the same stage what may go wrong besides.
//!
//! All in one test, because a stage takes half a minute to set up and the story is where all of it begins.

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;
use sluice_config::Environment::{Production, Staging};
use sluice_crds::{CauseKind, Phase, Rollout, Verdict};
use sluice_e2e::{
    demo::{self, Ending},
    parts::{git_server::GitServer, prometheus::Prometheus, upstream},
    pods,
    rollouts::{self, Rollouts},
    stage::{SHOP, Stage, TEAM},
    wait::{Look, until},
};

const LIMIT: Duration = Duration::from_secs(120);
const HEADERS: &str = "security-headers";
const REQUEST_ID: &str = "request-id";
const DATAPLANE: &str = "sluice-dataplane";
/// Every group's soak after the demo's story, whose ten seconds are there to be watched.
const SOAK_SECONDS: u64 = 5;
/// Where a node keeps what it needs to start without anybody.
const NODE_CACHE: &str = "/var/lib/sluice";

#[tokio::test]
#[ignore = "needs root and the built tools: `make test` runs it"]
async fn the_story_goes_as_told_and_trouble_does_not_change_its_end() -> Result<()> {
    let Ending { stage, figures } = demo::tell("story").await?;
    println!("{}", figures.table());
    for row in figures.missed() {
        // How long something takes is for the demo's table; here only what must never happen counts.
        ensure!(row.unit != "requests", "{}: {} {}", row.name, row.value, row.unit);
    }
    let play = Play { rollouts: Rollouts::of(&stage.cluster, TEAM).await?, stage: &stage };
    play.a_new_dataplane_goes_group_by_group().await?;
    play.groups_get_shorter_soaks().await?;
    play.a_full_disk_and_an_outage_hold_and_blame_nobody().await?;
    play.all_around_it_fails_at_once().await?;
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

    /// `helm upgrade` replaces the pods of one group after another's, lowest impact first.
    async fn a_new_dataplane_goes_group_by_group(&self) -> Result<()> {
        // A cache that a test can fill without filling the machine.
        let values = ["dataplane.minReadySeconds=2", "dataplane.cacheMedium=Memory", "dataplane.cacheSizeLimit=16Mi"];
        self.stage.helm("upgrade", &values).await?;
        let mut before: Option<(Timestamp, &str)> = None;
        for group in &self.stage.groups {
            let name = group.name;
            let pod = until(&format!("the new dataplane in {name}"), LIMIT, || async {
                let pod = self.stage.dataplane_pod(name).await?;
                let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
                let mut media = volumes.filter_map(|volume| volume.empty_dir.as_ref()?.medium.as_deref());
                let is_new = media.any(|medium| medium == "Memory");
                Ok(if is_new { Look::Done(pod) } else { Look::NotYet(format!("{} is old", pod.name_any())) })
            })
            .await?;
            let created = pod.creation_timestamp().context("a pod was created at some time")?.0;
            if let Some((earlier, other)) = before {
                ensure!(created > earlier, "{name} got the new dataplane before {other}");
            }
            before = Some((created, name));
        }
        for row in self.stage.cluster.kubectl(&["get", "dg", "--no-headers"]).await?.lines() {
            ensure!(row.contains("1/1"), "a group is without its node: {row}");
        }
        Ok(())
    }

    async fn groups_get_shorter_soaks(&self) -> Result<()> {
        let mut groups = self.stage.groups.clone();
        for gate in groups.iter_mut().filter_map(|group| group.gates.as_array_mut()).flatten() {
            if gate["soak"].is_object() {
                gate["soak"] = json!({"duration": format!("{SOAK_SECONDS}s"), "minRequests": 50});
            }
        }
        self.stage.apply_groups(&groups).await
    }

    /// Both hold a release in canary, say so, and let it go on when they are over.
    async fn a_full_disk_and_an_outage_hold_and_blame_nobody(&self) -> Result<()> {
        let clients = demo::Clients::start(self.stage).await?;
        let full = self.fill_disk("canary").await?;
        let commit = self.harmless_change(HEADERS, 510)?;
        let name = self.to_canary(HEADERS, &commit).await?.name_any();
        until("the full disk to hold it", LIMIT, || async {
            let waiting = rollouts::status(&self.rollouts.get(&name).await?).waiting_for;
            let told = waiting.contains("No space left on device");
            Ok(if told { Look::Done(()) } else { Look::NotYet(waiting) })
        })
        .await?;
        upstream::set_status(&self.stage.cluster, SHOP, "shop", 500).await?;
        std::fs::remove_file(&full)?;
        until("the outage to hold it for longer than its soak", LIMIT, || async {
            let rollout = self.rollouts.get(&name).await?;
            let status = rollouts::status(&rollout);
            ensure!(status.phase == Phase::Progressing, "{name} is {:?}: {}", status.phase, status.message);
            // After the soak's time only the missing requests can hold it.
            let canary = rollouts::group(&status, "canary")?;
            let watched = canary.gates.iter().filter(|gate| gate.name == "soak").map(|gate| gate.watched.duration());
            let soaked = watched.max().is_some_and(|watched| watched.as_secs() >= SOAK_SECONDS);
            ensure!(rollouts::group(&status, "early")?.entered_at.is_none(), "{name} went on during the outage");
            Ok(if soaked { Look::Done(()) } else { Look::NotYet(status.waiting_for) })
        })
        .await?;
        upstream::set_status(&self.stage.cluster, SHOP, "shop", 200).await?;
        self.rollouts.reach(HEADERS, Production, &commit, Phase::Succeeded, 3 * LIMIT).await?;
        clients.stop().await?;
        Ok(())
    }

    /// Leaves no byte of a node's cache free. Returns the file that takes them.
    async fn fill_disk(&self, group: &str) -> Result<PathBuf> {
        let uid = self.stage.dataplane_pod(group).await?.uid().context("a pod has a UID")?;
        let cache = pods::path_inside(&uid, DATAPLANE, NODE_CACHE)?;
        // Compiled code would give way to what cannot be made again.
        for code in std::fs::read_dir(cache.join("compiled"))? {
            std::fs::remove_file(code?.path())?;
        }
        let path = cache.join("full");
        let mut file = std::fs::File::create(&path)?;
        let zeros = vec![0; 64 << 10];
        for size in [zeros.len(), 1] {
            while file.write_all(&zeros[..size]).is_ok() {}
        }
        Ok(path)
    }

    /// Git, Prometheus and the API server go down while canary's node is killed in the middle of its swap.
    async fn all_around_it_fails_at_once(&self) -> Result<()> {
        let cluster = &self.stage.cluster;
        let (git, prometheus) = (GitServer::start(cluster).await?, Prometheus::start(cluster).await?);
        let clients = demo::Clients::start(self.stage).await?;
        let canary = self.stage.dataplane_pod("canary").await?;
        let commit = self.harmless_change(HEADERS, 515)?;
        let rollout = self.to_canary(HEADERS, &commit).await?;
        pods::kill_program(&canary.uid().context("a pod has a UID")?, DATAPLANE)?;
        git.stop()?;
        prometheus.stop()?;
        cluster.restart_api_server().await?;
        let name = rollout.name_any();
        until("the missing Prometheus to hold it in canary", LIMIT, || async {
            let status = rollouts::status(&self.rollouts.get(&name).await?);
            ensure!(status.phase == Phase::Progressing, "{name} is {:?}: {}", status.phase, status.message);
            let canary = rollouts::group(&status, "canary")?;
            let passed = |gate: &str| canary.gates.iter().any(|g| g.name == gate && g.verdict == Verdict::Pass);
            let alone = passed("errors") && passed("soak") && status.waiting_for.contains("latency");
            ensure!(rollouts::group(&status, "early")?.entered_at.is_none(), "{name} went on without Prometheus");
            Ok(if alone { Look::Done(()) } else { Look::NotYet(status.waiting_for) })
        })
        .await?;
        prometheus.resume().await?;
        git.resume().await?;
        let ended = self.rollouts.reach(HEADERS, Production, &commit, Phase::Succeeded, 3 * LIMIT).await?;
        ensure!(ended.name_any() == name, "another attempt was made: {}", ended.name_any());
        let seen = clients.stop().await?;
        let strangers: Vec<_> = seen.failed().filter(|answer| answer.group != "canary").collect();
        let first = strangers.first().map(ToString::to_string).unwrap_or_default();
        ensure!(strangers.is_empty(), "{} requests failed where nothing was killed: {first}", strangers.len());
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
