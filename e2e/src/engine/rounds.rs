//! Rounds of one bad change: into the first group, through its soak, into all others, found bad by the last one's
//! gate, and back everywhere. Each gives one value of every latency.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use sluice_config::Digest;
use sluice_crds::{GroupPhase, Phase, Rollout, RolloutStatus};
use tokio::task::JoinHandle;

use super::{
    change::push,
    numbers::{count, millis, percentile, rounded},
    sights::{Sight, Sights, What},
    world::{GROUPS, SOAK, World},
};
use crate::{figures::Figures, kubelet, rollouts};

/// How fast a gate's pod ends that was started.
const CHECK_EVERY: Duration = Duration::from_millis(50);
/// The first change was another's, see [`super::change`].
const FIRST: usize = 2;

pub(super) async fn play_all(world: &World<'_>, rounds: usize) -> Result<Vec<Latencies>> {
    let checks = Checks::start(world);
    let mut sights = Sights::start(&world.client);
    let mut all = Vec::new();
    for number in FIRST..FIRST + rounds {
        let round = play(world, &mut sights, number).await.with_context(|| format!("round {number}"))?;
        all.push(Latencies::of(&round, world, &checks)?);
    }
    Ok(all)
}

/// Fails every gate's Job, and remembers when it last did.
struct Checks {
    failed_at: Arc<Mutex<Option<Timestamp>>>,
    task: JoinHandle<()>,
}

impl Checks {
    fn start(world: &World<'_>) -> Self {
        let failed_at = Arc::new(Mutex::new(None));
        let (client, last) = (world.client.clone(), Arc::clone(&failed_at));
        let task = tokio::spawn(async move {
            loop {
                match kubelet::run_checks(&client, |_| false).await {
                    Ok(0) => {}
                    Ok(_) => *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Timestamp::now()),
                    Err(error) => tracing::warn!("a gate's pod: {error:#}"),
                }
                tokio::time::sleep(CHECK_EVERY).await;
            }
        });
        Self { failed_at, task }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was seen of one round.
#[derive(Default)]
struct Round {
    commit: String,
    /// What every group ran before; what it runs after.
    stable: Option<Digest>,
    /// By group: when it was first told the change, when it was told stable again, and as which generation.
    changed: BTreeMap<String, Timestamp>,
    reverted: BTreeMap<String, (Timestamp, u64)>,
    /// The attempt, as it was told each time.
    attempt: Vec<(Timestamp, RolloutStatus)>,
    /// By node, the generations that it reported, and when.
    runs: BTreeMap<String, Vec<(Timestamp, u64)>>,
}

async fn play(world: &World<'_>, sights: &mut Sights, number: usize) -> Result<Round> {
    let stable = world.told_revision().await?;
    sights.forget();
    let mut round = Round { commit: push(world, number)?, stable: Some(stable), ..Round::default() };
    while !round.is_over(world) {
        let sight = sights.next(&round.story()).await?;
        round.see(sight)?;
    }
    Ok(round)
}

impl Round {
    fn see(&mut self, Sight { at, what }: Sight) -> Result<()> {
        match what {
            What::Told { group, generation, revision, .. } => {
                if revision != self.stable {
                    self.changed.entry(group).or_insert(at);
                } else if self.changed.contains_key(&group) {
                    self.reverted.entry(group).or_insert((at, generation));
                }
            }
            What::Rollout(rollout) => {
                let Rollout { spec, status, .. } = *rollout;
                if spec.commit == self.commit {
                    let status = status.unwrap_or_default();
                    ensure!(status.phase != Phase::Succeeded, "a bad change succeeded");
                    self.attempt.push((at, status));
                }
            }
            What::Runs { node, generation, exceptions } => {
                ensure!(exceptions == 0, "{node} does not run what it is told");
                self.runs.entry(node).or_default().push((at, generation));
            }
        }
        Ok(())
    }

    /// When each node reported that it is back; none while one is not.
    fn swapped(&self, world: &World<'_>) -> Option<Timestamp> {
        let mut last = None;
        for (node, group) in world.nodes.groups() {
            let (_, generation) = self.reverted.get(group)?;
            let mut runs = self.runs.get(node)?.iter();
            let (at, _) = runs.find(|(_, runs)| runs >= generation)?;
            last = last.max(Some(*at));
        }
        last
    }

