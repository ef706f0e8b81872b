//! Revisions and artifacts in a directory, for serving a hand-written assignment.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sluice_config::{Digest, Revision, limits};

use super::FetchError;

/// A directory whose `*.json` are revisions and whose other files are artifacts, in any names: it
/// is searched by digest each time, so that a file may be added while the process runs.
#[derive(Clone, Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn revision(&self, digest: &Digest) -> Result<Revision, FetchError> {
        for path in self.files(true)? {
            let Ok(bytes) = fs::read(&path) else { continue };
            match serde_json::from_slice::<Revision>(&bytes) {
                Ok(revision) if revision.digest().ok().as_ref() == Some(digest) => {
                    return Ok(revision);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "not a revision");
                }
            }
        }
        Err(FetchError::NoRevision(digest.to_string(), self.name()))
    }

    pub(crate) fn artifact(&self, digest: &Digest) -> Result<Vec<u8>, FetchError> {
        for path in self.files(false)? {
            let small = |m: fs::Metadata| m.is_file() && m.len() <= limits::ARTIFACT_BYTES;
            if !fs::metadata(&path).is_ok_and(small) {
                continue;
            }
            if let Ok(bytes) = fs::read(&path)
                && &Digest::of(&bytes) == digest
            {
                return Ok(bytes);
            }
        }
        Err(FetchError::NoArtifact(digest.to_string(), self.name()))
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn files(&self, json: bool) -> Result<Vec<PathBuf>, FetchError> {
        let entries = fs::read_dir(&self.0)
            .map_err(|error| FetchError::File { path: self.name(), problem: error.to_string() })?;
        let is_json = |p: &Path| p.extension().is_some_and(|e| e == "json");
        Ok(entries.flatten().map(|e| e.path()).filter(|p| is_json(p) == json).collect())
    }
}
