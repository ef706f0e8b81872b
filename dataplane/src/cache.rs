//! The disk cache: what a restarted container needs to serve without anybody's help.
//!
//! Artifacts and revisions lie under their digests and are verified by digest at each read; the
//! state file says what is assigned and what ran. Every file is written aside, synced and renamed:
//! a crash leaves the old content or the new, and at worst a stray file that the next start removes.
//!
//! Compiled code lies beside, under its artifact's digest and under a seal that is not this module's to check. It only
//! saves time: where the disk is full it gives way to the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sluice_config::{Artifact, Digest, Revision, UnitRef};

use crate::desired::Accepted;

/// The disk refused; always this node's trouble.
#[derive(Debug, thiserror::Error)]
#[error("disk cache, {}: {source}", path.display())]
pub(crate) struct CacheError {
    path: PathBuf,
    source: io::Error,
}

/// What is assigned and what ran when this was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SavedState {
    pub(crate) accepted: Accepted,
    /// What was in force: where a unit's assigned revision is not on disk, this is its last good one.
    pub(crate) running: Vec<(UnitRef, Digest)>,
    /// Units that this node keeps on stable.
    pub(crate) keep_stable: Vec<UnitRef>,
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    writes: AtomicU64,
}

const STATE: &str = "state.json";
const SEAL_KEY: &str = "seal.key";
const ASIDE: &str = ".aside-";

