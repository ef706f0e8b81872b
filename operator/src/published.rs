//! Which commits are published whole. The heads of a commit's units are written one after the other: a plan in between would
//! see that some units go, and not that most do.

use std::{collections::BTreeMap, sync::Arc};

use sluice_config::Environment;
use tokio::sync::watch;

use crate::source::RepositoryId;

/// The commit that each branch is at.
pub type Commits = BTreeMap<Environment, String>;

/// What this process has published since it leads. Shared.
#[derive(Clone, Debug, Default)]
pub struct Published(Arc<watch::Sender<BTreeMap<RepositoryId, Commits>>>);

impl Published {
    /// Heads of these commits are about to be written.
    pub fn begin(&self, id: &RepositoryId, commits: &Commits) {
        self.0.send_if_modified(|all| all.get(id) != Some(commits) && all.remove(id).is_some());
    }

    /// All of them are written.
    pub fn end(&self, id: &RepositoryId, commits: &Commits) {
        self.0.send_if_modified(|all| all.insert(id.clone(), commits.clone()).as_ref() != Some(commits));
    }

    /// What is published whole.
    #[must_use]
    pub fn whole(&self) -> BTreeMap<RepositoryId, Commits> {
        self.0.borrow().clone()
    }

    /// To be told of changes.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<BTreeMap<RepositoryId, Commits>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_its_first_head_and_its_last_a_commit_is_not_whole() {
        let published = Published::default();
        let id = RepositoryId { namespace: "team".into(), name: "edge".into() };
        let commits = |sha: &str| Commits::from([(Environment::Staging, sha.to_owned())]);
        let mut told = published.follow();
        published.begin(&id, &commits("a"));
        assert!(published.whole().is_empty());
        published.end(&id, &commits("a"));
        assert_eq!(published.whole(), [(id.clone(), commits("a"))].into());
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        // A poll that finds nothing new.
        published.begin(&id, &commits("a"));
        published.end(&id, &commits("a"));
        assert!(!told.has_changed().unwrap());
        published.begin(&id, &commits("b"));
        assert!(published.whole().is_empty());
    }
}
