//! Which revision of each unit is in force now, given what is wanted and what is loaded.
//!
//! Pure; time comes in. The rules:
//! - A revision takes over only when it is loaded *and* its unit's stable is: the way back is ready first.
//! - What changed together (same `since`) swaps in together, but waits for stragglers only for
//!   [`GRACE`]: a unit that cannot load delays no other. The way back to stable waits for nothing.
//! - A unit that cannot run what is assigned keeps what it runs, and is an exception.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use sluice_config::{Digest, Exception, ExceptionKind, UnitRef};

use crate::desired::Want;

/// How long what is loaded waits for the rest of its batch.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// How far a revision of a unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Loading,
    Loaded,
    /// Loaded, but not on disk: a restart would lose it.
    Unsaved {
        message: String,
    },
    Failed {
        reason: ExceptionKind,
        message: String,
    },
}

/// A revision of a unit. The unit belongs to it: two namespaces may hold equal content.
pub(crate) type Key = (UnitRef, Digest);

/// What should be in force now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Loaded revisions to serve with.
    pub(crate) running: BTreeMap<UnitRef, Digest>,
    /// Units that have proven themselves or were in force, but of which nothing can run: they fail as
    /// their `onFailure` says instead of being absent, so that a security worker is not skipped.
    pub(crate) not_loaded: BTreeMap<UnitRef, Digest>,
    /// Units that do not run as assigned.
    pub(crate) exceptions: Vec<Exception>,
    /// Every entry runs as assigned or is an exception.
    pub(crate) settled: bool,
    /// Look again then: a batch's grace ends.
    pub(crate) look_again: Option<Instant>,
}

/// What the decision is made from.
pub(crate) struct Inputs<'a> {
    pub(crate) wants: &'a BTreeMap<UnitRef, Want>,
    pub(crate) progress: &'a dyn Fn(&UnitRef, &Digest) -> Progress,
    /// What is in force, or was before the restart.
    pub(crate) current: &'a BTreeMap<UnitRef, Digest>,
    /// Nothing is in force yet: what is blocked runs all the same, where it can, instead of nothing.
    pub(crate) fresh: bool,
    /// When the newest assignment was accepted.
    pub(crate) accepted_at: Instant,
    pub(crate) now: Instant,
}

/// What must be loaded: what is wanted, the way back, and what is in force.
pub(crate) fn needs(wants: &BTreeMap<UnitRef, Want>, current: &BTreeMap<UnitRef, Digest>) -> BTreeSet<Key> {
    let wanted =
        wants.iter().flat_map(|(unit, want)| want.run.iter().chain(&want.stable).map(|d| (unit.clone(), d.clone())));
    let in_force =
        current.iter().filter(|(unit, _)| wants.contains_key(unit)).map(|(unit, d)| (unit.clone(), d.clone()));
    wanted.chain(in_force).collect()
}

/// How one unit stands.
enum Standing {
    Ready,
    Pending,
    Blocked(ExceptionKind, String),
}

pub(crate) fn decide(inputs: &Inputs<'_>) -> Decision {
    let grace_end = inputs.accepted_at + GRACE;
    let standings: BTreeMap<&UnitRef, Standing> = inputs
        .wants
        .iter()
        .filter_map(|(unit, want)| {
            let run = want.run.as_ref()?;
            Some((unit, standing(inputs, unit, run, want.stable.as_ref())))
        })
        .collect();
    let open_batches: BTreeSet<u64> = standings
        .iter()
        .filter(|(_, s)| matches!(s, Standing::Pending))
        .filter_map(|(unit, _)| inputs.wants.get(*unit).map(|w| w.since))
        .filter(|_| inputs.now < grace_end)
        .collect();

    let mut decision = Decision { settled: true, ..Decision::default() };
    for (unit, standing) in standings {
        let Some((want, run)) = inputs.wants.get(unit).and_then(|w| Some((w, w.run.as_ref()?))) else {
            continue;
        };
        let in_force = inputs.current.get(unit) == Some(run);
        let way_back = want.stable.as_ref() == Some(run);
        match standing {
            Standing::Ready if in_force || way_back || !open_batches.contains(&want.since) => {
                decision.running.insert(unit.clone(), run.clone());
            }
            Standing::Ready => {
                decision.settled = false;
                decision.look_again = Some(grace_end);
                keep(inputs, unit, want, run, false, &mut decision);
            }
            Standing::Pending => {
                decision.settled = false;
                keep(inputs, unit, want, run, false, &mut decision);
            }
            Standing::Blocked(reason, message) => {
                decision.exceptions.push(Exception {
                    kind: unit.kind,
                    namespace: unit.namespace.clone(),
                    name: unit.name.clone(),
                    revision: run.clone(),
                    reason,
                    message,
                });
                let is_loaded = matches!((inputs.progress)(unit, run), Progress::Unsaved { .. });
                if way_back && is_loaded {
                    // Nothing holds the way back: a restart that loses it is for later.
                    decision.running.insert(unit.clone(), run.clone());
                } else {
                    keep(inputs, unit, want, run, inputs.fresh, &mut decision);
                }
            }
        }
    }
    decision
}

fn standing(inputs: &Inputs<'_>, unit: &UnitRef, run: &Digest, stable: Option<&Digest>) -> Standing {
    match (inputs.progress)(unit, run) {
        Progress::Loading => Standing::Pending,
        Progress::Failed { reason, message } => Standing::Blocked(reason, message),
        Progress::Unsaved { message } => Standing::Blocked(ExceptionKind::LocalTrouble, message),
        Progress::Loaded => match stable.map(|s| (s, (inputs.progress)(unit, s))) {
            None | Some((_, Progress::Loaded)) => Standing::Ready,
            Some((_, Progress::Loading)) => Standing::Pending,
            // Whatever is wrong with stable, it is not the fault of the revision that is assigned.
            Some((s, Progress::Failed { message, .. } | Progress::Unsaved { message })) => Standing::Blocked(
                ExceptionKind::LocalTrouble,
                format!("its stable revision {} is not ready here: {message}", s.short()),
            ),
        },
    }
}

/// The unit cannot take over with `run` yet: what it runs instead. `anyway`: `run` itself, rather than
/// be absent.
fn keep(inputs: &Inputs<'_>, unit: &UnitRef, want: &Want, run: &Digest, anyway: bool, decision: &mut Decision) {
    let loaded = |d: &&Digest| match (inputs.progress)(unit, d) {
        Progress::Loaded | Progress::Unsaved { .. } => true,
        Progress::Loading | Progress::Failed { .. } => false,
    };
    let current = inputs.current.get(unit);
    // `run` itself comes last: it may be loaded while the way back or the disk is not, and that
    // beats nothing at all.
    let fallback = current.into_iter().chain(&want.stable).chain([run]).find(loaded);
    if let Some(digest) = fallback {
        if digest != run || want.stable.is_some() || current == Some(run) || anyway {
            decision.running.insert(unit.clone(), digest.clone());
        }
    } else if let Some(relied_on) = want.stable.as_ref().or(current) {
        decision.not_loaded.insert(unit.clone(), relied_on.clone());
    }
}

#[cfg(test)]
mod tests;
