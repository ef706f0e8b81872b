//! What this node should run: which assignments are accepted, and what they want of each unit.
//!
//! Pure. Whoever watches (API server, file, disk at start) feeds [`Desired`]; the control loop asks
//! it what is wanted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sluice_config::{Assignment, Digest, UnitRef};

/// An assignment that passed validation, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Accepted {
    /// Name of the Assignment.
    pub(crate) group: String,
    /// UID of the object; none for a file. Generations compare only within one.
    pub(crate) uid: Option<String>,
    pub(crate) assignment: Assignment,
}

/// Why an assignment is not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Rejected {
    #[error("assignment generation {got} is older than {have}, which runs")]
    Older { got: u64, have: u64 },
    #[error("assignment generation {generation} came twice with different content")]
    SameGeneration { generation: u64 },
    #[error("assignment generation {generation} is invalid: {problem}")]
    Invalid { generation: u64, problem: String },
}

/// What is wanted of one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    /// What should run; none while the unit is removed, or kept off this node.
    pub(crate) run: Option<Digest>,
    /// What must be ready beside it, for the way back.
    pub(crate) stable: Option<Digest>,
    /// Entries that changed together have the same, and are swapped in together.
    pub(crate) since: u64,
}

/// The newest accepted assignment and this node's exceptions from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desired {
    accepted: Option<Accepted>,
    keep_stable: BTreeSet<UnitRef>,
}

impl Desired {
    /// Takes an assignment. `Ok(false)`: nothing new.
    ///
    /// Generations only go up. They are compared within one object (group and uid) and one format:
    /// an Assignment that was deleted and made anew, or another group's, starts its own count.
    pub(crate) fn accept(&mut self, new: Accepted) -> Result<bool, Rejected> {
        let generation = new.assignment.generation;
        if let Err(invalid) = new.assignment.validate() {
            return Err(Rejected::Invalid { generation, problem: invalid.to_string() });
        }
        if let Some(have) = &self.accepted
            && have.group == new.group
            && have.uid == new.uid
            && have.assignment.format == new.assignment.format
        {
            let have_generation = have.assignment.generation;
            if generation < have_generation {
                return Err(Rejected::Older { got: generation, have: have_generation });
            }
            if generation == have_generation {
                return if have.assignment == new.assignment {
                    Ok(false)
                } else {
                    Err(Rejected::SameGeneration { generation })
                };
            }
        }
        self.accepted = Some(new);
        Ok(true)
    }

    /// Says which units stay on stable here. True if that is a change.
    pub(crate) fn keep_stable(&mut self, units: BTreeSet<UnitRef>) -> bool {
        let changed = self.keep_stable != units;
        self.keep_stable = units;
        changed
    }

    pub(crate) fn kept_stable(&self) -> &BTreeSet<UnitRef> {
        &self.keep_stable
    }

    pub(crate) fn accepted(&self) -> Option<&Accepted> {
        self.accepted.as_ref()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.accepted.as_ref().map_or(0, |a| a.assignment.generation)
    }

    /// What is wanted of each unit.
    pub(crate) fn wants(&self) -> BTreeMap<UnitRef, Want> {
        let entries = self.accepted.iter().flat_map(|a| &a.assignment.entries);
        entries
            .map(|entry| {
                let unit = entry.unit();
                let run = if self.keep_stable.contains(&unit) { &entry.stable } else { &entry.revision };
                let want = Want { run: run.clone(), stable: entry.stable.clone(), since: entry.since };
                (unit, want)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use sluice_config::{Entry, Environment, FORMAT, UnitKind};

    use super::*;

    fn accepted(generation: u64, entries: Vec<Entry>) -> Accepted {
        Accepted {
            group: "canary".into(),
            uid: Some("1".into()),
            assignment: Assignment {
                format: FORMAT,
                environment: Environment::Production,
                generation,
                stages: vec!["edge".into()],
                entries,
            },
        }
    }

    fn entry(name: &str) -> Entry {
        Entry {
            kind: UnitKind::Worker,
            namespace: "team".into(),
            name: name.into(),
            revision: Some(Digest::of(b"new")),
            stable: Some(Digest::of(b"stable")),
            since: 1,
        }
    }

    #[test]
    fn generations_only_go_up() {
        let mut desired = Desired::default();
        assert_eq!(desired.accept(accepted(5, vec![])), Ok(true));
        assert_eq!(desired.accept(accepted(5, vec![])), Ok(false));
        assert_eq!(desired.accept(accepted(4, vec![])), Err(Rejected::Older { got: 4, have: 5 }));
        assert_eq!(desired.accept(accepted(5, vec![entry("a")])), Err(Rejected::SameGeneration { generation: 5 }));
        assert_eq!(desired.generation(), 5);
        assert_eq!(desired.accept(accepted(6, vec![])), Ok(true));
    }

    #[test]
    fn an_object_made_anew_starts_its_own_count() {
        let mut desired = Desired::default();
        desired.accept(accepted(5, vec![])).unwrap();
        let mut anew = accepted(1, vec![]);
        anew.uid = Some("2".into());
        assert_eq!(desired.accept(anew), Ok(true));
        assert_eq!(desired.generation(), 1);
    }

    #[test]
    fn an_invalid_assignment_changes_nothing() {
        let mut desired = Desired::default();
        desired.accept(accepted(5, vec![entry("a")])).unwrap();
        let before = desired.wants();
        let twice = accepted(6, vec![entry("a"), entry("a")]);
        assert!(matches!(desired.accept(twice), Err(Rejected::Invalid { generation: 6, .. })));
        assert_eq!(desired.wants(), before);
    }

    #[test]
    fn a_unit_kept_stable_runs_its_stable_here() {
        let mut desired = Desired::default();
        desired.accept(accepted(5, vec![entry("a"), entry("b")])).unwrap();
        let a = entry("a").unit();
        assert!(desired.keep_stable([a.clone()].into()));
        let wants = desired.wants();
        assert_eq!(wants[&a].run, Some(Digest::of(b"stable")));
        assert_eq!(wants[&entry("b").unit()].run, Some(Digest::of(b"new")));
        assert!(!desired.keep_stable([a].into()));
    }
}
