//! Files named by the digest of their content: written whole or not at all, never trusted when read.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use sluice_config::Digest;

const PARTIAL: &str = ".partial";

/// Why the store does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk.
    #[error("the artifact store fails ({0}): check the operator's disk")]
    Disk(#[from] std::io::Error),
    /// The caller's bytes are not what it says.
    #[error("bytes with digest {found} are offered as {expected}")]
    Digest {
        /// What was announced.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Work was cut short by shutdown.
    #[error("the artifact store is shutting down")]
    Stopped,
}

/// The artifacts on this replica's disk. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    folder: Arc<PathBuf>,
    writes: Arc<AtomicU64>,
}

impl Store {
    /// Opens the folder, makes it if needed, removes what an interrupted write left.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub async fn open(folder: PathBuf) -> Result<Self, StoreError> {
        blocking(move || {
            fs::create_dir_all(&folder)?;
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.to_string_lossy().ends_with(PARTIAL) {
                    fs::remove_file(path)?;
                }
            }
            Ok(Self { folder: Arc::new(folder), writes: Arc::default() })
        })
        .await
    }

    /// Keeps bytes. A crash leaves either all of them or nothing.
    ///
    /// # Errors
    /// The digest is another, or the disk fails.
    pub async fn put(&self, digest: &Digest, bytes: Vec<u8>) -> Result<(), StoreError> {
        let (this, digest) = (self.clone(), digest.clone());
        blocking(move || {
            let found = Digest::of(&bytes);
            if found != digest {
                return Err(StoreError::Digest { expected: digest, found });
            }
            let nth = this.writes.fetch_add(1, Ordering::Relaxed);
            let partial = this.folder.join(format!("{digest}.{nth}{PARTIAL}"));
            let written = write_synced(&partial, &bytes).and_then(|()| fs::rename(&partial, this.path(&digest)));
            if let Err(error) = written {
                let _best_effort = fs::remove_file(&partial);
                return Err(error.into());
            }
            // The name must survive a crash too.
            fs::File::open(this.folder.as_path())?.sync_all()?;
            Ok(())
        })
        .await
    }

    /// The bytes, if they are here and sound; damaged ones are removed and count as absent.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let (this, digest) = (self.clone(), digest.clone());
        blocking(move || {
            let path = this.path(&digest);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if Digest::of(&bytes) == digest {
                return Ok(Some(bytes));
            }
            tracing::warn!(%digest, "damaged artifact removed");
            fs::remove_file(path)?;
            Ok(None)
        })
        .await
    }

    /// Whether an artifact is here. Its content is verified when it is read.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Which of these are not here. A replica is ready only when nothing assigned is missing.
    #[must_use]
    pub fn missing(&self, wanted: &BTreeSet<Digest>) -> BTreeSet<Digest> {
        wanted.iter().filter(|digest| !self.has(digest)).cloned().collect()
    }

    /// Removes all but these, and what is younger: whoever wants it may not have said so yet.
    ///
    /// # Errors
    /// The disk fails; what is needed is untouched all the same.
    pub async fn collect(&self, needed: BTreeSet<Digest>, younger_than: Duration) -> Result<usize, StoreError> {
        let this = self.clone();
        blocking(move || {
            let mut removed = 0;
            let now = SystemTime::now();
            for entry in fs::read_dir(this.folder.as_path())? {
                let entry = entry?;
                let name = entry.file_name();
                // What is no digest is a write under way.
                let Some(digest) = name.to_str().and_then(|name| name.parse::<Digest>().ok()) else { continue };
                let written = entry.metadata()?.modified()?;
                // A clock that went back makes it young.
                let age = now.duration_since(written).unwrap_or_default();
                if !needed.contains(&digest) && age >= younger_than {
                    fs::remove_file(entry.path())?;
                    removed += 1;
                }
            }
            Ok(removed)
        })
        .await
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.as_str())
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Stopped))
}