    fn is_over(&self, world: &World<'_>) -> bool {
        let over = self.attempt.last().is_some_and(|(_, status)| status.phase == Phase::Reverted);
        over && self.reverted.len() == GROUPS.len() && self.swapped(world).is_some()
    }

    /// When the attempt was first as `is` wants it.
    fn first(&self, is: impl Fn(&RolloutStatus) -> bool) -> Option<(Timestamp, &RolloutStatus)> {
        self.attempt.iter().find(|(_, status)| is(status)).map(|(at, status)| (*at, status))
    }

    fn story(&self) -> String {
        let attempt = self.attempt.last().map(|(_, status)| format!("{:?} {}", status.phase, status.waiting_for));
        format!("{attempt:?}, told {:?}, reverted {:?}", self.changed.keys(), self.reverted.keys())
    }
}

/// One round in milliseconds.
pub(super) struct Latencies {
    seen_to_told: f64,
    soak_late: f64,
    failed_to_verdict: f64,
    verdict_to_reverted: f64,
    verdict_to_swapped: f64,
}

impl Latencies {
    fn of(round: &Round, world: &World<'_>, checks: &Checks) -> Result<Self> {
        let seen = world.tap.seen_at().context("the operator was never told of the commit")?;
        let told = *round.changed.get(GROUPS[0]).context("the first group was never told")?;
        let passed = |status: &RolloutStatus| {
            rollouts::group(status, GROUPS[0]).is_ok_and(|group| group.phase == GroupPhase::Passed)
        };
        let (passed_at, status) = round.first(passed).context("the first group never passed")?;
        let gates = &rollouts::group(status, GROUPS[0])?.gates;
        let soak = gates.first().context("the first group has a gate")?;
        let due = soak.started_at.0 + SignedDuration::try_from(SOAK)?;
        let goes_back = |status: &RolloutStatus| matches!(status.phase, Phase::Reverting | Phase::Reverted);
        let (verdict, _) = round.first(goes_back).context("it never went back")?;
        let reverted = round.reverted.values().map(|(at, _)| *at).max().context("no group went back")?;
        let swapped = round.swapped(world).context("some node did not go back")?;
        let failed = checks.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Self {
            seen_to_told: millis(seen, told),
            soak_late: millis(due, passed_at),
            failed_to_verdict: millis(failed.context("no gate's pod failed")?, verdict),
            verdict_to_reverted: millis(verdict, reverted),
            verdict_to_swapped: millis(verdict, swapped),
        })
    }
}

/// Percentiles of all rounds; `are_real`: nodes are dataplanes.
pub(super) fn tell(all: &[Latencies], of: &str, are_real: bool, figures: &mut Figures) {
    let rounds = all.len();
    let mut add = |what: &str, value: fn(&Latencies) -> f64, goals: [(usize, Option<f64>); 2]| {
        let values: Vec<f64> = all.iter().map(value).collect();
        for (percent, goal) in goals {
            let value = rounded(percentile(&values, percent));
            let rank = if percent == 100 { "at most".to_owned() } else { format!("p{percent}") };
            let name = format!("{of}: {what}: {rank} of {rounds}");
            match goal {
                Some(goal) => figures.add_at_most(name, value, "ms", goal),
                None => figures.add(name, value, "ms"),
            }
        }
    };
    add("poll has seen → first group's Assignment", |l| l.seen_to_told, [(50, Some(300.0)), (99, None)]);
    add("soak over → told", |l| l.soak_late, [(50, None), (100, Some(250.0))]);
    add("gate's pod failed → verdict Fail", |l| l.failed_to_verdict, [(50, None), (99, None)]);
    add("verdict Fail → every Assignment reverted", |l| l.verdict_to_reverted, [(50, None), (99, Some(250.0))]);
    if are_real {
        add("verdict Fail → every node swapped", |l| l.verdict_to_swapped, [(50, Some(1000.0)), (99, Some(5000.0))]);
    }
    let early = all.iter().filter(|latencies| latencies.soak_late < 0.0).count();
    figures.add_at_most(format!("{of}: soaks that ended early, of {rounds}"), count(early), "soaks", 0.0);
}
