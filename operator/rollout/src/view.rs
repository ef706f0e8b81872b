//! Questions that every part of the planner asks of a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Cause, Digest, Environment, Group, Head, Phase, Rollout, RolloutId, Snapshot, Target, Time, Unit, UnitId,
    UnitMemory, index::Index, room::Room,
};

/// Attempts with their names.
type Attempts<'a> = Vec<(&'a RolloutId, &'a Rollout)>;

/// By environment and claim, the units that have it or want it.
type Claimants<'a> = BTreeMap<Environment, BTreeMap<&'a str, BTreeSet<&'a UnitId>>>;

/// A snapshot with the indexes that keep a plan linear in its size.
pub(crate) struct View<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) now: Time,
    units: Index<'a, UnitId, &'a Unit>,
    rollouts: Index<'a, RolloutId, &'a Rollout>,
    /// Attempts of a unit in an environment, oldest first.
    of_unit: Index<'a, UnitId, BTreeMap<Environment, Attempts<'a>>>,
    /// Who accuses whom of a failure that nobody can attribute.
    accusers: BTreeMap<&'a RolloutId, &'a RolloutId>,
    /// Attempts that are not over and run alone.
    alone: Attempts<'a>,
    /// Empty where no attempt waits to start: none but those ask.
    claimants: Claimants<'a>,
    /// A report of a later generation than this is none.
    pub(crate) generation_max: u64,
    rooms: BTreeMap<Environment, Room<'a>>,
    nothing: UnitMemory,
}

/// So far a restored backup may lie behind what nodes run. One node that writes nonsense must not use up the
/// numbers: nobody would believe what the others report then.
const GENERATIONS_AHEAD_MAX: u64 = 1_000_000;

