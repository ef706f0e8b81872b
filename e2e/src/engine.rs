//! The figures of the rollout engine: a real API server, git over HTTP, the operator and twenty dataplanes as processes
//! on this machine, 1,000 units. Each file below measures one thing; docs/benchmarks.md says what from and to.

mod change;
mod cold;
mod nodes;
mod numbers;
mod rounds;
mod sights;
mod steady;
mod units;
mod usage;
mod watchers;
mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use self::world::World;
use crate::{Cluster, Options, figures::Figures};

/// How much is measured.
#[derive(Args, Clone, Debug)]
pub struct Scale {
    /// Units in the repository.
    #[arg(long, default_value_t = 1000)]
    pub units: usize,
    /// Dataplane processes, shared out among four groups.
    #[arg(long, default_value_t = 20)]
    pub nodes: usize,
    /// Bad changes, each of which goes through all groups and back.
    #[arg(long, default_value_t = 100)]
    pub rounds: usize,
    /// Seconds in which nothing is to be written.
    #[arg(long, default_value_t = 60)]
    pub steady_seconds: u64,
    /// Numbers of simulated watchers.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
    pub watchers: Vec<usize>,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// All of it.
    pub figures: Figures,
    /// What the API server had to do for watchers, as a table of its own.
    pub watchers: String,
}

/// Says what goes on.
#[derive(Clone, Copy, Debug)]
struct Teller {
    start: Instant,
}

impl Teller {
    fn say(self, text: &str) {
        println!("[{:6.1} s] {text}", self.start.elapsed().as_secs_f64());
    }
}

/// Measures everything, on a cluster of its own that is gone afterwards.
pub async fn measure(scale: &Scale) -> Result<Measured> {
    let teller = Teller { start: Instant::now() };
    teller.say("start a control plane, git, and nodes that are played");
    let cluster = Cluster::up(Options::ephemeral("engine", 0)).await?;
    let measured = match World::on(&cluster, scale).await {
        Ok(mut world) => all(&mut world, scale, teller).await,
        Err(error) => Err(error),
    };
    let measured = measured.map_err(|error| error.context(world::logs(&cluster)))?;
    cluster.down().await?;
    Ok(measured)
}

async fn all(world: &mut World<'_>, scale: &Scale, teller: Teller) -> Result<Measured> {
    let mut figures = Figures::new();
    teller.say(&format!("cold reconcile of {} units over {} groups", scale.units, world::GROUPS.len()));
    cold::measure(world, scale, &mut figures).await.context("cold reconcile")?;
    teller.say(&format!("start {} dataplanes in place of the played ones", scale.nodes));
    world.start_dataplanes().await?;
    world.restart_through_proxy().await?;
    let watched = Duration::from_secs(scale.steady_seconds);
    teller.say(&format!("nothing happens for {} s", watched.as_secs()));
    steady::measure(world, watched, &mut figures).await.context("steady state")?;
    teller.say("one push changes one unit");
    change::measure(world, &mut figures).await.context("one push")?;
    world.restart().await?;
    teller.say(&format!("{} bad changes go through all groups and back", scale.rounds));
    rounds::measure(world, scale.rounds, &mut figures).await.context("rounds")?;
    teller.say("simulated watchers of Assignments");
    world.stop_all()?;
    let watchers = watchers::measure(world, &scale.watchers, &mut figures).await.context("watchers")?;
    Ok(Measured { figures, watchers })
}
