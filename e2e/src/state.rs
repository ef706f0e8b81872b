//! What is remembered of a cluster between two runs of the harness, and where its files are.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{address, address::Addresses, run};

/// A cluster as its `state.json` describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The cluster's name.
    pub name: String,
    /// Decides all addresses.
    pub slot: u8,
    /// Whether the API server writes an audit log.
    pub audit: bool,
    /// Whether everything that was asked for came up; false after a harness that died half way.
    pub complete: bool,
    /// The nodes by name.
    pub nodes: BTreeMap<String, NodeState>,
}

/// A node as `state.json` describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeState {
    /// Decides the node's addresses.
    pub index: u8,
    /// Labels that the harness set.
    pub labels: BTreeMap<String, String>,
    /// Whether a test has stopped it.
    pub stopped: bool,
}

impl State {
    /// The cluster's addresses.
    pub fn addresses(&self) -> Addresses {
        Addresses::new(self.slot)
    }
}

/// `${SLUICE_CACHE:-$HOME/.cache/sluice}`.
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("SLUICE_CACHE").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir));
    }
    let home =
        env::var_os("HOME").context("neither SLUICE_CACHE nor HOME is set: where may clusters keep their files?")?;
    Ok(PathBuf::from(home).join(".cache/sluice"))
}

fn clusters_dir() -> Result<PathBuf> {
    Ok(cache_dir()?.join("clusters"))
}

/// The names of all clusters that have a folder, complete or not.
pub fn names() -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(clusters_dir()?) else { return Ok(Vec::new()) };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    Ok(names)
}

/// One cluster's folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder of a cluster, which need not exist.
    pub fn of(name: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 40 || name.starts_with('-') || !name.chars().all(plain) {
            bail!("a cluster's name has 1 to 40 of a-z, 0-9 and -: {name:?} does not");
        }
        Ok(Self { path: clusters_dir()?.join(name) })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    /// What is remembered; `None` where there is no such cluster.
    pub fn load(&self) -> Result<Option<State>> {
        let path = self.join("state.json");
        match fs::read_to_string(&path) {
            Ok(text) => {
                Ok(Some(serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Remembers; readers see the old or the new text, never half of one.
    pub fn save(&self, state: &State) -> Result<()> {
        write_whole(&self.join("state.json"), &serde_json::to_string_pretty(state)?)
    }

    /// Makes the folder and takes the lowest slot that neither a cluster nor the machine's own network uses.
    pub fn create(&self, audit: bool) -> Result<State> {
        let clusters = clusters_dir()?;
        fs::create_dir_all(&clusters).with_context(|| format!("cannot create {}", clusters.display()))?;
        let _slots = lock_file(&clusters.join(".slots.lock"))?;
        let mut taken = Vec::new();
        for name in names()? {
            taken.extend(Self::of(&name)?.load()?.map(|state| state.slot));
        }
        let routes = run::words("ip -4 route show")?;
        let free =
            |slot: &u8| !taken.contains(slot) && !routes.lines().any(|route| Addresses::new(*slot).overlaps(route));
        let slot = (0..address::SLOTS)
            .find(free)
            .with_context(|| format!("all {} slots are taken: `cluster status` lists the clusters", address::SLOTS))?;
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        fs::create_dir_all(&self.path).with_context(|| format!("cannot create {}", self.path.display()))?;
        let state = State { name, slot, audit, complete: false, nodes: BTreeMap::new() };
        self.save(&state)?;
        Ok(state)
    }

    /// Held while a cluster is brought up or down, so that two harnesses do not work on the same one.
    pub fn lock(&self) -> Result<File> {
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let clusters = clusters_dir()?;
        fs::create_dir_all(&clusters).with_context(|| format!("cannot create {}", clusters.display()))?;
        lock_file(&clusters.join(format!(".{name}.lock")))
    }
}

fn lock_file(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Writes a file that readers never see half of.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, text).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for name in ["", "..", "a/b", "A", "-x", &"x".repeat(41)] {
            assert!(Folder::of(name).is_err(), "{name:?}");
        }
        assert!(Folder::of("demo-2").is_ok());
    }
}