impl<'a> View<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, now: Time) -> Self {
        let (mut accusers, mut alone) = (BTreeMap::new(), Vec::new());
        for (id, rollout) in &snapshot.rollouts {
            if rollout.spec.alone && !rollout.status.phase.is_over() {
                alone.push((id, rollout));
            }
            if let Some(Cause::Shared { with }) = &rollout.status.cause {
                accusers.extend(with.iter().map(|accused| (accused, id)));
            }
        }
        let mut by_attempt: Attempts<'_> = snapshot.rollouts.iter().collect();
        by_attempt.sort_by_key(|(_, rollout)| rollout.spec.attempt);
        let mut of_unit = Index::<_, BTreeMap<_, Attempts<'_>>>::default();
        for (id, rollout) in by_attempt {
            for change in &rollout.spec.units {
                of_unit.entry(&change.unit).entry(rollout.spec.environment).or_default().push((id, rollout));
            }
        }
        let assigned = snapshot.groups.values().filter_map(|group| group.assignment.as_ref());
        let assigned = assigned.map(|assignment| assignment.generation).max().unwrap_or(0);
        let generation_max = assigned.saturating_add(GENERATIONS_AHEAD_MAX);
        let mut view = Self {
            snapshot,
            now,
            units: snapshot.units.iter().collect(),
            rollouts: snapshot.rollouts.iter().collect(),
            of_unit,
            accusers,
            alone,
            claimants: Claimants::new(),
            generation_max,
            rooms: Room::count(snapshot),
            nothing: UnitMemory::default(),
        };
        if snapshot.rollouts.values().any(|rollout| rollout.status.phase == Phase::Pending) {
            view.claimants = view.all_claimants();
        }
        view
    }

    /// The attempt that failed a gate which could as well be this one's fault.
    pub(crate) fn accuser(&self, id: &RolloutId) -> Option<(&'a RolloutId, &'a Rollout)> {
        self.named(self.accusers.get(id)?)
    }

    /// What is known of a unit.
    pub(crate) fn unit(&self, id: &UnitId) -> Option<&'a Unit> {
        self.units.get(id).copied()
    }

    /// A rollout that exists.
    pub(crate) fn rollout(&self, id: &RolloutId) -> Option<&'a Rollout> {
        self.rollouts.get(id).copied()
    }

    fn named(&self, id: &RolloutId) -> Option<(&'a RolloutId, &'a Rollout)> {
        self.rollouts.get_key_value(id).map(|(id, rollout)| (id, *rollout))
    }

    /// The attempts that run alone and are not over, of any environment.
    pub(crate) fn alone(&self) -> impl Iterator<Item = (&'a RolloutId, &'a Rollout)> + use<'a, '_> {
        self.alone.iter().copied()
    }

    /// The units that run, are about to run, or want what claims this.
    pub(crate) fn claimants(&self, environment: Environment, claim: &str) -> impl Iterator<Item = &'a UnitId> {
        self.claimants.get(&environment).and_then(|claims| claims.get(claim)).into_iter().flatten().copied()
    }

    fn all_claimants(&self) -> Claimants<'a> {
        let mut claimants = Claimants::new();
        for (id, unit) in &self.snapshot.units {
            for environment in Environment::ALL {
                let stable = unit.memory.get(&environment).and_then(|memory| memory.stable.as_ref());
                let in_flight = self.in_flight(id, environment).and_then(|(_, rollout)| target_of(rollout, id));
                let targets = stable.into_iter().chain(in_flight).chain(self.wanted(id, environment));
                let revisions = targets.filter_map(|target| self.snapshot.revisions.get(target.digest()?));
                for claim in revisions.filter_map(|revision| revision.claims.get(&environment)).flatten() {
                    claimants.entry(environment).or_default().entry(claim.as_str()).or_default().insert(id);
                }
            }
        }
        claimants
    }

    /// Who takes room in the groups of an environment.
    pub(crate) fn room(&self, environment: Environment) -> Option<&Room<'a>> {
        self.rooms.get(&environment)
    }

    /// What is remembered of a unit in an environment.
    pub(crate) fn memory(&self, unit: &UnitId, environment: Environment) -> &UnitMemory {
        self.unit(unit).and_then(|unit| unit.memory.get(&environment)).unwrap_or(&self.nothing)
    }

    /// What the branch wants of a unit, if anyone can tell.
    pub(crate) fn wanted(&self, unit: &UnitId, environment: Environment) -> Option<&'a Target> {
        match self.unit(unit)?.heads.get(&environment)? {
            Head::Wants { target, .. } => Some(target),
            Head::Unknown { .. } => None,
        }
    }

    /// What a unit runs where no attempt holds it; a unit that never succeeded is as good as removed.
    pub(crate) fn stable(&self, unit: &UnitId, environment: Environment) -> &Target {
        self.memory(unit, environment).stable.as_ref().unwrap_or(&Target::Removed)
    }

    /// The same, as the digest of an assignment's entry.
    pub(crate) fn stable_digest(&self, unit: &UnitId, environment: Environment) -> Option<&Digest> {
        self.stable(unit, environment).digest()
    }

    /// All attempts of a unit in an environment, oldest first.
    pub(crate) fn attempts(&self, unit: &UnitId, environment: Environment) -> &[(&'a RolloutId, &'a Rollout)] {
        self.of_unit.get(unit).and_then(|of_unit| of_unit.get(&environment)).map_or(&[], Vec::as_slice)
    }

    /// The last attempt of a unit at a target.
    pub(crate) fn last_attempt_at(
        &self,
        unit: &UnitId,
        environment: Environment,
        target: &Target,
    ) -> Option<(&'a RolloutId, &'a Rollout)> {
        let attempts = self.attempts(unit, environment).iter().rev();
        attempts.copied().find(|(_, rollout)| target_of(rollout, unit) == Some(target))
    }

    /// The attempt that has a unit; none if there is none, or its object is gone.
    pub(crate) fn in_flight(&self, unit: &UnitId, environment: Environment) -> Option<(&'a RolloutId, &'a Rollout)> {
        let id = self.memory(unit, environment).in_flight.as_ref()?;
        self.named(id)
    }

    /// Whether an attempt has all of its units.
    pub(crate) fn has_its_units(&self, id: &RolloutId, rollout: &Rollout) -> bool {
        let environment = rollout.spec.environment;
        let mut units = rollout.spec.units.iter();
        units.all(|change| self.memory(&change.unit, environment).in_flight.as_ref() == Some(id))
    }

    /// A group, if it (still) exists in that environment.
    pub(crate) fn group(&self, name: &str, environment: Environment) -> Option<&'a Group> {
        let group = self.snapshot.groups.get(name)?;
        (group.environment == environment).then_some(group)
    }
}

/// What an attempt makes of a unit.
pub(crate) fn target_of<'a>(rollout: &'a Rollout, unit: &UnitId) -> Option<&'a Target> {
    let mut units = rollout.spec.units.iter();
    units.find(|change| change.unit == *unit).map(|change| &change.target)
}
