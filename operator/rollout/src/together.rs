//! Which attempts share a group: who is accused with whom, and who keeps apart.
//!
//! An attempt *is in* a group from being told to run there until it passes there or goes back. One that
//! passed a group has its verdict and is not accused of what happens there later.

use crate::{GroupPhase, Phase, Rollout, RolloutId, Time, group::is_done, view::View};

/// Another attempt that must not be in a group together with this one.
pub(crate) fn kept_apart_by(view: &View<'_>, id: &RolloutId, rollout: &Rollout, group: &str) -> Option<RolloutId> {
    // Who does not run alone is kept apart only by those that do.
    let all = view.snapshot.rollouts.iter().filter(|_| rollout.spec.alone);
    let others = all.chain(view.alone().filter(|_| !rollout.spec.alone));
    let others = others.filter(|(other, r)| *other != id && r.spec.environment == rollout.spec.environment);
    let mut others = others.filter(|(other, r)| view.has_its_units(other, r));
    let found = others.find(|(_, other)| match other.status.phase {
        // One that is paused keeps nobody waiting: a person may take days.
        Phase::Progressing => {
            (rollout.spec.alone && is_in(other, group)) || (other.spec.alone && is_in_or_about_to(other, group))
        }
        Phase::Pending | Phase::Paused | Phase::Reverting => false,
        Phase::Succeeded | Phase::Reverted | Phase::Aborted | Phase::Superseded => false,
    });
    found.map(|(other, _)| other.clone())
}

/// The other attempts that were in a group at some moment after `since`.
pub(crate) fn there_since(
    view: &View<'_>,
    id: &RolloutId,
    rollout: &Rollout,
    group: &str,
    since: Time,
) -> Vec<RolloutId> {
    let others = view.snapshot.rollouts.iter();
    let others = others.filter(|(other, r)| *other != id && r.spec.environment == rollout.spec.environment);
    others.filter(|(_, other)| was_in(other, group, since)).map(|(other, _)| other.clone()).collect()
}

/// Whether an attempt is in a group and has not passed it.
fn is_in(rollout: &Rollout, group: &str) -> bool {
    let mut groups = rollout.status.groups.iter();
    groups.any(|progress| {
        let unjudged = match progress.phase {
            GroupPhase::Deploying | GroupPhase::Verifying | GroupPhase::Failed => true,
            GroupPhase::Waiting | GroupPhase::Passed | GroupPhase::Skipped => false,
        };
        unjudged && progress.name == group
    })
}

/// The same, or it is the group's turn.
fn is_in_or_about_to(rollout: &Rollout, group: &str) -> bool {
    let groups = &rollout.status.groups;
    let Some(order) = groups.iter().find(|progress| progress.name == group).map(|p| p.order) else { return false };
    let mut earlier = groups.iter().filter(|progress| progress.order < order);
    let turn = earlier.all(|progress| is_done(progress.phase));
    let waits = groups.iter().any(|progress| progress.name == group && progress.phase == GroupPhase::Waiting);
    is_in(rollout, group) || (turn && waits)
}

/// Whether an attempt was in a group, unjudged, at some moment after `since`.
fn was_in(rollout: &Rollout, group: &str, since: Time) -> bool {
    let there = match rollout.status.phase {
        Phase::Pending | Phase::Succeeded => false,
        Phase::Progressing | Phase::Paused => true,
        Phase::Reverting | Phase::Reverted | Phase::Aborted | Phase::Superseded => {
            rollout.status.ended_at.is_some_and(|ended_at| ended_at > since)
        }
    };
    there && is_in(rollout, group)
}
