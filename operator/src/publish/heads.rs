//! What each branch wants of each unit, in the Units' specs. The planner's memory beside it is not touched.

use std::collections::{BTreeMap, BTreeSet};

use kube::{ResourceExt, api::ObjectMeta};
use sluice_config::{Environment, UnitRef};
use sluice_crds::{Head, Memory, Unit, UnitEnvironments, UnitSpec};

use super::{
    Input, NOT_STORED, Problems, Wanted, is_of,
    sets::{Member, Sets},
};
use crate::{
    at_once,
    execute::Hands,
    source::{CommitInfo, ParsedRevision, RepositoryId},
    writer::WriteError,
};

/// A unit's object changes under our hands while its rollout advances; so often it is tried again.
const TRIES: usize = 8;

/// Writes the heads of all units of the repository. What could not be written, by unit.
pub(super) async fn write(
    hands: &Hands,
    input: &Input<'_>,
    ready: &Wanted<'_>,
    sets: &Sets,
    problems: &Problems,
) -> Problems {
    let of_repository = hands.stores.units.state_filter(|unit| is_of(unit, input.id));
    let known = of_repository.iter().filter_map(|unit| UnitRef::of_object(&unit.namespace()?, &unit.name_any()));
    let units: BTreeSet<UnitRef> = known.chain(ready.keys().cloned()).chain(problems.keys().cloned()).collect();
    let nothing = BTreeMap::new();
    let mut work = Vec::new();
    for unit in units {
        let wanted = ready.get(&unit).unwrap_or(&nothing);
        let wishes = Wishes { wanted, sets, broken: problems.contains_key(&unit) };
        work.push(write_or_lose(hands, input, unit, wishes));
    }
    at_once::all(work).await.into_iter().flatten().collect()
}

async fn write_or_lose(
    hands: &Hands,
    input: &Input<'_>,
    unit: UnitRef,
    wishes: Wishes<'_>,
) -> Option<(UnitRef, (String, String))> {
    let written = write_one(hands, input, &unit, &wishes).await;
    written.err().map(|problem| (unit, problem))
}

/// What is wanted of one unit.
struct Wishes<'a> {
    wanted: &'a BTreeMap<Environment, &'a ParsedRevision>,
    sets: &'a Sets,
    /// Whether some file of it cannot be used.
    broken: bool,
}

async fn write_one(
    hands: &Hands,
    input: &Input<'_>,
    unit: &UnitRef,
    wishes: &Wishes<'_>,
) -> Result<(), (String, String)> {
    let failed = |error: WriteError| (NOT_STORED.to_owned(), error.to_string());
    let name = unit.object_name();
    let api = hands.api::<Unit>(&unit.namespace);
    let mut cached = hands.stores.unit(unit).map(|stored| Unit::clone(&stored));
    for _ in 0..TRIES {
        let written = match cached {
            Some(stored) if stored.spec.repository != input.id.name && !is_free(hands, &stored) => {
                let text = format!(
                    "the name {unit} belongs to repository {}: rename the unit, or remove it there first",
                    stored.spec.repository
                );
                return Err(("NameTaken".to_owned(), text));
            }
            Some(stored) => {
                let mut next = stored.clone();
                next.spec.repository.clone_from(&input.id.name);
                // Should anybody have edited them: they say what the object's name says.
                (next.spec.kind, next.spec.name) = (unit.kind, unit.name.clone());
                update(&mut next.spec.environments, input, unit, wishes);
                if next.spec == stored.spec {
                    return Ok(());
                }
                input.published.begin(input.id);
                hands.writer.replace(&api, &hands.stores.units, next).await
            }
            None => {
                let mut environments = UnitEnvironments::default();
                update(&mut environments, input, unit, wishes);
                let spec = UnitSpec {
                    kind: unit.kind,
                    name: unit.name.clone(),
                    repository: input.id.name.clone(),
                    environments,
                };
                let metadata = ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(unit.namespace.clone()),
                    ..ObjectMeta::default()
                };
                let object = Unit { metadata, spec, status: None };
                input.published.begin(input.id);
                hands.writer.create(&api, Some(&hands.stores.units), &object).await
            }
        };
        match written {
            Ok(_) => return Ok(()),
            Err(WriteError::Conflict { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        // Somebody was quicker: look at what is stored, not at what the watch shows so far.
        let ask = |source| failed(WriteError::Api { what: format!("Unit {name}"), source: Box::new(source) });
        cached = api.get_opt(&name).await.map_err(ask)?;
        if let Some(stored) = &cached {
            // Perhaps there is nothing left to write: a plan waits for what was read as well.
            hands.writer.expect(&hands.stores.units, stored);
        }
    }
    Err((NOT_STORED.to_owned(), format!("Unit {name} changes too fast: it is tried again at the next poll")))
}

/// Whether nobody uses a unit's name any more: its Repository is gone, or took it out and nothing of it runs.
fn is_free(hands: &Hands, unit: &Unit) -> bool {
    let repository =
        RepositoryId { namespace: unit.namespace().unwrap_or_default(), name: unit.spec.repository.clone() };
    let environments = &unit.spec.environments;
    let is_gone = |memory: &Memory| {
        memory.head.as_ref().is_none_or(|head| head.digest.is_none())
            && memory.stable.as_ref().is_none_or(|stable| stable.digest.is_none())
            && memory.in_flight.is_none()
    };
    hands.stores.repository(&repository).is_none()
        || (is_gone(&environments.staging) && is_gone(&environments.production))
}

/// Sets what could be read. A branch that could not be, and a broken file, leave what was.
fn update(environments: &mut UnitEnvironments, input: &Input<'_>, unit: &UnitRef, wishes: &Wishes<'_>) {
    for (environment, head) in input.heads {
        let Ok(head) = head else { continue };
        let memory: &mut Memory = match environment {
            Environment::Staging => &mut environments.staging,
            Environment::Production => &mut environments.production,
        };
        let member = wishes.sets.get(environment).and_then(|sets| sets.get(unit));
        match wishes.wanted.get(environment) {
            Some(parsed) => set(memory, Some(&parsed.digest), &head.commit, member),
            None if wishes.broken => {}
            None => set(memory, None, &head.commit, member),
        }
    }
}

/// The commit is the one in which the content was first seen: later ones that leave it alone change nothing. What goes
/// together has one commit.
fn set(memory: &mut Memory, digest: Option<&sluice_config::Digest>, commit: &CommitInfo, member: Option<&Member>) {
    let together = member.map(|member| &member.together);
    let stamp = member.and_then(|member| member.commit.as_ref());
    let same = |head: &Head| {
        let stamped = stamp.is_none_or(|stamp| stamp.sha == head.commit);
        head.digest.as_ref() == digest && head.together.as_ref() == together && stamped
    };
    if memory.head.as_ref().is_some_and(same) {
        return;
    }
    memory.head = Some(Head {
        digest: digest.cloned(),
        commit: commit.sha.clone(),
        author: commit.author.clone(),
        subject: commit.subject.clone(),
        together: together.cloned(),
    });
}
