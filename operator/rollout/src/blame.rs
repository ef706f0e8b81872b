//! What it rests on that one attempt alone is put back for a gate that cannot tell units apart: that the group is told just what the
//! plan saw. Something that a stale snapshot does not show may be on trial there, too.

use crate::{
    Basis, Cause, Effect, Group, GroupPhase, GroupProgress, Phase, Rollout, RolloutStatus, Verdict, gates, view::View,
};

/// Of a status that says so for the first time; nothing of any other.
pub(crate) fn basis(view: &View<'_>, rollout: &Rollout, status: &RolloutStatus, writes: &[Effect]) -> Vec<Basis> {
    let begins = status.phase == Phase::Reverting && rollout.status.phase != Phase::Reverting;
    if !begins || status.cause != Some(Cause::GateFailed) {
        return Vec::new();
    }
    let failed = status.groups.iter().filter(|progress| progress.phase == GroupPhase::Failed);
    let groups = failed.filter_map(|progress| {
        let group = view.group(&progress.name, rollout.spec.environment)?;
        let assignment = group.assignment.as_ref()?;
        // Where this plan writes it and is refused, no status of the group is written in any case.
        let rests = !is_written(&progress.name, writes) && cannot_tell(view, rollout, progress, group);
        rests.then(|| Basis::Assignment(progress.name.clone(), assignment.resource_version.clone()))
    });
    groups.collect()
}

/// Whether a gate failed that cannot tell units apart.
fn cannot_tell(view: &View<'_>, rollout: &Rollout, progress: &GroupProgress, group: &Group) -> bool {
    let failed = |key: &str| progress.gates.get(key).is_some_and(|gate| gate.verdict == Verdict::Fail);
    gates::of(view, group, rollout).iter().any(|gate| gate.is_shared() && failed(&gate.key))
}

fn is_written(name: &str, writes: &[Effect]) -> bool {
    writes.iter().any(|effect| effect.write.assigns() == Some(name))
}
