//! Looks at commits for a status that speaks of a revision.
//!
//! Staging's cluster tells each rollout at the commit in which it saw the revision first, and at the one that changed the
//! unit's files last. Two clusters that poll the same branch may see different commits first; which changed the files,
//! the provider says to both alike. So that is looked at, back to a few changes ago, in what both branches have behind
//! them: a merge keeps staging's commits, a squash does not.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use sluice_config::{Digest, UnitKind, UnitRef};
use sluice_rollout::{Elsewhere, Told};

use super::word::{self, Word};
use crate::{
    propose,
    provider::{self, Commit, Project, ProviderError, Seen, State, Statuses},
    source::Web,
};

/// Changes of a unit's files that are looked at: on staging's branch, and behind what production wants.
const STAGING_CHANGES: usize = 10;
const PRODUCTION_CHANGES: usize = 5;
/// Lists that are kept.
const LISTS_MAX: usize = 1000;
/// What is shown of a status.
const SAYS_CHARS_MAX: usize = 90;

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// The revision; none: the unit's absence.
    pub(super) revision: Option<Digest>,
    /// The status that speaks of it.
    pub(super) context: String,
    /// The unit's files and folders.
    pub(super) paths: Vec<String>,
    /// Head of staging's branch.
    pub(super) staging: Option<String>,
    /// Where this cluster saw just this on staging's branch.
    pub(super) seen: Option<String>,
    /// What production's branch wants it with.
    pub(super) production: Option<String>,
}

/// A unit's files, from the repository's root. What goes into its revision from elsewhere is named.
pub(crate) fn paths(root: &str, unit: &UnitRef, artifact: Option<&str>) -> Vec<String> {
    let manifest = match unit.kind {
        UnitKind::Worker => format!("workers/{}/worker.yaml", unit.name),
        UnitKind::Routes => format!("routes/{}.yaml", unit.name),
        UnitKind::Config => format!("config/{}.yaml", unit.name),
    };
    let manifest = match root.trim_matches('/') {
        "" => manifest,
        root => format!("{root}/{manifest}"),
    };
    propose::files(unit.kind, &manifest, artifact)
}

/// The commit that changed some of these paths last, as of a commit.
pub(crate) async fn origin(
    web: &Web,
    project: &Project<'_>,
    start: &str,
    paths: &[String],
) -> Result<Option<String>, ProviderError> {
    let mut changes = Vec::new();
    for path in paths {
        changes.extend(provider::commits(web, project, start, path, 1).await?);
    }
    Ok(newest_first(changes).into_iter().next().map(|commit| commit.sha))
}

/// The provider's order is kept where there is nothing to merge.
fn newest_first(mut commits: Vec<Commit>) -> Vec<Commit> {
    commits.sort_by_key(|commit| std::cmp::Reverse(commit.time));
    commits
}

/// Which commits changed a path, by where to start: as immutable as commits.
pub(super) type Lists = BTreeMap<(String, String), Vec<Commit>>;

/// One look at a provider. What was read is not read again in the same look.
pub(super) struct Look<'a> {
    web: &'a Web,
    project: Project<'a>,
    lists: &'a mut Lists,
    statuses: BTreeMap<String, Statuses>,
    /// Requests that it took.
    pub(super) requests: u32,
}

impl<'a> Look<'a> {
    pub(super) fn new(web: &'a Web, project: Project<'a>, lists: &'a mut Lists) -> Self {
        if lists.len() > LISTS_MAX {
            lists.clear();
        }
        Self { web, project, lists, statuses: BTreeMap::new(), requests: 0 }
    }

