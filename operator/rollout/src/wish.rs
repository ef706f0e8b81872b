//! What the branch wants of a unit, with all that goes together with it: one combination of changes, tried as one.
//!
//! The heads of units are stored one by one. Each names all that go together with it and their commit, so that a
//! combination is only begun when all its heads are there, and say the same.

use crate::{
    Environment, Head, Rejection, Rollout, RolloutId, Together, UnitChange, UnitId,
    view::{View, target_of},
};

/// What a branch wants to change as one.
pub(crate) struct Wish<'a> {
    /// The units that differ from stable, in order.
    pub(crate) changes: Vec<UnitChange>,
    /// What they share a name by, if there are several to go together.
    pub(crate) name: Option<&'a str>,
    pub(crate) commit: &'a str,
    pub(crate) author: &'a str,
}

/// What the branch wants of a unit; none if nobody can tell. The error is the unit whose head is missing.
pub(crate) fn of<'a>(view: &View<'a>, unit: &UnitId, environment: Environment) -> Result<Option<Wish<'a>>, &'a UnitId> {
    let Some(Head::Wants { commit, author, together, .. }) = head(view, unit, environment) else { return Ok(None) };
    let none = std::slice::from_ref(unit).iter();
    let mut changes = Vec::new();
    let mut add = |unit: &UnitId| {
        let wanted = view.wanted(unit, environment).filter(|wanted| *wanted != view.stable(unit, environment));
        changes.extend(wanted.map(|target| UnitChange { unit: unit.clone(), target: target.clone() }));
    };
    match together {
        None => none.for_each(add),
        Some(Together { units, .. }) => {
            let says_the_same = |member: &UnitId| match head(view, member, environment) {
                Some(Head::Wants { commit: theirs, together: with, .. }) => theirs == commit && with == together,
                Some(Head::Unknown { .. }) | None => false,
            };
            if let Some(missing) = units.iter().find(|member| !says_the_same(member)) {
                return Err(missing);
            }
            units.iter().for_each(&mut add);
        }
    }
    let name = together.as_ref().map(|together| together.name.as_str());
    Ok(Some(Wish { changes, name, commit, author }))
}

fn head<'a>(view: &View<'a>, unit: &UnitId, environment: Environment) -> Option<&'a Head> {
    view.unit(unit)?.heads.get(&environment)
}

impl Wish<'_> {
    /// Whether this unit is among what changes.
    pub(crate) fn changes(&self, unit: &UnitId) -> bool {
        self.changes.iter().any(|change| change.unit == *unit)
    }

    /// Why it does not come back by itself, if so.
    pub(crate) fn rejected<'v>(
        &self,
        view: &'v View<'_>,
        environment: Environment,
    ) -> Option<(&UnitChange, &'v Rejection)> {
        self.changes.iter().find_map(|change| {
            let rejection = view.memory(&change.unit, environment).rejected.get(&change.target)?;
            self.is_rejected_by(view, rejection).then_some((change, rejection))
        })
    }

    /// Whether a rejection is of just this: what failed together with something else may be tried with another.
    pub(crate) fn is_rejected_by(&self, view: &View<'_>, rejection: &Rejection) -> bool {
        let by = view.rollout(&rejection.by);
        !by.is_some_and(|by| by.spec.units.len() > 1 && by.spec.units != self.changes)
    }

    /// The last attempt at just this.
    pub(crate) fn last_attempt<'a>(
        &self,
        view: &View<'a>,
        environment: Environment,
    ) -> Option<(&'a RolloutId, &'a Rollout)> {
        let first = self.changes.first()?;
        let attempts = view.attempts(&first.unit, environment).iter().rev();
        attempts.copied().find(|(_, rollout)| rollout.spec.units == self.changes)
    }

    /// Whether an attempt at it is not over, or is over and not yet in its units' memory: only that tells whether
    /// it was rejected.
    pub(crate) fn is_under_way(&self, view: &View<'_>, environment: Environment) -> bool {
        let open = self.last_attempt(view, environment).is_some_and(|(_, rollout)| !rollout.status.phase.is_over());
        let mut changes = self.changes.iter();
        open || changes.any(|change| {
            let in_flight = view.in_flight(&change.unit, environment);
            in_flight.is_some_and(|(_, rollout)| {
                rollout.status.phase.is_over() && target_of(rollout, &change.unit) == Some(&change.target)
            })
        })
    }
}
