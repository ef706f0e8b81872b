//! Whatever happens to an operator at whichever of its writes: what is stored in the end is what would have been stored
//! had nothing happened.

use std::time::Instant;

use anyhow::{Result, ensure};
use sluice_e2e::{Cluster, Options, parts::api_proxy::Write};

use crate::{
    rounds::{Change, Deadly, Fault, Rounds, Undisturbed, nth},
    world::World,
};

type IsDeadly = fn(&Write) -> bool;

/// What the operator follows.
const WATCHED: [&str; 13] = [
    "repositories",
    "units",
    "revisions",
    "rollouts",
    "deploymentgroups",
    "assignments",
    "dataplanenodes",
    "nodes",
    "pods",
    "jobs",
    "daemonsets",
    "services",
    "configmaps",
];

#[tokio::test]
async fn an_operator_that_dies_at_a_write_that_matters_ends_where_it_would_have_ended() -> Result<()> {
    on_a_control_plane("crash", async |rounds| {
        let undisturbed = rounds.undisturbed(Change::Revert).await?;
        let mut story = Story::of(&undisturbed);
        let deadly: [(&str, IsDeadly); 3] = [
            ("a group is told", |write| write.resource == "assignments"),
            ("an attempt is in flight", |write| {
                !write.object["spec"]["environments"]["production"]["inFlight"].is_null()
            }),
            ("the verdict", |write| write.object["status"]["phase"] == "Reverting"),
        ];
        for (what, is_deadly) in deadly {
            story.round(rounds, what, Fault::Crash(Box::new(is_deadly))).await;
        }
        ensure!(story.faults == 3, "only {} of 3 faults came to be", story.faults);
        story.end()
    })
    .await
}

#[tokio::test]
#[ignore = "takes a quarter of an hour: `make test-full` runs it"]
async fn every_write_of_a_rollout_and_of_a_revert_may_be_the_last() -> Result<()> {
    on_a_control_plane("crash-every", async |rounds| at_every_write(rounds, Fault::Crash).await).await
}

#[tokio::test]
#[ignore = "takes a quarter of an hour: `make test-full` runs it"]
async fn every_write_may_be_the_last_beside_a_second_operator() -> Result<()> {
    on_a_control_plane("crash-two", async |rounds| at_every_write(rounds, Fault::CrashOfOneOfTwo).await).await
}

#[tokio::test]
#[ignore = "takes a quarter of an hour: `make test-full` runs it"]
async fn every_write_may_be_the_last_before_stale_answers() -> Result<()> {
    on_a_control_plane("crash-stale", async |rounds| at_every_write(rounds, Fault::CrashAndStaleAnswers).await).await
}

#[tokio::test]
#[ignore = "takes a quarter of an hour: `make test-full` runs it"]
async fn every_event_of_a_watch_may_get_lost() -> Result<()> {
    on_a_control_plane("crash-events", async |rounds| {
        for change in [Change::Rollout, Change::Revert] {
            let undisturbed = rounds.undisturbed(change).await?;
            let mut story = Story::of(&undisturbed);
            let events = WATCHED.map(|resource| (resource, rounds.events(resource)));
            println!("{change:?}: {events:?}");
            for (resource, events) in events {
                for number in 1..=events {
                    story.round(rounds, &format!("{resource} {number}"), Fault::LostEvent(resource, number)).await;
                }
            }
            story.end()?;
        }
        Ok(())
    })
    .await
}

async fn on_a_control_plane(name: &str, play: impl AsyncFnOnce(&Rounds<'_>) -> Result<()>) -> Result<()> {
    let cluster = Cluster::up(Options::ephemeral(name, 0)).await?;
    let world = World::on(&cluster).await?;
    let rounds = Rounds::prepare(&world).await.map_err(|error| error.context(world.logs()))?;
    play(&rounds).await.map_err(|error| error.context(world.logs()))?;
    drop(rounds);
    cluster.down().await
}

/// For every n of each change.
async fn at_every_write(rounds: &Rounds<'_>, fault: impl Fn(Deadly) -> Fault) -> Result<()> {
    for change in [Change::Rollout, Change::Revert] {
        let undisturbed = rounds.undisturbed(change).await?;
        let mut story = Story::of(&undisturbed);
        // A run may have a few writes more or less than another: it goes on until two in a row end before theirs.
        let (mut n, mut ended_before) = (0, 0);
        while ended_before < 2 {
            n += 1;
            let what = undisturbed.writes.get(n - 1).map_or_else(|| "one more".to_owned(), ToString::to_string);
            let came = story.round(rounds, &format!("{n}, {what}"), fault(nth(n))).await;
            ended_before = if came { 0 } else { ended_before + 1 };
        }
        story.end()?;
    }
    Ok(())
}

/// What a series of rounds came to.
struct Story<'a> {
    undisturbed: &'a Undisturbed,
    faults: usize,
    rounds: usize,
    failures: Vec<String>,
    began: Instant,
}

impl<'a> Story<'a> {
    fn of(undisturbed: &'a Undisturbed) -> Self {
        Self { undisturbed, faults: 0, rounds: 0, failures: Vec::new(), began: Instant::now() }
    }

    /// Whether the fault came to be; one that ended otherwise did.
    async fn round(&mut self, rounds: &Rounds<'_>, what: &str, fault: Fault) -> bool {
        let began = Instant::now();
        let change = self.undisturbed.change;
        let ended = rounds.play(change, fault, &self.undisturbed.outcome).await;
        let (came, said) = match ended {
            Ok(true) => (true, "the same end".to_owned()),
            Ok(false) => (false, "it ended before that".to_owned()),
            Err(error) => {
                let failure = format!("{change:?}, {what}: {error:#}");
                self.failures.push(failure.clone());
                (true, failure)
            }
        };
        println!("{change:?}, {what}: {said}, {:.1} s", began.elapsed().as_secs_f64());
        self.rounds += 1;
        self.faults += usize::from(came);
        came
    }

    fn end(self) -> Result<()> {
        let Self { undisturbed: Undisturbed { change, writes, .. }, faults, rounds, failures, began } = self;
        let (writes, seconds) = (writes.len(), began.elapsed().as_secs());
        println!("{change:?}: {writes} writes undisturbed; {rounds} rounds, {faults} faults, {seconds} s");
        ensure!(failures.is_empty(), "{} rounds ended otherwise:\n{}", failures.len(), failures.join("\n\n"));
        ensure!(faults > 0, "no fault came to be");
        Ok(())
    }
}
