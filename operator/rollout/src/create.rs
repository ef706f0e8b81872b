//! Makes an attempt, Pending, of each thing that a branch wants and that is not so.

use crate::{
    Effect, Environment, Head, Rejection, RolloutId, RolloutSpec, Unit, UnitId, UnitReport, Write, adopt, start,
    view::View,
    wish::{self, Wish},
};

/// Creates the attempt that a unit's branch asks for, or says why there is none.
pub(crate) fn missing(
    view: &View<'_>,
    id: &UnitId,
    unit: &Unit,
    environment: Environment,
) -> (Option<Effect>, Option<UnitReport>) {
    if start::is_elsewhere(view, id, environment) {
        return (None, None);
    }
    if let Some(Head::Unknown { reason }) = unit.heads.get(&environment) {
        return (None, unknown(view, id, environment, reason));
    }
    let wish = match wish::of(view, id, environment) {
        Ok(Some(wish)) => wish,
        Ok(None) => return (None, None),
        Err(missing) => {
            let differs = view.wanted(id, environment).is_some_and(|wanted| wanted != view.stable(id, environment));
            return (None, differs.then(|| UnitReport::Together { unit: missing.clone() }));
        }
    };
    if !wish.changes(id) {
        return (None, None);
    }
    if let Some((change, Rejection { by, why })) = wish.rejected(view, environment) {
        let report = UnitReport::Rejected { target: change.target.clone(), by: by.clone(), why: why.clone() };
        return (None, Some(report));
    }
    if wish.is_under_way(view, environment) {
        return (None, None);
    }
    if let Some(repository) = start::gone(view, id) {
        return (None, Some(UnitReport::NoRepository { repository }));
    }
    let lost = wish.changes.iter().any(|change| adopt::lost_stable(view, &change.unit, environment).is_some());
    // Of several that go together, the first has it made.
    let is_first = wish.changes.first().is_some_and(|change| change.unit == *id);
    if lost || !is_first {
        return (None, None);
    }
    (Some(first(view, wish, environment)), None)
}

fn first(view: &View<'_>, wish: Wish<'_>, environment: Environment) -> Effect {
    let Wish { changes: units, name, commit, author } = wish;
    let last = units.iter().map(|change| last_attempt(view, &change.unit, environment)).max();
    let attempt = last.unwrap_or(0).saturating_add(1);
    let alone = units.iter().any(|change| {
        let suspect = view.memory(&change.unit, environment).suspect.as_ref();
        suspect.is_some_and(|suspect| suspect.target == change.target)
    });
    let rollout = match (units.as_slice(), name) {
        ([change], _) => RolloutId::of(&change.unit, environment, &change.target, attempt),
        (_, name) => RolloutId::together(name.unwrap_or_default(), environment, &units, attempt),
    };
    let (commit, author) = (commit.to_owned(), author.to_owned());
    let spec = RolloutSpec { environment, units, attempt, alone, commit, author };
    Effect { write: Write::CreateRollout { rollout, spec }, events: Vec::new() }
}

/// A branch that cannot be read matters only for units that it could change.
fn unknown(view: &View<'_>, id: &UnitId, environment: Environment, reason: &str) -> Option<UnitReport> {
    let remembered = view.memory(id, environment).stable.is_some();
    remembered.then(|| UnitReport::HeadUnknown { reason: reason.to_owned() })
}

/// Number of the last attempt that is remembered or exists.
pub(crate) fn last_attempt(view: &View<'_>, id: &UnitId, environment: Environment) -> u32 {
    let existing = view.attempts(id, environment).last();
    let existing = existing.map_or(0, |(_, rollout)| rollout.spec.attempt);
    existing.max(view.memory(id, environment).attempts)
}
