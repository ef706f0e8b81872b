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
    /// Units in the repository, on nodes that are played.
    #[arg(long, default_value_t = 1000)]
    pub units: usize,
    /// Units in the repository of the dataplanes: they share this machine's cores, and each has to load all of them.
    #[arg(long, default_value_t = 50)]
    pub dataplane_units: usize,
    /// Nodes, shared out among four groups.
    #[arg(long, default_value_t = 20)]
    pub nodes: usize,
    /// Bad changes, each of which goes through all groups and back; so many on played nodes, and on dataplanes.
    #[arg(long, default_value_t = 50)]
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

/// Measures everything, on clusters of its own that are gone afterwards.
pub async fn measure(scale: &Scale) -> Result<Measured> {
    let teller = Teller { start: Instant::now() };
    let mut figures = Figures::new();
    let watchers = on_a_cluster("engine", async |cluster| {
        teller.say("start a control plane, git, and nodes that are played");
        let mut world = World::on(cluster, scale.nodes).await?;
        with_many_units(&mut world, scale, teller, &mut figures).await
    });
    let watchers = watchers.await?;
    on_a_cluster("engine-nodes", async |cluster| {
        teller.say("start another control plane, git, and nodes");
        let mut world = World::on(cluster, scale.nodes).await?;
        with_dataplanes(&mut world, scale, teller, &mut figures).await
    })
    .await?;
    Ok(Measured { figures, watchers })
}

async fn on_a_cluster<T>(name: &str, play: impl AsyncFnOnce(&Cluster) -> Result<T>) -> Result<T> {
    let cluster = Cluster::up(Options::ephemeral(name, 0)).await?;
    let played = play(&cluster).await.map_err(|error| error.context(world::logs(&cluster)))?;
    cluster.down().await?;
    Ok(played)
}

async fn with_many_units(
    world: &mut World<'_>,
    scale: &Scale,
    teller: Teller,
    figures: &mut Figures,
) -> Result<String> {
    let units = scale.units;
    teller.say(&format!("cold reconcile of {units} units over {} groups", world::GROUPS.len()));
    cold::measure(world, units, figures).await.context("cold reconcile")?;
    world.set_gates().await?;
    world.restart_through_proxy().await?;
    let watched = Duration::from_secs(scale.steady_seconds);
    teller.say(&format!("nothing happens for {} s", watched.as_secs()));
    steady::measure(world, watched, figures).await.context("steady state")?;
    teller.say("one push changes one unit");
    change::measure(world, figures).await.context("one push")?;
    world.restart().await?;
    teller.say(&format!("{} bad changes go through all groups and back", scale.rounds));
    let rounds = rounds::play_all(world, scale.rounds).await.context("rounds")?;
    rounds::tell(&rounds, &format!("{units} units"), false, figures);
    teller.say("simulated watchers of Assignments");
    world.stop_all()?;
    watchers::measure(world, &scale.watchers, figures).await.context("watchers")
}

async fn with_dataplanes(world: &mut World<'_>, scale: &Scale, teller: Teller, figures: &mut Figures) -> Result<()> {
    cold::reconcile(world, scale.dataplane_units).await.context("the first release")?;
    world.set_gates().await?;
    teller.say(&format!("start {} dataplanes in place of the played ones", scale.nodes));
    world.start_dataplanes().await?;
    teller.say(&format!("{} bad changes go through all groups and back", scale.rounds));
    let rounds = rounds::play_all(world, scale.rounds).await.context("rounds")?;
    rounds::tell(&rounds, &format!("{} dataplanes", scale.nodes), true, figures);
    Ok(())
}
