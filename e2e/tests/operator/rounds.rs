//! Rounds of one change each, from the same beginning, with one fault a round: an operator behind a proxy, nodes that
//! are played, one unit that goes through staging and two groups of production.

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kube::{Api, api::ListParams};
use serde_json::json;
use sluice_config::Environment::{Production, Staging};
use sluice_crds::{Phase, Unit};
use sluice_e2e::{
    parts::api_proxy::{ApiProxy, Write},
    run,
    wait::{Look, until},
};

use crate::{
    base::{Base, nodes_follow},
    fleet::Fleet,
    outcome::{self, Outcome, differences},
    world::{LIMIT, World, shop},
};

const REPOSITORY: &str = "edge";
const SHOP: &str = "shop (routes)";
const ROUTES: &str = "routes/shop.yaml";
/// Two polls of git and more: what a settled operator would still do, it does within that.
const QUIET: Duration = Duration::from_millis(2500);
/// So long an operator that begins anew sees the past.
const LAG: Duration = Duration::from_millis(1500);
/// So many writes back that past is.
const LAG_WRITES: usize = 4;

/// What is pushed to both branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A good version, which goes through every group.
    Rollout,
    /// A bad one, which the last group's gate finds: everything goes back.
    Revert,
}

/// Says of a write whether the operator dies after it.
pub(crate) type Deadly = Box<dyn FnMut(&Write) -> bool + Send>;

/// What goes wrong in a round.
pub(crate) enum Fault {
    /// The operator is killed after a write, before it hears of it, and started again.
    Crash(Deadly),
    /// The same beside another operator, which leads at the same time and lives on.
    CrashOfOneOfTwo(Deadly),
    /// The same, and the one that is started again sees an older cluster for a while.
    CrashAndStaleAnswers(Deadly),
    /// A watch loses an event of a resource.
    LostEvent(&'static str, usize),
}

/// The n-th write, counted from 1.
pub(crate) fn nth(n: usize) -> Deadly {
    let mut writes = 0;
    Box::new(move |_| {
        writes += 1;
        writes == n
    })
}

/// An operator's place: its proxy and its lease.
struct Seat {
    name: &'static str,
    lease: &'static str,
    proxy: ApiProxy,
    kubeconfig: PathBuf,
}

impl Seat {
    async fn new(world: &World<'_>, name: &'static str, lease: &'static str) -> Result<Self> {
        let proxy = world.proxy().await?;
        let kubeconfig = proxy.kubeconfig(&world.cluster.folder()?.join(format!("{name}.kubeconfig")))?;
        Ok(Self { name, lease, proxy, kubeconfig })
    }
}

/// Where rounds are played.
pub(crate) struct Rounds<'a> {
    world: &'a World<'a>,
    seat: Seat,
    other: Seat,
    good: String,
    bad: String,
    base: Base,
    /// Version of the cluster when the last round began.
    began: AtomicU64,
    _fleet: Fleet,
}

impl<'a> Rounds<'a> {
    /// Deploys the first version; each round begins there.
    pub(crate) async fn prepare(world: &'a World<'a>) -> Result<Self> {
        let check = json!({"name": "e2e", "job": {"image": "x", "command": ["true"], "timeout": "60s"}});
        let soak = json!({"name": "soak", "soak": {"duration": "1s", "minRequests": 50}});
        let errors = json!({"name": "errors", "preset": {"errorRate": {"max": "1%", "minRequests": 100}}});
        world.group("staging", Staging, 0, json!([check])).await?;
        world.group("canary", Production, 10, json!([soak])).await?;
        world.group("main", Production, 20, json!([errors])).await?;
        let nodes = [("node-s", "staging"), ("node-c", "canary"), ("node-m", "main")];
        let fleet = Fleet::start(&world.client, &nodes).await?;
        let commit = async |branch: &str, host: &str| {
            world
                .git
                .commit(REPOSITORY, branch, &format!("The shop is at {host}"), &[(ROUTES, Some(&shop(host)))])
                .await
        };
        let first = commit("staging", "good-1").await?;
        let (good, bad) = (commit("good", "good-2").await?, commit("bad", "bad").await?);
        point(world, &first)?;
        let (seat, other) =
            (Seat::new(world, "operator-a", "one").await?, Seat::new(world, "operator-b", "two").await?);
        world.follow_repository("InCluster").await?;
        world.start_operator_at(seat.name, seat.lease, &seat.kubeconfig)?;
        world.production(SHOP, &first, Phase::Succeeded).await?;
        quiet(world, &seat.proxy).await?;
        world.kill_operator(seat.name)?;
        let base = Base::keep(&world.client).await?;
        Ok(Self { world, seat, other, good, bad, base, began: AtomicU64::default(), _fleet: fleet })
    }

