//! What stands between a Pending attempt and its start.

use std::collections::BTreeSet;

use crate::{
    Digest, Elsewhere, Environment, Head, InStaging, Phase, Rollout, RolloutId, StagingEvidence, Target, UnitChange,
    UnitId, Waiting, Wanted, room,
    view::{View, target_of},
    wish,
};

/// Fewer digits of a commit confirm nothing.
const COMMIT_DIGITS_MIN: usize = 7;

/// All that a Pending attempt waits for, but for the attempt that has its unit.
pub(crate) fn blockers(view: &View<'_>, id: &RolloutId, rollout: &Rollout) -> Vec<Waiting> {
    let mut waiting = own_blockers(view, rollout);
    waiting.extend(alone(view, id, rollout));
    waiting
}

/// The same without what other suspects are to it.
fn own_blockers(view: &View<'_>, rollout: &Rollout) -> Vec<Waiting> {
    let environment = rollout.spec.environment;
    let mut waiting = Vec::new();
    if let Some(said) = &rollout.verbs.pause {
        waiting.push(Waiting::Resume { by: said.by.clone() });
    }
    for change in &rollout.spec.units {
        waiting.extend(gone(view, &change.unit).map(|repository| Waiting::Repository { repository }));
        waiting.extend(head(view, change, environment));
        waiting.extend(content(view, change));
        waiting.extend(staging(view, change, rollout));
        waiting.extend(together(view, change, environment));
        waiting.extend(references(view, change, rollout));
        waiting.extend(claims(view, change, rollout));
        waiting.extend(confirmation(view, change, environment));
        waiting.extend(room::missing(view, change, environment));
    }
    let mut groups = view.snapshot.groups.values();
    if !groups.any(|group| group.environment == environment) {
        waiting.push(Waiting::NoGroups { environment });
    }
    waiting
}

/// The attempts that have this one's units and must finish first. A newer revision replaces a staging
/// attempt at once, a production attempt only where that is paused or going back.
pub(crate) fn queue(view: &View<'_>, id: &RolloutId, rollout: &Rollout) -> Vec<Waiting> {
    let environment = rollout.spec.environment;
    let units = rollout.spec.units.iter();
    let others = units.filter_map(|change| view.in_flight(&change.unit, environment));
    others
        .filter(|(other, _)| *other != id)
        .filter(|(_, other)| !gives_way(other))
        .map(|(other, _)| Waiting::Attempt { rollout: other.clone() })
        .collect()
}

/// Whether an attempt lets a newer one take its units.
fn gives_way(rollout: &Rollout) -> bool {
    match rollout.status.phase {
        Phase::Pending => false,
        Phase::Progressing => rollout.spec.environment == Environment::Staging,
        Phase::Paused | Phase::Reverting => true,
        Phase::Succeeded | Phase::Reverted | Phase::Aborted | Phase::Superseded => true,
    }
}

/// The Repository of a unit, if that is gone: nobody knows any more what it asked of staging, nor what its branch wants.
pub(crate) fn gone(view: &View<'_>, unit: &UnitId) -> Option<String> {
    let id = &view.unit(unit)?.repository;
    (!view.snapshot.repositories.contains_key(id)).then(|| id.name.clone())
}

fn head(view: &View<'_>, change: &UnitChange, environment: Environment) -> Option<Waiting> {
    let unit = view.unit(&change.unit);
    match unit.and_then(|unit| unit.heads.get(&environment)) {
        Some(Head::Wants { .. }) => None,
        Some(Head::Unknown { reason }) => Some(Waiting::Head { reason: reason.clone() }),
        None => Some(Waiting::Head { reason: "nobody has read it".to_owned() }),
    }
}

fn together(view: &View<'_>, change: &UnitChange, environment: Environment) -> Option<Waiting> {
    let missing = wish::of(view, &change.unit, environment).err()?;
    Some(Waiting::Together { unit: missing.clone() })
}

/// Without the content nobody knows the gates.
pub(crate) fn content(view: &View<'_>, change: &UnitChange) -> Option<Waiting> {
    let digest = change.target.digest()?;
    let missing = !view.snapshot.revisions.contains_key(digest);
    missing.then(|| Waiting::RevisionContent { target: change.target.clone() })
}

fn staging(view: &View<'_>, change: &UnitChange, rollout: &Rollout) -> Option<Waiting> {
    let approved = rollout.verbs.approve.is_some();
    let lacks = !approved && lacks_evidence(view, change, rollout.spec.environment);
    if !lacks {
        return None;
    }
    let there = match evidence_asked(view, &change.unit)? {
        StagingEvidence::CommitStatus if may_leave(view, change) => {
            InStaging::Elsewhere(view.snapshot.elsewhere.get(change).cloned())
        }
        StagingEvidence::CommitStatus => InStaging::Absent,
        StagingEvidence::InCluster | StagingEvidence::None => here(view, change),
    };
    Some(Waiting::Staging { target: change.target.clone(), there })
}

