//! Which commits are published whole. The heads of a commit's units are written one after the other: a plan in between would
//! see that some units go, and not that most do.

use std::{collections::BTreeMap, sync::Arc};

use sluice_config::Environment;
use tokio::sync::watch;

use crate::source::RepositoryId;

/// The commit that each branch is at.
pub type Commits = BTreeMap<Environment, String>;

/// Commits all of whose heads are written, by repository and branch. Each with a number: the same commit that was begun and
/// ended once more, for a Repository with another path perhaps, has another.
pub type Whole = BTreeMap<RepositoryId, BTreeMap<Environment, (String, u64)>>;

/// What this process has published since it leads. Shared.
#[derive(Clone, Debug, Default)]
pub struct Published(Arc<watch::Sender<State>>);

/// What is whole, and the last number that was given.
#[derive(Clone, Debug, Default)]
pub struct State {
    whole: Whole,
    number: u64,
}

impl Published {
    /// A head is about to be written. Nothing of the repository is whole until `end`.
    pub fn begin(&self, id: &RepositoryId) {
        self.0.send_if_modified(|state| state.whole.remove(id).is_some());
    }

    /// All heads of these commits are written. Of a branch that could not be read now, what was said last holds.
    pub fn end(&self, id: &RepositoryId, commits: &Commits) {
        self.0.send_if_modified(|state| {
            let known = state.whole.entry(id.clone()).or_default();
            let before = state.number;
            for (environment, commit) in commits {
                if known.get(environment).is_none_or(|(known, _)| known != commit) {
                    state.number += 1;
                    known.insert(*environment, (commit.clone(), state.number));
                }
            }
            state.number != before
        });
    }

    /// Only these repositories are there.
    pub fn retain(&self, is_there: impl Fn(&RepositoryId) -> bool) {
        self.0.send_if_modified(|state| {
            let before = state.whole.len();
            state.whole.retain(|id, _| is_there(id));
            state.whole.len() != before
        });
    }

    /// What is published whole.
    #[must_use]
    pub fn whole(&self) -> Whole {
        self.0.borrow().whole.clone()
    }

    /// To be told of changes.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }
}

/// What is seen whole by who looked at the heads after `before` was the case, and before `now` was: what nobody began to
/// write meanwhile.
#[must_use]
pub fn still_whole(before: Whole, now: &Whole) -> Whole {
    let still = |id: &RepositoryId, environment: &Environment, commit: &(String, u64)| {
        now.get(id).and_then(|now| now.get(environment)) == Some(commit)
    };
    let of_one = |(id, mut commits): (RepositoryId, BTreeMap<Environment, (String, u64)>)| {
        commits.retain(|environment, commit| still(&id, environment, commit));
        (id, commits)
    };
    before.into_iter().map(of_one).collect()
}

#[cfg(test)]
mod tests {
    use Environment::{Production, Staging};

    use super::*;

    fn id() -> RepositoryId {
        RepositoryId { namespace: "team".into(), name: "edge".into() }
    }

    fn both(staging: &str, production: &str) -> Commits {
        [(Staging, staging.to_owned()), (Production, production.to_owned())].into()
    }

    /// The commits without their numbers.
    fn commits(whole: &Whole) -> Commits {
        let of_one = whole.get(&id()).into_iter().flatten();
        of_one.map(|(environment, (commit, _))| (*environment, commit.clone())).collect()
    }

    #[test]
    fn from_the_first_head_that_is_written_to_the_last_nothing_is_whole() {
        let published = Published::default();
        let mut told = published.follow();
        published.begin(&id());
        assert!(published.whole().is_empty());
        published.end(&id(), &both("a", "a"));
        assert_eq!(commits(&published.whole()), both("a", "a"));
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        // A poll that finds nothing new writes nothing.
        published.end(&id(), &both("a", "a"));
        assert!(!told.has_changed().unwrap());
        // The same commits, and other heads: the Repository has another path now.
        published.begin(&id());
        assert!(published.whole().is_empty());
        assert!(told.has_changed().unwrap());
    }

    #[test]
    fn a_branch_that_was_not_read_is_not_whole_by_the_other() {
        let published = Published::default();
        let staging = Commits::from([(Staging, "b".to_owned())]);
        published.end(&id(), &both("a", "a"));
        published.end(&id(), &staging);
        assert_eq!(commits(&published.whole()), both("b", "a"), "nothing of production was written");
        published.begin(&id());
        published.end(&id(), &staging);
        assert_eq!(commits(&published.whole()), staging);
    }

    #[test]
    fn what_is_written_while_somebody_looks_is_not_seen_whole() {
        let published = Published::default();
        published.end(&id(), &both("a", "a"));
        let before = published.whole();
        assert_eq!(commits(&still_whole(before.clone(), &published.whole())), both("a", "a"));
        published.end(&id(), &both("b", "a"));
        let moved = still_whole(before.clone(), &published.whole());
        assert_eq!(commits(&moved), [(Production, "a".to_owned())].into());
        published.begin(&id());
        assert!(commits(&still_whole(before.clone(), &published.whole())).is_empty());
        published.end(&id(), &both("a", "a"));
        assert!(commits(&still_whole(before, &published.whole())).is_empty(), "others of the same commit, perhaps");
    }

    #[test]
    fn a_repository_that_is_gone_is_forgotten() {
        let published = Published::default();
        published.end(&id(), &both("a", "a"));
        let mut told = published.follow();
        published.retain(|_| true);
        assert!(!told.has_changed().unwrap());
        published.retain(|_| false);
        assert!(published.whole().is_empty() && told.has_changed().unwrap());
        told.mark_unchanged();
    }
}