    /// What the change leaves behind when nothing goes wrong, and the writes and events on the way.
    pub(crate) async fn undisturbed(&self, change: Change) -> Result<Undisturbed> {
        self.begin(change).await?;
        self.start(&self.seat)?;
        let phase = match change {
            Change::Rollout => Phase::Succeeded,
            Change::Revert => Phase::Reverted,
        };
        let commit = self.commit(change);
        self.world.rollouts.reach(SHOP, Staging, commit, Phase::Succeeded, LIMIT).await?;
        let rollout = self.world.production(SHOP, commit, phase).await?;
        let groups = rollout.status.map(|status| status.groups).unwrap_or_default();
        ensure!(groups.iter().all(|group| group.entered_at.is_some()), "it was not in every group: {groups:?}");
        quiet(self.world, &self.seat.proxy).await?;
        let outcome = outcome::read(&self.world.client).await?;
        self.world.kill_operator(self.seat.name)?;
        Ok(Undisturbed { change, outcome, writes: self.seat.proxy.writes() })
    }

    /// One round. Whether the fault came to be; an error where the end is another.
    pub(crate) async fn play(&self, change: Change, fault: Fault, expected: &Outcome) -> Result<bool> {
        self.begin(change).await?;
        let Seat { proxy, .. } = &self.seat;
        let (mut is_stale, mut lost) = (false, None);
        match fault {
            Fault::Crash(deadly) => proxy.cut_after(deadly),
            Fault::CrashOfOneOfTwo(deadly) => {
                proxy.cut_after(deadly);
                self.start(&self.other)?;
            }
            Fault::CrashAndStaleAnswers(deadly) => {
                proxy.cut_after(deadly);
                is_stale = true;
            }
            Fault::LostEvent(resource, number) => {
                proxy.lose_event(resource, number);
                lost = Some((resource, number));
            }
        }
        self.start(&self.seat)?;
        let mut crashed = false;
        let ended = until("the end that it has without a fault", LIMIT, || {
            let crashes = proxy.is_cut();
            crashed |= crashes;
            async move {
                if crashes {
                    self.begin_anew(is_stale)?;
                }
                let differences = differences(expected, &outcome::read(&self.world.client).await?);
                Ok(if differences.is_empty() { Look::Done(()) } else { Look::NotYet(differences.join("\n")) })
            }
        })
        .await;
        for seat in [&self.seat, &self.other] {
            self.world.kill_operator(seat.name)?;
        }
        ended?;
        Ok(crashed || lost.is_some_and(|(resource, number)| proxy.events(resource) >= number))
    }

    async fn begin(&self, change: Change) -> Result<()> {
        self.base.restore().await?;
        let units = Api::<Unit>::all(self.world.client.clone()).list_metadata(&ListParams::default()).await?;
        let version = units.metadata.resource_version.as_deref().unwrap_or_default();
        self.began.store(version.parse().context("a list's version")?, Relaxed);
        self.seat.proxy.forget();
        self.other.proxy.forget();
        point(self.world, self.commit(change))
    }

    fn begin_anew(&self, is_stale: bool) -> Result<()> {
        let Seat { name, proxy, .. } = &self.seat;
        self.world.kill_operator(name)?;
        if is_stale {
            // A write that changes nothing has the version of what changed the object last, maybe in a round before.
            let began = self.began.load(Relaxed);
            let writes = proxy.writes();
            let versions = writes.iter().rev().filter_map(Write::version).filter(|version| *version > began);
            let versions: Vec<u64> = versions.collect();
            proxy.lag(versions.get(LAG_WRITES).or(versions.last()).copied().unwrap_or(began), LAG);
        }
        proxy.mend();
        self.start(&self.seat)
    }

    fn start(&self, seat: &Seat) -> Result<()> {
        self.world.start_operator_at(seat.name, seat.lease, &seat.kubeconfig).map(drop)
    }

    fn commit(&self, change: Change) -> &str {
        match change {
            Change::Rollout => &self.good,
            Change::Revert => &self.bad,
        }
    }

    /// Events of a resource that the operator was told in the last round.
    pub(crate) fn events(&self, resource: &str) -> usize {
        self.seat.proxy.events(resource)
    }
}

/// A round without a fault.
pub(crate) struct Undisturbed {
    pub(crate) change: Change,
    pub(crate) outcome: Outcome,
    pub(crate) writes: Vec<Write>,
}

/// Makes both branches end at a commit.
fn point(world: &World<'_>, commit: &str) -> Result<()> {
    let mut git = Command::new("git");
    git.arg("-C").arg(world.git.repository(REPOSITORY)).args(["update-ref", "--stdin"]);
    let [staging, production] = ["staging", "production"].map(|b| format!("update refs/heads/{b} {commit}\n"));
    run::output_with_input(&mut git, &format!("start\n{staging}{production}commit\n")).map(drop)
}

/// Waits until an operator writes nothing more.
async fn quiet(world: &World<'_>, proxy: &ApiProxy) -> Result<()> {
    nodes_follow(&world.client).await?;
    let mut last = (proxy.writes().len(), std::time::Instant::now());
    until("writes to end", LIMIT, || {
        let writes = proxy.writes().len();
        if writes != last.0 {
            last = (writes, std::time::Instant::now());
        }
        let quiet = last.1.elapsed();
        async move { Ok(if quiet > QUIET { Look::Done(()) } else { Look::NotYet(format!("{quiet:?}")) }) }
    })
    .await
}