/// How the staging of this cluster stands to it.
fn here(view: &View<'_>, change: &UnitChange) -> InStaging {
    let memory = view.memory(&change.unit, Environment::Staging);
    let attempt = view.last_attempt_at(&change.unit, Environment::Staging, &change.target);
    match (memory.rejected.get(&change.target), attempt) {
        (Some(rejection), _) => InStaging::Rejected(rejection.by.clone()),
        (None, Some((id, attempt))) if !attempt.status.phase.is_over() => InStaging::Tried(id.clone()),
        (None, _) => InStaging::Absent,
    }
}

/// What a unit's Repository asks of staging; none if it is gone: then nothing starts, whatever was shown.
fn evidence_asked(view: &View<'_>, unit: &UnitId) -> Option<StagingEvidence> {
    let unit = view.unit(unit)?;
    Some(view.snapshot.repositories.get(&unit.repository)?.staging_evidence)
}

/// Whether this environment of a unit is another cluster's: its branch is read here, and nothing of it is tried.
pub(crate) fn is_elsewhere(view: &View<'_>, unit: &UnitId, environment: Environment) -> bool {
    environment == Environment::Staging && evidence_asked(view, unit) == Some(StagingEvidence::CommitStatus)
}

/// What of an attempt another cluster's staging is asked, until the attempt starts. Also where a person approved: the
/// event tells whether that was needed.
pub(crate) fn to_ask(view: &View<'_>, rollout: &Rollout) -> Vec<Wanted> {
    if rollout.spec.environment == Environment::Staging {
        return Vec::new();
    }
    let units = rollout.spec.units.iter();
    let asked = units.filter(|change| evidence_asked(view, &change.unit) == Some(StagingEvidence::CommitStatus));
    asked.map(|change| Wanted::Evidence { change: change.clone() }).collect()
}

/// Whether a status could be the evidence. What staging's branch has again is not gone there, whatever was said before.
fn may_leave(view: &View<'_>, change: &UnitChange) -> bool {
    change.target != Target::Removed || view.wanted(&change.unit, Environment::Staging) == Some(&Target::Removed)
}

/// Whether staging has not shown what production asks for.
pub(crate) fn lacks_evidence(view: &View<'_>, change: &UnitChange, environment: Environment) -> bool {
    match (environment, evidence_asked(view, &change.unit)) {
        (Environment::Staging, _) | (_, None | Some(StagingEvidence::None)) => return false,
        (Environment::Production, Some(StagingEvidence::CommitStatus)) => {
            return view.snapshot.elsewhere.get(change) != Some(&Elsewhere::Passed) || !may_leave(view, change);
        }
        (Environment::Production, Some(StagingEvidence::InCluster)) => {}
    }
    let staging = view.memory(&change.unit, Environment::Staging);
    match &change.target {
        Target::Revision(digest) => !staging.passed.contains_key(digest),
        // That staging does without it now is newer than any time it was there.
        Target::Removed => {
            staging.in_flight.is_some() || *view.stable(&change.unit, Environment::Staging) != Target::Removed
        }
    }
}

/// What is referred to is there before what refers to it, and leaves after it; or comes and leaves with it.
fn references(view: &View<'_>, change: &UnitChange, rollout: &Rollout) -> Option<Waiting> {
    let environment = rollout.spec.environment;
    match &change.target {
        Target::Revision(digest) => {
            let revision = view.snapshot.revisions.get(digest)?;
            let mut units = revision.refers_to.iter();
            let absent = units.find(|unit| match target_of(rollout, unit) {
                Some(target) => *target == Target::Removed,
                None => *view.stable(unit, environment) == Target::Removed,
            })?;
            Some(Waiting::Reference { unit: absent.clone() })
        }
        Target::Removed => {
            let mut units = view.snapshot.units.keys().filter(|unit| **unit != change.unit);
            let referrer = units.find(|unit| {
                let mut running = will_run(view, unit, rollout).into_iter();
                running.any(|digest| refers(view, digest, &change.unit))
            })?;
            Some(Waiting::Referrer { unit: referrer.clone() })
        }
    }
}

fn refers(view: &View<'_>, digest: &Digest, unit: &UnitId) -> bool {
    let revision = view.snapshot.revisions.get(digest);
    revision.is_some_and(|revision| revision.refers_to.contains(unit))
}

/// The digests that some group of an environment may run of a unit.
fn running<'v>(view: &'v View<'_>, unit: &UnitId, environment: Environment) -> Vec<&'v Digest> {
    let stable = view.memory(unit, environment).stable.as_ref();
    let in_flight = view.in_flight(unit, environment);
    let target = in_flight.and_then(|(_, rollout)| target_of(rollout, unit));
    let targets = stable.into_iter().chain(target);
    targets.filter_map(Target::digest).collect()
}

/// The same, once an attempt is in: what it changes goes at once in each group.
fn will_run<'v>(view: &'v View<'_>, unit: &UnitId, rollout: &'v Rollout) -> Vec<&'v Digest> {
    match target_of(rollout, unit) {
        Some(target) => target.digest().into_iter().collect(),
        None => running(view, unit, rollout.spec.environment),
    }
}

