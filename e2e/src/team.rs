//! A platform team at work: a clone in which it edits, commits and pushes to `staging` and `production`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::run;

/// The team's clone.
#[derive(Debug)]
pub struct Team {
    folder: PathBuf,
}

impl Team {
    /// Makes a clone in an empty folder. Nothing is fetched: the team starts the history.
    pub fn start(folder: &Path, url: &str) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let team = Self { folder: folder.to_owned() };
        team.git(&["init", "--quiet", "--initial-branch=staging"])?;
        team.git(&["config", "user.name", "Edge Team"])?;
        team.git(&["config", "user.email", "edge-team@shop.example"])?;
        team.git(&["remote", "add", "origin", url])?;
        Ok(team)
    }

    /// Writes a file of the work tree.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads a file of the work tree.
    pub fn read(&self, path: &str) -> Result<String> {
        let path = self.folder.join(path);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Copies a file of this machine into the work tree.
    pub fn copy(&self, path: &str, from: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(path, bytes)
    }

    /// Removes a file or folder of the work tree.
    pub fn remove(&self, path: &str) -> Result<()> {
        self.git(&["rm", "-r", "--quiet", path]).map(drop)
    }

    /// Commits all of the work tree; returns the commit.
    pub fn commit(&self, message: &str) -> Result<String> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "-m", message])?;
        self.head()
    }

    /// Reverts the newest commit, as `git revert` does; returns the commit that does so.
    pub fn revert(&self) -> Result<String> {
        self.git(&["revert", "--no-edit", "HEAD"])?;
        self.head()
    }

    /// Merges to an environment: pushes what is committed to its branch.
    pub fn merge_to(&self, branch: &str) -> Result<()> {
        self.git(&["push", "--quiet", "origin", &format!("HEAD:refs/heads/{branch}")]).map(drop)
    }

    fn head(&self) -> Result<String> {
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    fn git(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("git");
        // What the user of this machine has configured (signing, hooks, helpers) must not matter.
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        run::output(command.arg("-C").arg(&self.folder).args(arguments))
    }
}
