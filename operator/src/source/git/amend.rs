//! A commit, made in a clone, that gives paths the content that they have in other commits.

use std::path::Path;

use git2::{Buf, FileMode, ObjectType, Oid, PackBuilder, Repository, Signature, Time, Tree, build::TreeUpdateBuilder};

use super::clone::{BareClone, CloneError};
use crate::source::Proposal;

/// Who commits.
const NAME: &str = "Sluice";
const EMAIL: &str = "sluice@localhost";

/// A commit, and a pack of what its parent does not have.
pub(super) struct Amended {
    pub(super) commit: Oid,
    pub(super) pack: Vec<u8>,
}

impl BareClone {
    /// Makes a commit on top of a head; none where that has all of it already. The same input makes the same commit.
    pub(super) fn amend(&self, head: Oid, proposal: &Proposal) -> Result<Option<Amended>, CloneError> {
        let repository = self.repository();
        let parent = repository.find_commit(head)?;
        let before = parent.tree()?;
        let mut update = TreeUpdateBuilder::new();
        for restore in &proposal.restores {
            let from = restore.commit()?;
            let source = from.map(|commit| repository.find_commit(commit)?.tree()).transpose()?;
            for path in &restore.paths {
                let found = source.as_ref().and_then(|tree| tree.get_path(Path::new(path)).ok());
                if let Some((entry, mode)) = found.and_then(|entry| mode(entry.filemode()).map(|mode| (entry, mode))) {
                    update.upsert(path.as_str(), entry.id(), mode);
                } else if before.get_path(Path::new(path)).is_ok() {
                    update.remove(path.as_str());
                }
            }
        }
        let after = repository.find_tree(update.create_updated(repository, &before)?)?;
        if after.id() == before.id() {
            return Ok(None);
        }
        let author = Signature::new(NAME, EMAIL, &Time::new(proposal.time.as_second(), 0))?;
        let commit = repository.commit(None, &author, &author, &proposal.message, &after, &[&parent])?;
        let mut pack = repository.packbuilder()?;
        pack.insert_object(commit, None)?;
        insert_new(repository, &mut pack, &after, Some(&before))?;
        let mut bytes = Buf::new();
        pack.write_buf(&mut bytes)?;
        Ok(Some(Amended { commit, pack: bytes.to_vec() }))
    }
}

/// Links and submodules are not ours to put anywhere.
fn mode(mode: i32) -> Option<FileMode> {
    match mode {
        0o040_000 => Some(FileMode::Tree),
        0o100_644 => Some(FileMode::Blob),
        0o100_755 => Some(FileMode::BlobExecutable),
        _ => None,
    }
}

/// Puts a tree into a pack, without what stands at the same place in another.
fn insert_new(
    repository: &Repository,
    pack: &mut PackBuilder<'_>,
    tree: &Tree<'_>,
    other: Option<&Tree<'_>>,
) -> Result<(), git2::Error> {
    pack.insert_object(tree.id(), None)?;
    for entry in tree.iter() {
        let there = other.and_then(|tree| tree.get_name_bytes(entry.name_bytes()));
        if there.as_ref().is_some_and(|there| there.id() == entry.id()) {
            continue;
        }
        match entry.kind() {
            Some(ObjectType::Tree) => {
                let other = there.and_then(|there| repository.find_tree(there.id()).ok());
                insert_new(repository, pack, &repository.find_tree(entry.id())?, other.as_ref())?;
            }
            Some(ObjectType::Blob) => pack.insert_object(entry.id(), None)?,
            Some(_) | None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;
    use crate::source::Restore;

    const NEW: &[(&str, &str)] = &[
        ("workers/auth/worker.yaml", "new"),
        ("workers/auth/notes.txt", "new"),
        ("workers/other/worker.yaml", "other"),
        ("routes/new.yaml", "new"),
        ("README.md", "as it is"),
    ];
    const OLD: &[(&str, &str)] = &[("workers/auth/worker.yaml", "old"), ("workers/other/worker.yaml", "older")];

    fn commit(clone: &BareClone, files: &[(&str, &str)]) -> Oid {
        let repository = clone.repository();
        let empty = repository.find_tree(repository.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let mut update = TreeUpdateBuilder::new();
        for (path, text) in files {
            update.upsert(*path, repository.blob(text.as_bytes()).unwrap(), FileMode::Blob);
        }
        let tree = repository.find_tree(update.create_updated(repository, &empty).unwrap()).unwrap();
        let author = Signature::new("a", "a@b", &Time::new(0, 0)).unwrap();
        repository.commit(None, &author, &author, "m", &tree, &[]).unwrap()
    }

    fn files(clone: &BareClone, commit: Oid) -> BTreeMap<String, String> {
        let repository = clone.repository();
        let mut found = BTreeMap::new();
        let tree = repository.find_commit(commit).unwrap().tree().unwrap();
        tree.walk(git2::TreeWalkMode::PreOrder, |folder, entry| {
            if entry.kind() == Some(ObjectType::Blob) {
                let content = repository.find_blob(entry.id()).unwrap().content().to_vec();
                found.insert(format!("{folder}{}", entry.name().unwrap()), String::from_utf8(content).unwrap());
            }
            git2::TreeWalkResult::Ok
        })
        .unwrap();
        found
    }

    #[test]
    fn files_are_as_they_were_and_no_others_are_touched() {
        let folder = tempfile::tempdir().unwrap();
        let clone = BareClone::open(&folder.path().join("clone"), "https://git.example/edge").unwrap();
        let (head, stable) = (commit(&clone, NEW), commit(&clone, OLD));
        let restore = |paths: &[&str], from: Option<Oid>| Restore {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            from: from.map(|commit| commit.to_string()),
        };
        let proposal = Proposal {
            base: "production".into(),
            branch: "sluice/revert-x".into(),
            restores: vec![
                restore(&["workers/auth"], Some(stable)),
                restore(&["routes/new.yaml", "routes/never.yaml"], None),
            ],
            message: "Take it back".into(),
            time: Timestamp::from_second(1_795_435_200).unwrap(),
        };
        let amended = clone.amend(head, &proposal).unwrap().unwrap();
        let expected =
            [("workers/auth/worker.yaml", "old"), ("workers/other/worker.yaml", "other"), ("README.md", "as it is")];
        let expected = expected.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
        assert_eq!(files(&clone, amended.commit), expected);
        let parents: Vec<Oid> = clone.repository().find_commit(amended.commit).unwrap().parent_ids().collect();
        assert_eq!(parents, [head]);
        let again = clone.amend(head, &proposal).unwrap().unwrap();
        assert_eq!(again.commit, amended.commit);
        assert!(clone.amend(amended.commit, &proposal).unwrap().is_none(), "it has all of it");
    }
}
