//! What it rests on that one attempt alone is put back for a gate that cannot tell units apart: that the group is told just what this
//! plan wants it told. Something that a stale snapshot does not show may be on trial there, too.

use std::collections::BTreeMap;

use crate::{
    Basis, Cause, Effect, Entry, Group, GroupPhase, GroupProgress, Phase, Rollout, RolloutStatus, UnitId, Verdict,
    Write, gates, view::View,
};

/// Of a status that says so for the first time; nothing of any other.
pub(crate) fn basis(view: &View<'_>, rollout: &Rollout, status: &RolloutStatus, writes: &[Effect]) -> Vec<Basis> {
    let begins = status.phase == Phase::Reverting && rollout.status.phase != Phase::Reverting;
    if !begins || status.cause != Some(Cause::GateFailed) {
        return Vec::new();
    }
    let failed = status.groups.iter().filter(|progress| progress.phase == GroupPhase::Failed);
    let told = failed.filter_map(|progress| {
        let group = view.snapshot.groups.get(&progress.name)?;
        let (generation, entries) = told(&progress.name, group, writes)?;
        let could_be_another = cannot_tell(view, rollout, progress, group);
        could_be_another.then(|| Basis::Told(progress.name.clone(), generation, entries.clone()))
    });
    told.collect()
}

/// Whether a gate failed that cannot tell units apart.
fn cannot_tell(view: &View<'_>, rollout: &Rollout, progress: &GroupProgress, group: &Group) -> bool {
    let failed = |key: &str| progress.gates.get(key).is_some_and(|gate| gate.verdict == Verdict::Fail);
    gates::of(view, group, rollout).iter().any(|gate| gate.is_shared() && failed(&gate.key))
}

/// What a group is told after this plan.
fn told<'a>(name: &str, group: &'a Group, writes: &'a [Effect]) -> Option<(u64, &'a BTreeMap<UnitId, Entry>)> {
    let mut written = writes.iter().filter_map(|effect| match &effect.write {
        Write::WriteAssignment { group, generation, entries, .. } => (group == name).then_some((*generation, entries)),
        Write::CreateRollout { .. }
        | Write::UpdateUnit { .. }
        | Write::SetRolloutStatus { .. }
        | Write::KeepStable { .. } => None,
    });
    let stored = || group.assignment.as_ref().map(|assignment| (assignment.generation, &assignment.entries));
    written.next().or_else(stored)
}