impl Cache {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, writes: AtomicU64::new(0) }
    }

    /// Makes the directories and removes what a crash left aside. A failure is no reason not to
    /// start: the node then has nothing on disk, says so with every unit, and tries again.
    pub(crate) fn prepare(&self) -> Result<(), CacheError> {
        for dir in [self.root.clone(), self.artifacts(), self.revisions(), self.compiled_dir()] {
            fs::create_dir_all(&dir).map_err(at(&dir))?;
            for entry in fs::read_dir(&dir).map_err(at(&dir))?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(ASIDE) {
                    fs::remove_file(entry.path()).map_err(at(&dir))?;
                }
            }
        }
        Ok(())
    }

    fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    fn revisions(&self) -> PathBuf {
        self.root.join("revisions")
    }

    fn compiled_dir(&self) -> PathBuf {
        self.root.join("compiled")
    }

    /// Whether the artifact seems to be there: its length is right. Whoever reads it verifies it.
    pub(crate) fn has_artifact(&self, artifact: &Artifact) -> bool {
        let path = self.artifacts().join(artifact.digest.as_str());
        fs::metadata(path).is_ok_and(|m| m.len() == artifact.size)
    }

    /// The artifact, if it is there and whole.
    pub(crate) fn artifact(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.artifacts().join(digest.as_str());
        let bytes = fs::read(&path).ok()?;
        if &Digest::of(&bytes) == digest {
            return Some(bytes);
        }
        discard(&path, "content does not match its digest");
        None
    }

    pub(crate) fn put_artifact(&self, digest: &Digest, bytes: &[u8]) -> Result<(), CacheError> {
        self.write(&self.artifacts().join(digest.as_str()), bytes)
    }

    /// The revision, if it is there and whole.
    pub(crate) fn revision(&self, digest: &Digest) -> Option<Revision> {
        let path = self.revisions().join(digest.as_str());
        let revision: Revision = read_json(&path)?;
        if revision.digest().ok().as_ref() == Some(digest) {
            return Some(revision);
        }
        discard(&path, "content does not match its digest");
        None
    }

    pub(crate) fn put_revision(&self, digest: &Digest, revision: &Revision) -> Result<(), CacheError> {
        self.write_json(&self.revisions().join(digest.as_str()), revision)
    }

    /// What was kept of an artifact's compiled code, not to be believed as it is.
    pub(crate) fn compiled(&self, artifact: &Digest) -> Option<Vec<u8>> {
        fs::read(self.compiled_dir().join(artifact.as_str())).ok()
    }

    /// The parts are written one after the other: they may be large, and in no memory twice.
    pub(crate) fn put_compiled(&self, artifact: &Digest, sealed: &[&[u8]]) -> Result<(), CacheError> {
        self.write_once(&self.compiled_dir().join(artifact.as_str()), sealed)
    }

    pub(crate) fn discard_compiled(&self, artifact: &Digest, why: &str) {
        discard(&self.compiled_dir().join(artifact.as_str()), why);
    }

    /// The key of this disk's seal; none where there is none, or one that somebody else may know. An error does not tell: what
    /// is there stays, and what was sealed with it.
    pub(crate) fn seal_key<const N: usize>(&self) -> Result<Option<[u8; N]>, CacheError> {
        let path = self.root.join(SEAL_KEY);
        let (bytes, mode) = match read_with_mode(&path) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path)(error)),
        };
        if mode & 0o077 != 0 {
            discard(&path, "others than its owner may read the key, or write it");
            return Ok(None);
        }
        let key = bytes.try_into().ok();
        if key.is_none() {
            discard(&path, "this is no key");
        }
        Ok(key)
    }

    pub(crate) fn put_seal_key(&self, key: &[u8]) -> Result<(), CacheError> {
        self.write(&self.root.join(SEAL_KEY), key)
    }

    pub(crate) fn state(&self) -> Option<SavedState> {
        read_json(&self.root.join(STATE))
    }

    pub(crate) fn put_state(&self, state: &SavedState) -> Result<(), CacheError> {
        self.write_json(&self.root.join(STATE), state)
    }

    /// Removes revisions, artifacts and compiled code that nothing refers to. `artifacts` says which artifact a
    /// kept revision has, so far as the caller knows it.
    pub(crate) fn keep_only(
        &self,
        revisions: &BTreeSet<Digest>,
        artifacts: &BTreeMap<Digest, Option<Digest>>,
    ) -> Result<(), CacheError> {
        let mut kept_artifacts: BTreeSet<Digest> = BTreeSet::new();
        for digest in revisions {
            let known = artifacts.get(digest).cloned();
            let from_disk = || self.revision(digest).and_then(|r| r.artifact).map(|a| a.digest);
            kept_artifacts.extend(known.unwrap_or_else(from_disk));
        }
        sweep(&self.revisions(), revisions)?;
        sweep(&self.artifacts(), &kept_artifacts)?;
        sweep(&self.compiled_dir(), &kept_artifacts)
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), CacheError> {
        let json = serde_json::to_vec(value).map_err(io::Error::other).map_err(at(path))?;
        self.write(path, &json)
    }

    /// Writes what a restart cannot do without.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
        match self.write_once(path, &[bytes]) {
            Err(error) if is_full(&error.source) && self.drop_compiled() => self.write_once(path, &[bytes]),
            written => written,
        }
    }

    /// Whether that makes room.
    fn drop_compiled(&self) -> bool {
        let files = fs::read_dir(self.compiled_dir()).into_iter().flatten().flatten();
        let kept = files.filter(|entry| !entry.file_name().to_string_lossy().starts_with(ASIDE));
        let dropped = kept.filter(|entry| fs::remove_file(entry.path()).is_ok()).count();
        if dropped > 0 {
            tracing::warn!(files = dropped, "the disk is full: compiled code is removed, a restart compiles it again");
        }
        dropped > 0
    }

    fn write_once(&self, path: &Path, parts: &[&[u8]]) -> Result<(), CacheError> {
        let dir = path.parent().unwrap_or(&self.root);
        let serial = self.writes.fetch_add(1, Ordering::Relaxed);
        let aside = dir.join(format!("{ASIDE}{serial}"));
        let written = write_synced(&aside, parts)
            .and_then(|()| fs::rename(&aside, path))
            .and_then(|()| fs::File::open(dir)?.sync_all());
        if written.is_err() {
            // A full disk must get its space back even when the write did not make it.
            let _already_failed = fs::remove_file(&aside);
        }
        written.map_err(at(path))
    }
}

fn write_synced(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // The seal's key is among these files, and nobody else has any business with the others.
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

fn read_with_mode(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let mut file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((bytes, file.metadata()?.permissions().mode()))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = fs::read(path).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            discard(path, &error.to_string());
            None
        }
    }
}

