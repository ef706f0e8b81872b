//! A bare repository on disk, as a bag of objects: packs go in, commits, folders and files come out.
//!
//! Nothing is checked out, no hook or filter exists, no link or submodule is followed. All calls block.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
};

use git2::{ErrorCode, ObjectType, Oid, Repository, RepositoryInitOptions, Tree};
use jiff::Timestamp;

use super::pack;
use crate::source::{
    CommitInfo, SourceError,
    manifest::{FileError, Files, ListedFile},
};

/// Entries of one folder.
const ENTRIES_MAX: usize = 10_000;
/// Packs of one clone: each fetch adds one, and at some point a fresh clone is smaller.
const PACKS_MAX: usize = 40;
/// Holds the URL that the objects came from.
const URL_FILE: &str = "sluice-url";

/// Why a clone does not give what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum CloneError {
    /// Deleting it and fetching anew helps.
    #[error("{0}")]
    Damaged(String),
    /// It does not.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl From<git2::Error> for CloneError {
    fn from(error: git2::Error) -> Self {
        Self::Damaged(error.message().to_owned())
    }
}

impl From<std::io::Error> for CloneError {
    fn from(error: std::io::Error) -> Self {
        Self::Source(SourceError::WorkFolder(error.to_string()))
    }
}

/// An open clone.
pub(super) struct BareClone {
    repository: Repository,
    folder: PathBuf,
}

impl BareClone {
    /// Opens the clone of a URL; makes an empty one where there is none, or one of another URL.
    pub(super) fn open(folder: &Path, url: &str) -> Result<Self, CloneError> {
        if fs::read_to_string(folder.join(URL_FILE)).ok().as_deref() == Some(url) {
            let repository = Repository::open_bare(folder)?;
            return Ok(Self { repository, folder: folder.to_owned() });
        }
        remove(folder)?;
        fs::create_dir_all(folder)?;
        let mut options = RepositoryInitOptions::new();
        options.bare(true).external_template(false);
        let repository = Repository::init_opts(folder, &options)?;
        // No hook is ever run, and none is there to run.
        remove(&folder.join("hooks"))?;
        fs::write(folder.join(URL_FILE), url)?;
        Ok(Self { repository, folder: folder.to_owned() })
    }

    pub(super) fn repository(&self) -> &Repository {
        &self.repository
    }

    pub(super) fn has(&self, commit: Oid) -> bool {
        self.repository.find_commit(commit).is_ok()
    }

    /// Those of the commits that are not here.
    pub(super) fn missing(&self, commits: impl IntoIterator<Item = Oid>) -> Vec<Oid> {
        commits.into_iter().filter(|commit| !self.has(*commit)).collect()
    }

    /// The commits that `keep` named, as far as they are here.
    pub(super) fn kept(&self) -> Vec<Oid> {
        let Ok(references) = self.repository.references_glob("refs/sluice/*") else { return Vec::new() };
        let mut kept: Vec<Oid> = references.flatten().filter_map(|r| r.target()).filter(|oid| self.has(*oid)).collect();
        kept.sort();
        kept.dedup();
        kept
    }

    /// Remembers a head: the next fetch asks for what differs from it.
    pub(super) fn keep(&self, name: &str, commit: Oid) -> Result<(), CloneError> {
        self.repository.reference(&format!("refs/sluice/{name}"), commit, true, "fetched")?;
        Ok(())
    }

    /// Whether a fresh clone is better than another pack.
    pub(super) fn is_worn(&self, bytes_max: u64) -> bool {
        let Ok(entries) = fs::read_dir(self.folder.join("objects/pack")) else { return true };
        let sizes: Vec<u64> = entries
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "pack"))
            .filter_map(|e| e.metadata().ok().map(|m| m.len()))
            .collect();
        sizes.len() >= PACKS_MAX || sizes.iter().sum::<u64>() > bytes_max
    }

    /// Checks a pack and takes its objects in.
    pub(super) fn add_pack(&self, path: &Path, limits: pack::Limits) -> Result<(), CloneError> {
        pack::check(&mut BufReader::new(fs::File::open(path)?), limits)?;
        let odb = self.repository.odb()?;
        let mut writer = odb.packwriter()?;
        let mut file = fs::File::open(path)?;
        let mut buffer = vec![0; 64 << 10];
        let broken = || SourceError::BrokenPack(git2::Error::last_error(-1).message().to_owned());
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            writer.write_all(&buffer[..n]).map_err(|_| broken())?;
        }
        writer.commit().map_err(|e| SourceError::BrokenPack(e.message().to_owned()))?;
        Ok(())
    }

    pub(super) fn commit(&self, id: Oid) -> Result<CommitInfo, CloneError> {
        let commit = self.repository.find_commit(id)?;
        let time = Timestamp::from_second(commit.time().seconds()).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(CommitInfo {
            sha: id.to_string(),
            author: printable(commit.author().name_bytes(), 100),
            subject: printable(commit.summary_bytes().unwrap_or_default(), 200),
            time,
        })
    }

    pub(super) fn files(&self, commit: Oid) -> Result<TreeFiles<'_>, CloneError> {
        let tree = self.repository.find_commit(commit)?.tree()?;
        Ok(TreeFiles { repository: &self.repository, tree, folders: RefCell::default() })
    }
}

