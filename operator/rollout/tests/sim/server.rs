//! The API server, as far as writes of plans meet it: each is taken under the version that the plan saw, or refused.

use sluice_rollout::{Assignment, Basis, Effect, Rollout, RolloutStatus, Snapshot, Verbs, Write};

/// Whether what is stored is what the write was made for.
pub fn accepts(store: &Snapshot, write: &Write) -> bool {
    match write {
        Write::CreateRollout { rollout, .. } => !store.rollouts.contains_key(rollout),
        Write::UpdateUnit { unit, resource_version, .. } => {
            store.units.get(unit).is_some_and(|unit| unit.resource_version == *resource_version)
        }
        Write::SetRolloutStatus { rollout, resource_version, based_on, .. } => {
            store.rollouts.get(rollout).is_some_and(|rollout| rollout.resource_version == *resource_version)
                && based_on.iter().all(|basis| holds(store, basis))
        }
        Write::KeepStable { node, resource_version, .. } => {
            let mut nodes = store.groups.values().filter_map(|group| group.nodes.get(node));
            nodes.any(|node| node.resource_version == *resource_version)
        }
        Write::WriteAssignment { group, resource_version, based_on, .. } => {
            store.groups.get(group).is_some_and(|group| {
                let version = group.assignment.as_ref().map(|assignment| &assignment.resource_version);
                version == resource_version.as_ref() && based_on.iter().all(|basis| holds(store, basis))
            })
        }
    }
}

/// The writes of a plan in their order, without what is left out because an assignment was refused.
pub fn each<'a>(effects: impl IntoIterator<Item = &'a Effect>, mut write: impl FnMut(&Effect) -> bool) {
    let mut refused: Vec<&str> = Vec::new();
    for effect in effects {
        if !refused.iter().any(|group| effect.write.is_about(group)) && !write(effect) {
            refused.extend(effect.write.assigns());
        }
    }
}

fn holds(store: &Snapshot, basis: &Basis) -> bool {
    match basis {
        Basis::Unit(unit, version) => store.units.get(unit).is_some_and(|u| u.resource_version == *version),
        Basis::Rollout(id, version) => {
            store.rollouts.get(id).map(|rollout| &rollout.resource_version) == version.as_ref()
        }
        Basis::Assignment(group, version) => {
            let assignment = store.groups.get(group).and_then(|group| group.assignment.as_ref());
            assignment.is_some_and(|assignment| assignment.resource_version == *version)
        }
    }
}

/// Stores what was accepted, under this version.
pub fn store(store: &mut Snapshot, write: &Write, version: String) {
    match write {
        Write::CreateRollout { rollout, spec } => {
            let created = Rollout {
                resource_version: version,
                spec: spec.clone(),
                verbs: Verbs::default(),
                status: RolloutStatus::default(),
            };
            store.rollouts.insert(rollout.clone(), created);
        }
        Write::UpdateUnit { unit, memory, .. } => {
            let stored = store.units.get_mut(unit).unwrap();
            stored.resource_version = version;
            stored.memory.clone_from(memory);
        }
        Write::SetRolloutStatus { rollout, status, .. } => {
            let stored = store.rollouts.get_mut(rollout).unwrap();
            stored.resource_version = version;
            stored.status = (**status).clone();
        }
        Write::KeepStable { node, units, .. } => {
            let mut nodes = store.groups.values_mut().filter_map(|group| group.nodes.get_mut(node));
            let stored = nodes.next().unwrap();
            stored.resource_version = version;
            stored.keeps_stable.clone_from(units);
        }
        Write::WriteAssignment { group, generation, entries, .. } => {
            let assignment =
                Assignment { resource_version: version, generation: *generation, entries: entries.clone() };
            store.groups.get_mut(group).unwrap().assignment = Some(assignment);
        }
    }
}
