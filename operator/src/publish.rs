//! From what a poll saw to the cluster: artifacts first, then Revisions, then the heads that name them.

mod heads;
mod repository;
mod sets;

use std::collections::BTreeMap;

use kube::{ResourceExt, api::ObjectMeta};
use sluice_config::{Environment, UnitRef};
use sluice_crds::{RepositorySpec, Revision, RevisionSpec};

use crate::{
    at_once,
    execute::Hands,
    holdings::Holdings,
    published::{Commits, Published},
    source::{Credentials, Heads, ParsedRevision, RepositoryId},
    writer::WriteError,
};

pub use repository::trouble;

/// What is wrong with units' files: a reason in one word, and a sentence with file and line.
pub type Problems = BTreeMap<UnitRef, (String, String)>;

/// The reason of what the API server did not take.
const NOT_STORED: &str = "NotStored";

/// What a poll saw, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Which repository.
    pub id: &'a RepositoryId,
    /// As it was polled.
    pub spec: &'a RepositorySpec,
    /// To fetch artifacts with.
    pub credentials: Option<&'a Credentials>,
    /// The heads.
    pub heads: &'a Heads,
    /// Where it is told what is published whole.
    pub published: &'a Published,
}

impl Input<'_> {
    /// The commits of those branches that could be read.
    fn commits(&self) -> Commits {
        let read = self.heads.iter();
        read.filter_map(|(environment, head)| Some((*environment, head.as_ref().ok()?.commit.sha.clone()))).collect()
    }
}

/// What each unit is wanted to be, as far as it could be read.
type Wanted<'a> = BTreeMap<UnitRef, BTreeMap<Environment, &'a ParsedRevision>>;

/// Publishes all that can be. One unit's trouble stops no other. What is wrong, by unit.
pub async fn publish(hands: &Hands, holdings: &Holdings, input: &Input<'_>) -> Problems {
    let (wanted, mut problems) = read(input);
    let mut ready: Wanted<'_> = BTreeMap::new();
    let mut work = Vec::new();
    for (unit, by_environment) in &wanted {
        work.push(store_all(hands, holdings, input, unit, by_environment));
    }
    let stored = at_once::all(work);
    for (unit, environment, parsed, stored) in stored.await.into_iter().flatten() {
        match stored {
            Ok(()) => drop(ready.entry(unit.clone()).or_default().insert(environment, parsed)),
            Err((reason, text)) => drop(problems.insert(unit.clone(), (reason, text))),
        }
    }
    let units = hands.stores.units.state_filter(|unit| is_of(unit, input.id));
    let sets = sets::of(&units, input);
    for (unit, member) in sets.values().flatten() {
        let count = member.together.units.len();
        if count > sets::UNITS_MAX {
            let text =
                format!("{count} units go together as {}: keep at most {}", member.together.name, sets::UNITS_MAX);
            ready.remove(unit);
            problems.insert(unit.clone(), ("TooManyTogether".to_owned(), text));
        }
    }
    let lost = heads::write(hands, input, &ready, &sets, &problems).await;
    // Of a broken unit, and of one whose name is another's, all that there is to see is seen. What a head lacks is tried
    // again at the next poll.
    let is_whole = lost.values().all(|(reason, _)| reason != NOT_STORED);
    problems.extend(lost);
    repository::report(hands, input, &problems).await;
    if is_whole {
        input.published.end(input.id, &input.commits());
    }
    problems
}

/// What can be read, and what cannot. A unit may be fine in one branch and broken in the other.
fn read<'a>(input: &Input<'a>) -> (Wanted<'a>, Problems) {
    let (mut wanted, mut problems) = (Wanted::new(), Problems::new());
    for (environment, head) in input.heads {
        let Ok(head) = head else { continue };
        for parsed in &head.units {
            match &parsed.result {
                Ok(revision) => drop(wanted.entry(parsed.unit.clone()).or_default().insert(*environment, revision)),
                Err(problem) => {
                    let text = format!("{environment}: {problem}");
                    problems.insert(parsed.unit.clone(), ("BadManifest".to_owned(), text));
                }
            }
        }
    }
    (wanted, problems)
}

/// What came of one unit in one environment.
type Stored<'a> = (&'a UnitRef, Environment, &'a ParsedRevision, Result<(), (String, String)>);

/// Both branches may want the same revision of a unit: one after the other, so that it is stored once.
async fn store_all<'a>(
    hands: &Hands,
    holdings: &Holdings,
    input: &Input<'_>,
    unit: &'a UnitRef,
    by_environment: &BTreeMap<Environment, &'a ParsedRevision>,
) -> Vec<Stored<'a>> {
    let mut all = Vec::new();
    for (environment, parsed) in by_environment {
        all.push((unit, *environment, *parsed, store(hands, holdings, input, unit, parsed).await));
    }
    all
}

/// The artifact on this replica's disk, then the Revision: whoever sees the Revision can get the artifact.
async fn store(
    hands: &Hands,
    holdings: &Holdings,
    input: &Input<'_>,
    unit: &UnitRef,
    parsed: &ParsedRevision,
) -> Result<(), (String, String)> {
    if parsed.artifact.is_some() {
        let kept = holdings.keep(input.id, input.spec, input.credentials, parsed).await;
        kept.map_err(|text| ("ArtifactMissing".to_owned(), text))?;
    }
    let name = RevisionSpec::object_name(unit, &parsed.digest);
    let mut stored = hands.stores.revision(unit, &parsed.digest).map(|revision| revision.spec.digest.clone());
    if stored.is_none() {
        let spec = RevisionSpec {
            digest: parsed.digest.clone(),
            content: parsed.revision.clone(),
            source: parsed.source.clone(),
        };
        let metadata =
            ObjectMeta { name: Some(name.clone()), namespace: Some(unit.namespace.clone()), ..ObjectMeta::default() };
        let api = hands.api::<Revision>(&unit.namespace);
        match hands.writer.create(&api, Some(&hands.stores.revisions), &Revision { metadata, spec }).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Conflict { .. }) => {
                let there = api.get_opt(&name).await.ok().flatten();
                stored = there.map(|revision| revision.spec.digest);
            }
            Err(error) => return Err((NOT_STORED.to_owned(), error.to_string())),
        }
    }
    match stored {
        Some(digest) if digest == parsed.digest => Ok(()),
        _ => Err((NOT_STORED.to_owned(), format!("Revision {name} holds other content: delete it"))),
    }
}

/// Whose unit this is.
pub(crate) fn is_of(unit: &sluice_crds::Unit, id: &RepositoryId) -> bool {
    unit.spec.repository == id.name && unit.namespace().as_deref() == Some(id.namespace.as_str())
}