fn discard(path: &Path, why: &str) {
    tracing::warn!(path = %path.display(), why, "removing a damaged file from the disk cache");
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove it");
    }
}

/// Removes every file whose name is no digest in `keep`; files aside are somebody's write under way.
fn sweep(dir: &Path, keep: &BTreeSet<Digest>) -> Result<(), CacheError> {
    for entry in fs::read_dir(dir).map_err(at(dir))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kept = name.parse::<Digest>().is_ok_and(|d| keep.contains(&d));
        if !kept && !name.starts_with(ASIDE) {
            fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
        }
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CacheError + use<> {
    let path = path.to_owned();
    |source| CacheError { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        cache.prepare().unwrap();
        (dir, cache)
    }

    #[test]
    fn a_damaged_artifact_is_removed_not_served() {
        let (dir, cache) = cache();
        let digest = Digest::of(b"component");
        cache.put_artifact(&digest, b"component").unwrap();
        assert_eq!(cache.artifact(&digest).unwrap(), b"component");
        let path = dir.path().join("artifacts").join(digest.as_str());
        fs::write(&path, b"componen").unwrap();
        assert!(cache.artifact(&digest).is_none());
        assert!(!path.exists());
    }

    #[test]
    fn what_a_crash_left_aside_goes_at_the_next_start() {
        let (dir, cache) = cache();
        let aside = dir.path().join("revisions").join(format!("{ASIDE}7"));
        fs::write(&aside, b"half").unwrap();
        cache.prepare().unwrap();
        assert!(!aside.exists());
    }

    #[test]
    fn a_damaged_state_is_no_state() {
        let (dir, cache) = cache();
        fs::write(dir.path().join(STATE), b"{\"accepted\":").unwrap();
        assert!(cache.state().is_none());
        assert!(!dir.path().join(STATE).exists());
    }

    #[test]
    fn only_what_is_referred_to_stays() {
        let (_dir, cache) = cache();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        cache.put_artifact(&a, b"a").unwrap();
        cache.put_artifact(&b, b"b").unwrap();
        cache.put_compiled(&a, &[b"code", b" of a"]).unwrap();
        cache.put_compiled(&b, &[b"code of b"]).unwrap();
        let revision = Digest::of(b"revision of a");
        cache.keep_only(&[revision.clone()].into(), &[(revision, Some(a.clone()))].into()).unwrap();
        assert!(cache.artifact(&a).is_some());
        assert_eq!(cache.compiled(&a).unwrap(), b"code of a");
        assert!(cache.artifact(&b).is_none() && cache.compiled(&b).is_none());
    }

    #[test]
    fn the_key_is_for_nobody_else_to_read() {
        let (dir, cache) = cache();
        assert_eq!(cache.seal_key::<32>().unwrap(), None);
        cache.put_seal_key(&[7; 32]).unwrap();
        assert_eq!(cache.seal_key().unwrap(), Some([7; 32]));
        let path = dir.path().join(SEAL_KEY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, [7_u8; 31]).unwrap();
        assert_eq!(cache.seal_key::<32>().unwrap(), None, "a key that is cut");
        assert!(!path.exists());
        for mode in [0o640, 0o604, 0o620] {
            cache.put_seal_key(&[7; 32]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(cache.seal_key::<32>().unwrap(), None, "{mode:o}");
            assert!(!path.exists(), "{mode:o}");
        }
    }

    #[test]
    fn compiled_code_makes_room_on_a_full_disk() {
        let (_dir, cache) = cache();
        let digest = Digest::of(b"a");
        assert!(!cache.drop_compiled(), "there is none");
        cache.put_compiled(&digest, &[b"code"]).unwrap();
        assert!(cache.drop_compiled());
        assert!(cache.compiled(&digest).is_none());
        assert!(is_full(&io::Error::from_raw_os_error(28)), "ENOSPC");
    }

    #[test]
    fn a_directory_that_is_a_file_is_an_error_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let cache = Cache::new(file.join("below"));
        assert!(cache.prepare().is_err());
        assert!(cache.put_artifact(&Digest::of(b"a"), b"a").is_err());
        assert!(cache.state().is_none());
    }
}
