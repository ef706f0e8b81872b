//! From the files of a commit to units: which files there are, and what each says.

mod de;
mod fault;
mod gates;
mod known;
mod locate;
mod merge;
mod node;
mod unit;

use std::{collections::BTreeMap, fmt};

use sluice_config::{Artifact, UnitKind, UnitRef, limits};

use super::ParsedUnit;
use gates::{NAME_REMEDY, is_unit_name};

/// Bytes of a manifest.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// The files of one commit.
pub trait Files {
    /// What stands in a folder (no slash at either end; empty: the root); `None` if there is no such folder.
    ///
    /// # Errors
    /// The folder is refused or cannot be read.
    fn list(&self, folder: &str) -> Result<Option<Vec<ListedFile>>, FileError>;

    /// A regular file.
    ///
    /// # Errors
    /// It is missing, no regular file, or too large.
    fn read(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, FileError>;

    /// Something that is the same only for the same content; `None` if there is no such file.
    fn content_id(&self, path: &str) -> Option<String>;
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    /// Name without the folder.
    pub name: String,
    /// Whether it is a folder.
    pub folder: bool,
}

/// Why a file cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// No such file.
    #[error("there is no file `{0}`")]
    Missing(String),
    /// A symbolic link: they are never followed.
    #[error("`{0}` is a symbolic link")]
    Symlink(String),
    /// A folder.
    #[error("`{0}` is a folder")]
    Folder(String),
    /// A submodule: they are never fetched.
    #[error("`{0}` is a submodule")]
    Submodule(String),
    /// Over the limit.
    #[error("`{path}` has {bytes} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The whole tree is refused.
    #[error("{0}")]
    Refused(String),
    /// The clone on disk is damaged.
    #[error("the clone is damaged: {0}")]
    Damaged(String),
}

/// What is wrong with a file, where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path from the repository's root.
    pub file: String,
    /// From 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    /// Path of the field, e.g. `limits.cpu`; empty where it is about the file.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// `workers/x/worker.yaml:12:10: limits.cpu: `5` is not a span of time: write a whole number and a unit`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)?;
        if !self.remedy.is_empty() {
            write!(f, ": {}", self.remedy)?;
        }
        Ok(())
    }
}

impl Problem {
    fn of_file(file: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (reason, remedy) = (reason.into(), remedy.into());
        Self { file: file.to_owned(), line: 1, column: 1, field: String::new(), reason, remedy }
    }
}

/// Whose tree it is.
#[derive(Clone, Debug)]
pub struct TreeOf {
    /// Namespace of the Repository, hence of its units.
    pub namespace: String,
    /// Name of the Repository.
    pub repository: String,
    /// Commit.
    pub commit: String,
    /// Folder that holds workers/, routes/ and config/, as `spec.path` says.
    pub path: String,
}

/// What was read of one repository before: most commits leave most files alone. All of it may be forgotten at any time.
#[derive(Debug, Default)]
pub struct Known {
    /// What came of checking a component, by [`Files::content_id`].
    components: BTreeMap<String, Result<Artifact, String>>,
    /// The last good manifest at each path.
    manifests: BTreeMap<String, known::Manifest>,
}

/// All units of a tree, sorted, and what is wrong with files that cannot be given to a unit.
///
/// # Errors
/// The tree as a whole is refused, or damaged. A file of one unit is that unit's problem alone.
pub fn parse_tree(
    files: &dyn Files,
    of: &TreeOf,
    known: &mut Known,
) -> Result<(Vec<ParsedUnit>, Vec<Problem>), FileError> {
    let root = of.path.trim_matches('/');
    // Looked at also where nothing is read from it: a tree with traps in it is nobody's honest work.
    files.list("")?;
    if !root.is_empty() && files.list(root)?.is_none() {
        return Err(FileError::Missing(root.to_owned()));
    }
    let mut found = Found::default();
    find_workers(files, &join(root, "workers"), &mut found)?;
    find_flat(files, &join(root, "routes"), UnitKind::Routes, &mut found)?;
    find_flat(files, &join(root, "config"), UnitKind::Config, &mut found)?;
    if found.manifests.len() > limits::ENTRIES {
        return Err(FileError::Refused(format!(
            "{} units; at most {} are allowed: split the repository",
            found.manifests.len(),
            limits::ENTRIES
        )));
    }
    let mut units = Vec::with_capacity(found.manifests.len());
    for ((kind, name), problem) in found.unread {
        if found.manifests.contains_key(&(kind, name.clone())) {
            found.problems.push(problem);
        } else {
            let unit = UnitRef::new(kind, of.namespace.clone(), name);
            units.push(ParsedUnit { unit, path: problem.file.clone(), result: Err(problem) });
        }
    }
    known.keep(found.manifests.values());
    for ((kind, name), path) in found.manifests {
        let unit = UnitRef::new(kind, of.namespace.clone(), name);
        let result = unit::parse(files, of, &unit, &path, known)?;
        units.push(ParsedUnit { unit, path, result });
    }
    units.sort_by(|a, b| a.unit.cmp(&b.unit));
    Ok((units, found.problems))
}

#[derive(Default)]
struct Found {
    manifests: BTreeMap<(UnitKind, String), String>,
    problems: Vec<Problem>,
    /// Units whose file is there under a name that is not read.
    unread: BTreeMap<(UnitKind, String), Problem>,
}

impl Found {
    fn add(&mut self, kind: UnitKind, name: &str, path: String) {
        if is_unit_name(name) {
            self.manifests.insert((kind, name.to_owned()), path);
        } else {
            let reason = format!("`{}` is no name of a unit", fault::clip(name));
            self.problems.push(Problem::of_file(&path, reason, NAME_REMEDY));
        }
    }
}

fn find_workers(files: &dyn Files, folder: &str, found: &mut Found) -> Result<(), FileError> {
    for entry in files.list(folder)?.unwrap_or_default() {
        // A README beside the workers is nobody's business.
        if entry.folder {
            let path = format!("{folder}/{}/worker.yaml", entry.name);
            found.add(UnitKind::Worker, &entry.name, path);
        }
    }
    Ok(())
}

fn find_flat(files: &dyn Files, folder: &str, kind: UnitKind, found: &mut Found) -> Result<(), FileError> {
    for entry in files.list(folder)?.unwrap_or_default() {
        let path = format!("{folder}/{}", entry.name);
        if let Some(name) = entry.name.strip_suffix(".yaml") {
            found.add(kind, name, path);
        } else if let Some(name) = entry.name.strip_suffix(".yml") {
            let remedy = format!("rename it to {}.yaml", fault::clip(name));
            let problem = Problem::of_file(&path, "files that end in .yml are not read", remedy);
            // A unit whose file was renamed is broken, not gone.
            match is_unit_name(name) {
                true => drop(found.unread.insert((kind, name.to_owned()), problem)),
                false => found.problems.push(problem),
            }
        }
    }
    Ok(())
}

fn join(root: &str, name: &str) -> String {
    if root.is_empty() { name.to_owned() } else { format!("{root}/{name}") }
}