/// A host and path belong to the unit that has them already, or else to the older one.
fn claims(view: &View<'_>, change: &UnitChange, rollout: &Rollout) -> Option<Waiting> {
    let environment = rollout.spec.environment;
    let claims = |digest: &Digest| {
        let revision = view.snapshot.revisions.get(digest)?;
        revision.claims.get(&environment)
    };
    let mine = claims(change.target.digest()?)?;
    let age = |unit: &UnitId| view.unit(unit).map(|unit| unit.created_at);
    let mut rivals: BTreeSet<&UnitId> = mine.iter().flat_map(|claim| view.claimants(environment, claim)).collect();
    rivals.extend(rollout.spec.units.iter().map(|change| &change.unit));
    let rivals = rivals.into_iter().filter(|unit| **unit != change.unit && view.unit(unit).is_some());
    for unit in rivals {
        let mut digests = will_run(view, unit, rollout);
        if (age(unit), unit) < (age(&change.unit), &change.unit) {
            let wanted = view.wanted(unit, environment);
            let rejected = &view.memory(unit, environment).rejected;
            digests.extend(wanted.filter(|target| !rejected.contains_key(target)).and_then(Target::digest));
        }
        let mut theirs = digests.into_iter().filter_map(claims).flatten();
        if let Some(claim) = theirs.find(|claim| mine.contains(*claim)) {
            return Some(Waiting::Claim { claim: claim.clone(), unit: unit.clone() });
        }
    }
    None
}

/// Many removals at once are more often a mistake than a wish.
fn confirmation(view: &View<'_>, change: &UnitChange, environment: Environment) -> Option<Waiting> {
    if change.target != Target::Removed {
        return None;
    }
    let id = &view.unit(&change.unit)?.repository;
    // Without it nothing starts anyway.
    let repository = view.snapshot.repositories.get(id)?;
    if !repository.whole.contains(&environment) {
        return Some(Waiting::Whole { repository: id.name.clone(), environment });
    }
    let units = view.snapshot.units.iter().filter(|(_, unit)| unit.repository == *id);
    let (mut removed, mut of) = (Vec::new(), 0);
    for (unit_id, unit) in units.filter(|(unit_id, _)| *view.stable(unit_id, environment) != Target::Removed) {
        of += 1;
        // One that was rejected stays until somebody asks for it: it goes with no commit.
        let rejected = view.memory(unit_id, environment).rejected.contains_key(&Target::Removed);
        if let Some(Head::Wants { target: Target::Removed, commit, .. }) = unit.heads.get(&environment)
            && !rejected
        {
            removed.push(commit.as_str());
        }
    }
    if removed.len() <= 2 || removed.len() * 10 <= of * 3 {
        return None;
    }
    let head = repository.commits.get(&environment).map(String::as_str);
    let confirmed = repository.removal_confirmed.as_deref();
    // Who confirms the branch's head confirms all that it removes, in whichever commit. A head that moved on
    // takes back nothing of what came with the confirmed commit alone.
    let is_confirmed = confirmed.filter(|commit| commit.len() >= COMMIT_DIGITS_MIN).is_some_and(|commit| {
        head.is_some_and(|head| head.starts_with(commit)) || removed.iter().all(|own| own.starts_with(commit))
    });
    let commit = head.or(removed.first().copied()).unwrap_or_default().to_owned();
    let (removed, repository) = (removed.len(), id.name.clone());
    (!is_confirmed).then_some(Waiting::Confirmation { removed, of, commit, repository })
}

/// Those that failed together run again one at a time, oldest first.
fn alone(view: &View<'_>, id: &RolloutId, rollout: &Rollout) -> Option<Waiting> {
    if !rollout.spec.alone {
        return None;
    }
    let environment = rollout.spec.environment;
    let others = view.snapshot.rollouts.iter();
    let mut others = others.filter(|(other, r)| *other != id && r.spec.alone && r.spec.environment == environment);
    let goes_first = others.find(|(other, r)| match r.status.phase {
        Phase::Progressing | Phase::Reverting => true,
        // A person may take days; should both go on at once, the groups keep them apart.
        Phase::Paused => false,
        Phase::Pending => {
            // One that cannot start yet must not keep the others waiting.
            view.has_its_units(other, r)
                || (suspect_since(view, r) < suspect_since(view, rollout) && own_blockers(view, r).is_empty())
        }
        Phase::Succeeded | Phase::Reverted | Phase::Aborted | Phase::Superseded => false,
    })?;
    Some(Waiting::Alone { rollout: goes_first.0.clone() })
}

/// Place in the queue of those that run alone.
fn suspect_since<'r>(view: &View<'_>, rollout: &'r Rollout) -> Option<(crate::Time, &'r UnitId)> {
    let units = rollout.spec.units.iter();
    let since = units.filter_map(|change| {
        let memory = view.memory(&change.unit, rollout.spec.environment);
        Some((memory.suspect.as_ref()?.since, &change.unit))
    });
    since.min()
}
