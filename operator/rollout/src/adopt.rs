//! Memory that was lost: what a group runs without anyone remembering why is kept, never removed.

use crate::{Environment, Phase, Target, UnitId, view::View};

/// What a unit's lost stable must have been, as its environment's assignments show; none if nothing was
/// lost. An attempt has to be out of the way first: what it put there says nothing about stable.
pub(crate) fn lost_stable(view: &View<'_>, unit: &UnitId, environment: Environment) -> Option<Target> {
    let memory = view.memory(unit, environment);
    if memory.stable.is_some() || memory.in_flight.is_some() {
        return None;
    }
    let groups = view.snapshot.groups.values();
    let mut entries: Vec<_> = groups
        .filter(|group| group.environment == environment)
        .filter_map(|group| Some((group.order, group.assignment.as_ref()?.entries.get(unit)?)))
        .collect();
    // The group that changes last is the most likely to run what is proven.
    entries.sort_by_key(|(order, _)| std::cmp::Reverse(*order));
    let by_stable = entries.iter().find_map(|(_, entry)| entry.stable.clone());
    let by_revision = || {
        let mut revisions = entries.iter().filter_map(|(_, entry)| entry.revision.clone());
        revisions.find(|digest| unexplained(view, unit, environment, &Target::Revision(digest.clone())))
    };
    by_stable.or_else(by_revision).map(Target::Revision)
}

/// Whether no attempt tells how a unit came to this target, or one that succeeded does.
pub(crate) fn unexplained(view: &View<'_>, unit: &UnitId, environment: Environment, target: &Target) -> bool {
    view.last_attempt_at(unit, environment, target).is_none_or(|(_, rollout)| rollout.status.phase == Phase::Succeeded)
}
