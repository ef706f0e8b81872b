//! How many units a group may run. A node refuses an assignment with more as a whole, and then takes no change
//! at all: not even the way back of another unit.

use std::collections::BTreeMap;

use crate::{Environment, Phase, Snapshot, Target, UnitChange, UnitId, Waiting, view::View};

/// Entries of an assignment that nodes accept; the limit that `sluice-config` checks.
pub const ENTRIES_MAX: usize = 4_000;

/// Who takes room in the groups of an environment.
#[derive(Default)]
pub(crate) struct Room<'a> {
    /// Units that some attempt in flight brings along: an entry in every group that has none yet.
    brought: Vec<&'a UnitId>,
    /// Units that an attempt wants to bring along, and may not yet, in order: only so many start at once as there
    /// is room for.
    waiting: Vec<&'a UnitId>,
    /// Entries of each group, with what is brought along.
    taken: BTreeMap<&'a str, usize>,
}

impl<'a> Room<'a> {
    /// Counted once for all attempts.
    pub(crate) fn count(snapshot: &'a Snapshot) -> BTreeMap<Environment, Self> {
        let mut rooms: BTreeMap<Environment, Self> = BTreeMap::new();
        for (id, rollout) in snapshot.rollouts.iter().filter(|(_, rollout)| !rollout.status.phase.is_over()) {
            let room = rooms.entry(rollout.spec.environment).or_default();
            for change in rollout.spec.units.iter().filter(|change| change.target != Target::Removed) {
                let unit = snapshot.units.get(&change.unit);
                let memory = unit.and_then(|unit| unit.memory.get(&rollout.spec.environment));
                let in_flight = memory.is_some_and(|memory| memory.in_flight.as_ref() == Some(id));
                match rollout.status.phase {
                    Phase::Pending | Phase::Progressing | Phase::Paused if in_flight => room.brought.push(&change.unit),
                    Phase::Pending => room.waiting.push(&change.unit),
                    Phase::Progressing | Phase::Paused | Phase::Reverting => {}
                    Phase::Succeeded | Phase::Reverted | Phase::Aborted | Phase::Superseded => {}
                }
            }
        }
        for (name, group) in &snapshot.groups {
            let room = rooms.entry(group.environment).or_default();
            let entries = group.assignment.as_ref().map(|assignment| &assignment.entries);
            let new = room.brought.iter().filter(|unit| !entries.is_some_and(|entries| entries.contains_key(**unit)));
            room.taken.insert(name, entries.map_or(0, BTreeMap::len) + new.count());
        }
        for (environment, room) in &mut rooms {
            let groups = snapshot.groups.values().filter(|group| group.environment == *environment);
            let assignments: Vec<_> = groups.filter_map(|group| group.assignment.as_ref()).collect();
            room.waiting.retain(|unit| !assignments.iter().any(|a| a.entries.contains_key(*unit)));
            room.waiting.sort_unstable();
            room.waiting.dedup();
        }
        rooms
    }

    /// How many wait in front of a unit that would be new to a group.
    fn in_front(&self, unit: &UnitId) -> usize {
        self.waiting.partition_point(|waiting| *waiting < unit)
    }
}

/// The group that has no room for a unit that it does not run yet.
pub(crate) fn missing(view: &View<'_>, change: &UnitChange, environment: Environment) -> Option<Waiting> {
    let room = view.room(environment).filter(|_| change.target != Target::Removed)?;
    let full = room.taken.iter().find(|(name, taken)| {
        let assignment = view.group(name, environment).and_then(|group| group.assignment.as_ref());
        let runs = assignment.is_some_and(|assignment| assignment.entries.contains_key(&change.unit));
        !runs && **taken + room.in_front(&change.unit) >= ENTRIES_MAX
    });
    full.map(|(name, _)| Waiting::Room { group: (*name).to_owned(), most: ENTRIES_MAX })
}
