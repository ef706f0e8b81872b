//! Which attempts share a group: who is accused with whom, and who keeps apart.
//!
//! An attempt *is in* a group from being told to run there until it passes there or goes back. One that
//! passed a group has its verdict and is not accused of what happens there later.

use crate::{
    Cause, GroupPhase, GroupProgress, Phase, Rollout, RolloutId, Time,
    group::{self, is_done},
    view::View,
};

/// Another attempt that must not be in a group together with this one, which is about to enter it.
pub(crate) fn kept_apart_by(view: &View<'_>, id: &RolloutId, rollout: &Rollout, group: &str) -> Option<RolloutId> {
    // Who does not run alone is kept apart only by those that do.
    let all = view.snapshot.rollouts.iter().filter(|_| rollout.spec.alone);
    let others = all.chain(view.alone().filter(|_| !rollout.spec.alone));
    let others = others.filter(|(other, r)| *other != id && r.spec.environment == rollout.spec.environment);
    let mut others = others.filter(|(other, r)| goes_on(view, r) && view.has_its_units(other, r));
    let found = others.find(|(other_id, other)| {
        // Of two that run alone and are about to enter, one goes first.
        let goes_first = !rollout.spec.alone || started(other_id, other) < started(id, rollout);
        is_in(other, group) || (other.spec.alone && goes_first && is_about_to_enter(other, group))
    });
    found.map(|(other, _)| other.clone())
}

/// Whether an attempt is under way. One that is paused keeps nobody waiting: a person may take days; but one that a person
/// has let go on, or whose nodes have what they lacked, goes on in this plan.
fn goes_on(view: &View<'_>, rollout: &Rollout) -> bool {
    match rollout.status.phase {
        Phase::Progressing => true,
        Phase::Paused => {
            let decided = !rollout.status.awaits_decision() || rollout.new_retry().is_some();
            rollout.verbs.pause.is_none() && (decided || is_applied(view, rollout))
        }
        Phase::Pending | Phase::Reverting => false,
        Phase::Succeeded | Phase::Reverted | Phase::Aborted | Phase::Superseded => false,
    }
}

/// Whether all nodes have what an attempt is paused for, and nothing else holds it (`Step::is_applied` lets it go on then).
fn is_applied(view: &View<'_>, rollout: &Rollout) -> bool {
    let has_it = |progress: &GroupProgress| match progress.phase {
        GroupPhase::Deploying => group::has_arrived(view, rollout, progress),
        GroupPhase::Failed => false,
        GroupPhase::Waiting | GroupPhase::Verifying | GroupPhase::Passed | GroupPhase::Skipped => true,
    };
    rollout.status.cause == Some(Cause::NotApplied) && rollout.status.groups.iter().all(has_it)
}

/// Place among those that are under way.
fn started<'r>(id: &'r RolloutId, rollout: &Rollout) -> (Option<Time>, &'r RolloutId) {
    (rollout.status.started_at, id)
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

/// Whether a group is the next one of an attempt.
fn is_about_to_enter(rollout: &Rollout, group: &str) -> bool {
    let groups = &rollout.status.groups;
    let waits = |progress: &&GroupProgress| progress.name == group && progress.phase == GroupPhase::Waiting;
    let Some(order) = groups.iter().find(waits).map(|progress| progress.order) else { return false };
    let mut earlier = groups.iter().filter(|progress| progress.order < order);
    earlier.all(|progress| is_done(progress.phase))
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