/// Removes a clone; no error if there is none.
pub(super) fn remove(folder: &Path) -> Result<(), CloneError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn printable(bytes: &[u8], chars_max: usize) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(chars_max).collect()
}

/// The files of one commit.
pub(super) struct TreeFiles<'repo> {
    repository: &'repo Repository,
    tree: Tree<'repo>,
    /// By path, those already looked into: libgit2 keeps no large one, and a folder of a thousand files is asked for each.
    folders: RefCell<BTreeMap<String, Tree<'repo>>>,
}

enum Entry<'repo> {
    Folder(Tree<'repo>),
    File(Oid),
    Symlink,
    Submodule,
}

const MODE_LINK: i32 = 0o120_000;
const MODE_SUBMODULE: i32 = 0o160_000;

fn damaged(error: &git2::Error) -> FileError {
    FileError::Damaged(error.message().to_owned())
}

impl<'repo> TreeFiles<'repo> {
    /// What stands at a path; `None` if nothing does.
    fn find(&self, path: &str) -> Result<Option<Entry<'repo>>, FileError> {
        let path = path.trim_matches('/');
        if path.is_empty() {
            return Ok(Some(Entry::Folder(self.tree.clone())));
        }
        if let Some(folder) = self.folders.borrow().get(path) {
            return Ok(Some(Entry::Folder(folder.clone())));
        }
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = match self.find(above)? {
            Some(Entry::Folder(folder)) => folder,
            Some(Entry::File(_)) | None => return Ok(None),
            Some(Entry::Symlink) => return Err(FileError::Symlink(above.to_owned())),
            Some(Entry::Submodule) => return Err(FileError::Submodule(above.to_owned())),
        };
        let Some(entry) = folder.get_name(name) else { return Ok(None) };
        Ok(Some(match (entry.filemode_raw(), entry.kind()) {
            (MODE_LINK, _) => Entry::Symlink,
            (MODE_SUBMODULE, _) | (_, Some(ObjectType::Commit)) => Entry::Submodule,
            (_, Some(ObjectType::Tree)) => {
                let found = self.repository.find_tree(entry.id()).map_err(|e| damaged(&e))?;
                self.folders.borrow_mut().insert(path.to_owned(), found.clone());
                Entry::Folder(found)
            }
            (_, _) => Entry::File(entry.id()),
        }))
    }
}

impl Files for TreeFiles<'_> {
    fn list(&self, path: &str) -> Result<Option<Vec<ListedFile>>, FileError> {
        let refused = |what: &str| Err(FileError::Refused(format!("`{path}` is {what}; put a folder there")));
        let folder = match self.find(path) {
            Ok(None) => return Ok(None),
            Ok(Some(Entry::Folder(folder))) => folder,
            Ok(Some(Entry::File(_))) => return refused("a file"),
            Ok(Some(Entry::Symlink)) | Err(FileError::Symlink(_)) => return refused("a symbolic link"),
            Ok(Some(Entry::Submodule)) | Err(FileError::Submodule(_)) => return refused("a submodule"),
            Err(error) => return Err(error),
        };
        if folder.len() > ENTRIES_MAX {
            return Err(FileError::Refused(format!(
                "`{path}` has {} entries; at most {ENTRIES_MAX} are read",
                folder.len()
            )));
        }
        let mut listed = Vec::with_capacity(folder.len());
        for entry in folder.iter() {
            let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
            if is_trap(&name) {
                return Err(FileError::Refused(format!("its tree has an entry `{}`", name.escape_debug())));
            }
            listed.push(ListedFile { name, folder: entry.kind() == Some(ObjectType::Tree) });
        }
        Ok(Some(listed))
    }

    fn read(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, FileError> {
        let id = match self.find(path)? {
            None => return Err(FileError::Missing(path.to_owned())),
            Some(Entry::Folder(_)) => return Err(FileError::Folder(path.to_owned())),
            Some(Entry::Symlink) => return Err(FileError::Symlink(path.to_owned())),
            Some(Entry::Submodule) => return Err(FileError::Submodule(path.to_owned())),
            Some(Entry::File(id)) => id,
        };
        let odb = self.repository.odb().map_err(|e| damaged(&e))?;
        let (bytes, _) = odb.read_header(id).map_err(|e| damaged(&e))?;
        let bytes = bytes as u64;
        if bytes > bytes_max {
            return Err(FileError::TooLarge { path: path.to_owned(), bytes, bytes_max });
        }
        match self.repository.find_blob(id) {
            Ok(blob) => Ok(blob.content().to_vec()),
            Err(error) if error.code() == ErrorCode::NotFound => Err(damaged(&error)),
            Err(error) => Err(damaged(&error)),
        }
    }

    fn content_id(&self, path: &str) -> Option<String> {
        match self.find(path) {
            Ok(Some(Entry::File(id))) => Some(id.to_string()),
            Ok(Some(Entry::Folder(_) | Entry::Symlink | Entry::Submodule) | None) | Err(_) => None,
        }
    }
}

/// Names that git itself never writes: only an attacker does (CVE-2024-32002, RUSTSEC-2024-0350).
fn is_trap(name: &str) -> bool {
    matches!(name, "" | "." | "..") || name.eq_ignore_ascii_case(".git") || name.contains(['/', '\\', '\0'])
}
