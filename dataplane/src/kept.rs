//! Compiled code on disk, under this node's seal: what does not carry it is not run, but removed and compiled anew.

use std::sync::{Arc, Mutex, PoisonError};

use sluice_config::Digest;
use sluice_worker::{Engine, Key, OwnCode, Seal, SealError, imports::Contract, new_key};

use crate::cache::{Cache, CacheError};

/// Why code is not kept. It runs all the same.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Key(#[from] SealError),
}

/// Code of earlier compilations.
pub(crate) struct Kept {
    cache: Arc<Cache>,
    /// Two keys would be one too many.
    making_key: Mutex<()>,
}

impl Kept {
    pub(crate) fn new(cache: Arc<Cache>) -> Self {
        Self { cache, making_key: Mutex::new(()) }
    }

    /// What this node compiled of this artifact, which has this contract, for such an engine.
    pub(crate) fn get(&self, artifact: &Digest, contract: Contract, engine: &Engine) -> Option<OwnCode> {
        let sealed = self.cache.compiled(artifact)?;
        let key = match self.cache.seal_key() {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!(%error, "the key of compiled code cannot be read: what was compiled before is compiled again");
                return None;
            }
        };
        let opened = key.map(|key| Seal::new(&key).open(artifact, sealed));
        let why = match opened {
            Some(Ok(code)) if engine.can_run(contract, &code) => return Some(code),
            Some(Ok(_)) => "another version or another CPU compiled it".to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "the key of its seal is gone".to_owned(),
        };
        self.cache.discard_compiled(artifact, &why);
        None
    }

    /// Removes what cannot be used.
    pub(crate) fn discard(&self, artifact: &Digest, why: &str) {
        self.cache.discard_compiled(artifact, why);
    }

    pub(crate) fn put(&self, artifact: &Digest, code: &OwnCode) -> Result<(), KeepError> {
        let seal = Seal::new(&self.key()?);
        Ok(self.cache.put_compiled(artifact, &seal.seal(artifact, code).parts())?)
    }

    /// The key of this disk, made where there is none.
    fn key(&self) -> Result<Key, KeepError> {
        let _one_at_a_time = self.making_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = self.cache.seal_key()? {
            return Ok(key);
        }
        let key = new_key()?;
        self.cache.put_seal_key(&key)?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sluice_worker::{EngineConfig, precompile};

    use super::*;
    use crate::fixture::{self, EMPTY};

    struct Disk {
        dir: tempfile::TempDir,
        kept: Kept,
        engine: Engine,
    }

    impl Disk {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let cache = fixture::cache(dir.path());
            let engine = Engine::new(&EngineConfig { instances_max: 1, ..EngineConfig::default() }).unwrap();
            Self { dir, kept: Kept::new(cache), engine }
        }

        fn file(&self, artifact: &Digest) -> std::path::PathBuf {
            self.dir.path().join("compiled").join(artifact.as_str())
        }
    }

    fn code() -> OwnCode {
        precompile(EMPTY).unwrap()
    }

    #[test]
    fn what_was_put_is_got_again_after_a_restart() {
        let disk = Disk::new();
        let (artifact, code) = (Digest::of(EMPTY), code());
        assert!(disk.kept.get(&artifact, Contract::Proxy, &disk.engine).is_none());
        disk.kept.put(&artifact, &code).unwrap();
        let later = Kept::new(Arc::clone(&disk.kept.cache));
        assert!(later.get(&artifact, Contract::Proxy, &disk.engine).unwrap() == code);
    }

    #[test]
    fn a_key_that_cannot_be_read_is_not_replaced_nor_what_it_sealed_removed() {
        let disk = Disk::new();
        let (artifact, code) = (Digest::of(EMPTY), code());
        disk.kept.put(&artifact, &code).unwrap();
        let (key, aside) = (disk.dir.path().join("seal.key"), disk.dir.path().join("aside"));
        fs::rename(&key, &aside).unwrap();
        fs::create_dir(&key).unwrap();
        assert!(disk.kept.get(&artifact, Contract::Proxy, &disk.engine).is_none());
        assert!(disk.kept.put(&artifact, &code).is_err());
        fs::remove_dir(&key).unwrap();
        fs::rename(&aside, &key).unwrap();
        assert!(disk.kept.get(&artifact, Contract::Proxy, &disk.engine).unwrap() == code);
    }

    #[test]
    fn what_is_not_ours_is_removed_and_never_got() {
        let disk = Disk::new();
        let (artifact, other, code) = (Digest::of(EMPTY), Digest::of(b"other"), code());
        disk.kept.put(&artifact, &code).unwrap();
        disk.kept.put(&other, &code).unwrap();
        let whole = fs::read(disk.file(&artifact)).unwrap();
        let foreign = Disk::new();
        foreign.kept.put(&artifact, &code).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for (what, bytes) in [
            ("cut", whole[..whole.len() / 2].to_vec()),
            ("flipped", flipped),
            ("of another artifact", fs::read(disk.file(&other)).unwrap()),
            ("of another node", fs::read(foreign.file(&artifact)).unwrap()),
            ("empty", vec![]),
        ] {
            fs::write(disk.file(&artifact), bytes).unwrap();
            assert!(disk.kept.get(&artifact, Contract::Proxy, &disk.engine).is_none(), "{what}");
            assert!(!disk.file(&artifact).exists(), "{what}");
        }
        fs::write(disk.file(&artifact), &whole).unwrap();
        fs::remove_file(disk.dir.path().join("seal.key")).unwrap();
        assert!(disk.kept.get(&artifact, Contract::Proxy, &disk.engine).is_none(), "the key is lost");
    }
}
