//! The snapshot in force: made from what is loaded, swapped in as one pointer, and freed off the
//! serving threads once the last request on it is done.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use sluice_chain::{Code, LoadedRoutes, Plan, Runtime, Snapshot, Warning};
use sluice_config::{Content, Digest, Environment, Revision, UnitRef};
use sluice_worker::Compiled;

/// What requests take at their first line; empty before the first swap.
pub(crate) type InForce = Arc<ArcSwapOption<Snapshot>>;

/// A unit in force.
pub(crate) struct Member {
    pub(crate) digest: Digest,
    pub(crate) revision: Arc<Revision>,
    /// Of a worker; or why it is not loaded, and its `onFailure` answers instead.
    pub(crate) code: Result<Option<Compiled>, String>,
}

/// Makes a snapshot of these units.
pub(crate) fn build(
    runtime: &Runtime,
    environment: Environment,
    stages: &[String],
    members: &BTreeMap<UnitRef, Member>,
) -> (Arc<Snapshot>, Vec<Warning>) {
    let mut plan = Plan { stages: stages.to_vec(), ..Plan::default() };
    for (unit, member) in members {
        match member.revision.content(environment) {
            Content::Worker(worker) => {
                let code = match &member.code {
                    Ok(Some(code)) => Code::Ready(code.clone()),
                    Ok(None) => Code::NotLoaded { why: "it has no code".into() },
                    Err(why) => Code::NotLoaded { why: why.clone() },
                };
                plan.workers.push(sluice_chain::Loaded {
                    unit: unit.clone(),
                    revision: member.digest.clone(),
                    worker: worker.clone(),
                    code,
                });
            }
            Content::Routes(routes) => plan.routes.push(LoadedRoutes {
                unit: unit.clone(),
                revision: member.digest.clone(),
                routes: routes.clone(),
            }),
            // Nothing reads bundles yet; they load and are reported like any unit.
            Content::Config(_) => {}
        }
    }
    runtime.snapshot(plan)
}

/// How long streams that began on a snapshot go on after it: of one that was superseded, and of one that was reverted.
const SUPERSEDED: Duration = Duration::from_secs(3600);
const REVERTED: Duration = Duration::from_secs(60);

/// Snapshots that were replaced. Held here until requests have let them go, so that the last
/// reference never falls on a serving thread; and not for ever, whatever their workers stream.
#[derive(Default)]
pub(crate) struct Retired(Vec<(Arc<Snapshot>, Instant)>);

impl Retired {
    pub(crate) fn push(&mut self, snapshot: Arc<Snapshot>, is_revert: bool, now: Instant) {
        let retiring = snapshot.clone();
        // Nobody waits for it, as below.
        drop(tokio::task::spawn_blocking(move || retiring.retire()));
        self.0.push((snapshot, now + if is_revert { REVERTED } else { SUPERSEDED }));
        if is_revert {
            // What came before is older still.
            for (_, end) in &mut self.0 {
                *end = (*end).min(now + REVERTED);
            }
        }
    }

    /// Frees those that nobody uses any more, and ends what is left of those whose time is over.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let (unused, used): (Vec<_>, _) =
            std::mem::take(&mut self.0).into_iter().partition(|(s, _)| Arc::strong_count(s) == 1);
        self.0 = used;
        for (snapshot, _) in self.0.iter().filter(|(s, end)| *end <= now && !s.has_ended_streams()) {
            tracing::info!("ending the streams that still run on a snapshot replaced long ago");
            snapshot.end_streams();
        }
        if !unused.is_empty() {
            // Nobody waits for it: it frees memory and ends.
            drop(tokio::task::spawn_blocking(move || drop(unused)));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