    /// How staging stands to it. The newest commit that has a word about it decides. Whatever cannot be read before that
    /// could say otherwise.
    pub(super) async fn at(&mut self, subject: &Subject) -> Result<Elsewhere, ProviderError> {
        let (mut looked_at, mut other, mut gone) = (Vec::new(), None, None);
        let commits = self.candidates(subject, &mut gone).await?;
        let from = self.project.api.evidence_from.as_deref();
        for commit in &commits {
            let statuses = match self.statuses(commit).await {
                Ok(statuses) => statuses,
                // Force-pushed away, perhaps. Where no commit is found, it is us who may not see them.
                Err(error) if error.is_not_found() => {
                    gone = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            looked_at.push(commit);
            let decision = decide(&statuses.seen, subject, from);
            let told = |says| Told { context: subject.context.clone(), commit: commit.clone(), says };
            match (decision, &statuses.more_at) {
                (Decision::Passed, _) => return Ok(Elsewhere::Passed),
                (Decision::Tried(says), _) => return Ok(Elsewhere::Tried(told(says))),
                (Decision::Failed(says), _) => return Ok(Elsewhere::Failed(told(says))),
                (Decision::Other(_) | Decision::Nothing, Some(host)) => {
                    return Err(ProviderError::TooMany { host: host.clone(), commit: commit.clone() });
                }
                (Decision::Other(says), None) => other = other.or(Some((commit, says))),
                (Decision::Nothing, None) => {}
            }
        }
        match (looked_at.first(), gone) {
            (None, Some(gone)) => Err(gone),
            (first, _) => {
                let commit = other.as_ref().map(|(commit, _)| *commit).or(first.copied()).cloned();
                let others = looked_at.len().saturating_sub(1);
                let says = other.map(|(_, says)| says);
                Ok(Elsewhere::Untold { context: subject.context.clone(), commit, others, says })
            }
        }
    }

    /// The commits that may have the status, newest first; `gone`: where some cannot be listed because nobody finds them.
    /// That a unit is gone, only the last change of its files says: it may have come back since any earlier one.
    async fn candidates(
        &mut self,
        subject: &Subject,
        gone: &mut Option<ProviderError>,
    ) -> Result<Vec<String>, ProviderError> {
        let is_removal = subject.revision.is_none();
        let mut all = match &subject.staging {
            Some(head) => self.changes(head, &subject.paths, STAGING_CHANGES, gone).await?,
            None => Vec::new(),
        };
        let mut last_change = 1;
        if let Some(seen) = subject.seen.as_ref().filter(|seen| !all.contains(*seen)) {
            // It has all changes up to one: that and older ones come after it.
            let last = self.changes(seen, &subject.paths, 1, gone).await?;
            let place = last.first().and_then(|last| all.iter().position(|commit| commit == last));
            all.insert(place.unwrap_or(all.len()), seen.clone());
            last_change += usize::from(place == Some(0));
        }
        if is_removal {
            all.truncate(last_change);
        }
        if let Some(commit) = subject.production.as_ref().filter(|_| !is_removal) {
            all.push(commit.clone());
            all.extend(self.changes(commit, &subject.paths, PRODUCTION_CHANGES, gone).await?);
        }
        let mut known = BTreeSet::new();
        all.retain(|commit| provider::is_commit(commit) && known.insert(commit.clone()));
        Ok(all)
    }

    /// The last changes of some paths, as of a commit. What nobody finds has none.
    async fn changes(
        &mut self,
        start: &str,
        paths: &[String],
        count: usize,
        gone: &mut Option<ProviderError>,
    ) -> Result<Vec<String>, ProviderError> {
        let mut changes = Vec::new();
        for path in paths {
            let key = (start.to_owned(), path.clone());
            if let Some(known) = self.lists.get(&key) {
                changes.extend(known.iter().cloned());
                continue;
            }
            self.requests += 1;
            let list = match provider::commits(self.web, &self.project, start, path, STAGING_CHANGES).await {
                Ok(list) => list,
                Err(error) if error.is_not_found() => {
                    *gone = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            changes.extend(list.iter().cloned());
            // An empty one may be of a commit that the provider has not taken in yet.
            if !list.is_empty() {
                self.lists.insert(key, list);
            }
        }
        let changes = if paths.len() > 1 { newest_first(changes) } else { changes };
        let mut known = BTreeSet::new();
        let changes = changes.into_iter().filter(|commit| known.insert(commit.sha.clone()));
        Ok(changes.take(count).map(|commit| commit.sha).collect())
    }

    async fn statuses(&mut self, commit: &str) -> Result<&Statuses, ProviderError> {
        Ok(match self.statuses.entry(commit.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                unknown.insert(provider::statuses(self.web, &self.project, commit, &mut self.requests).await?)
            }
        })
    }
}

/// What one commit's statuses come to.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// It passed.
    Passed,
    /// It is tried, in these words.
    Tried(String),
    /// It failed, in these words.
    Failed(String),
    /// The status is there, and about something else, or not to be believed.
    Other(String),
    /// The status is not there.
    Nothing,
}

/// The newest word about it that counts. That an attempt at it was left takes back what that was begun with, and nothing
/// that was said before.
fn decide(statuses: &[Seen], subject: &Subject, from: Option<&str>) -> Decision {
    let (mut other, mut is_left) = (None, false);
    for seen in statuses.iter().filter(|seen| seen.context == subject.context) {
        let says = match from.filter(|from| *from != seen.account) {
            Some(from) => format!("{}, from {}, not from {from}", shown(seen), cut(&seen.account)),
            None => match word::hear(seen, subject.revision.as_ref()) {
                Some(Word::Passed) => return Decision::Passed,
                Some(Word::Failed) => return Decision::Failed(shown(seen)),
                Some(Word::Tried) if !is_left => return Decision::Tried(shown(seen)),
                Some(word) => {
                    is_left |= word == Word::Left;
                    shown(seen)
                }
                None => shown(seen),
            },
        };
        other = other.or(Some(says));
    }
    other.map_or(Decision::Nothing, Decision::Other)
}

fn shown(seen: &Seen) -> String {
    let state = match seen.state {
        State::Pending => "pending",
        State::Success => "success",
        State::Failure => "failure",
        State::Canceled => "error",
    };
    format!("{state}: {}", cut(&seen.description))
}

/// In a line, whoever wrote it.
fn cut(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SAYS_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests;
