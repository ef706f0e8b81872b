//! Which units go together, as one commit has it. The planner begins nothing of a set before the heads of all its
//! units say the same; so they are stamped with one commit whenever anything of the set changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::ResourceExt;
use sluice_config::{Digest, Environment, UnitRef};
use sluice_crds::{Head, Memory, Together, TogetherUnit, Unit};

use super::Input;
use crate::source::CommitInfo;

/// So many units a Rollout holds.
pub(super) const UNITS_MAX: usize = 64;

/// A unit that goes together with others.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// With which.
    pub together: Together,
    /// What to stamp its head with; none: all heads of the set are as they should be.
    pub commit: Option<CommitInfo>,
}

/// By environment, the units that go together with others.
pub(super) type Sets = BTreeMap<Environment, BTreeMap<UnitRef, Member>>;

/// What a commit wants of a unit; the outer none: nobody can read it.
type Wanted = Option<Option<Digest>>;

/// The sets of all branches that could be read. `units`: those that the repository has.
pub(super) fn of(units: &[Arc<Unit>], input: &Input<'_>) -> Sets {
    let known: BTreeMap<UnitRef, &Unit> = units
        .iter()
        .filter_map(|unit| Some((UnitRef::new(unit.spec.kind, unit.namespace()?, unit.spec.name.clone()), &**unit)))
        .collect();
    let mut sets = Sets::new();
    for (environment, head) in input.heads {
        let Ok(head) = head else { continue };
        let stored = |unit: &UnitRef| known.get(unit).map(|unit| unit.spec.environments.of(*environment));
        let mut named: BTreeMap<String, BTreeMap<UnitRef, Wanted>> = BTreeMap::new();
        for parsed in &head.units {
            let (name, wanted) = match &parsed.result {
                Ok(revision) => (revision.revision.together.clone(), Some(Some(revision.digest.clone()))),
                // What a broken file goes together with, only the last good one tells.
                Err(_) => (stored(&parsed.unit).and_then(name), None),
            };
            if let Some(name) = name {
                named.entry(name).or_default().insert(parsed.unit.clone(), wanted);
            }
        }
        let here: BTreeSet<&UnitRef> = head.units.iter().map(|parsed| &parsed.unit).collect();
        let gone = known.keys().filter(|unit| !here.contains(unit));
        for unit in gone {
            let memory = stored(unit).filter(|memory| is_there(memory));
            if let Some(name) = memory.and_then(name) {
                named.entry(name).or_default().insert(unit.clone(), Some(None));
            }
        }
        let members = named.into_iter().filter(|(_, members)| members.len() > 1).flat_map(|(name, members)| {
            let one = |unit: &UnitRef| TogetherUnit { kind: unit.kind, name: unit.name.clone() };
            let together = Together { name, units: members.keys().map(one).collect() };
            let heads = members.iter().map(|(unit, wanted)| {
                let head = stored(unit).and_then(|memory| memory.head.as_ref())?;
                (Some(&head.digest) == wanted.as_ref() && head.together.as_ref() == Some(&together)).then_some(head)
            });
            let commit = (!are_settled(heads)).then(|| head.commit.clone());
            let member = Member { together, commit };
            members.into_keys().map(move |unit| (unit, member.clone())).collect::<Vec<_>>()
        });
        sets.insert(*environment, members.collect());
    }
    sets
}

/// Whether every head is as wanted, and all are of one commit.
fn are_settled<'a>(heads: impl Iterator<Item = Option<&'a Head>>) -> bool {
    let mut commit = None;
    for head in heads {
        let Some(head) = head else { return false };
        if *commit.get_or_insert(&head.commit) != &head.commit {
            return false;
        }
    }
    true
}

fn name(memory: &Memory) -> Option<String> {
    Some(memory.head.as_ref()?.together.as_ref()?.name.clone())
}

/// Whether anything of a unit runs: one that is gone for good belongs to nothing.
fn is_there(memory: &Memory) -> bool {
    memory.in_flight.is_some() || memory.stable.as_ref().is_some_and(|stable| stable.digest.is_some())
}
