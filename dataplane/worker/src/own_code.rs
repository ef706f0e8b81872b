//! Compiled code that may be run, because this program made it: the type that says so, and the seal that lets a disk keep it.
//!
//! Compiled code is run as it is; wasmtime checks it for mistakes, not for malice. So nothing becomes [`OwnCode`] but what
//! the compiler has just made, in this process or in a child of it, and what carries the [`Seal`] of this node.

use std::hash::{Hash as _, Hasher};

use aws_lc_rs::{error::Unspecified, hmac, rand};
use sluice_config::Digest;
use wasmtime::component::Component;

use crate::{
    CompileError,
    compile::error,
    engine::{Concurrency, code_settings},
    imports::{self, Contract},
};

/// Compiled code of our own, for one kind of engine. It may be large: it stays in the bytes that it came in.
pub struct OwnCode {
    /// What it was made by and for.
    engine: Digest,
    bytes: Vec<u8>,
    /// Where it begins in them; they end with it.
    from: usize,
}

/// Compiles a component, here and now.
///
/// # Errors
/// See [`CompileError`]; each says what to do.
pub fn precompile(wasm: &[u8]) -> Result<OwnCode, CompileError> {
    let contract = imports::surface(wasm)?.check()?;
    precompile_with(&compiler(contract).map_err(CompileError::Local)?, wasm)
}

/// An engine that compiles components of a contract and runs nothing. It has one thread: what a component takes is then the same on every node,
/// however many CPUs that has.
pub(crate) fn compiler(contract: Contract) -> Result<wasmtime::Engine, String> {
    let mut settings = code_settings(Concurrency::of(contract));
    settings.parallel_compilation(false);
    wasmtime::Engine::new(&settings).map_err(|e| format!("no compiler: {e:#}"))
}

pub(crate) fn precompile_with(compiler: &wasmtime::Engine, wasm: &[u8]) -> Result<OwnCode, CompileError> {
    let code = compiler.precompile_component(wasm).map_err(|e| error(&e, CompileError::Compile))?;
    Ok(OwnCode { engine: identity(compiler), bytes: code, from: 0 })
}

impl PartialEq for OwnCode {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl OwnCode {
    /// How many bytes there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.code().len()
    }

    fn code(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    /// What a child of this process answered: the engine's identity, then the code.
    pub(crate) fn from_child(answer: Vec<u8>) -> Option<Self> {
        let (engine, code) = read_digest(&answer)?;
        let from = answer.len() - code.len();
        Some(Self { engine, bytes: answer, from })
    }

    /// The same, from the child's side.
    pub(crate) fn parts(&self) -> [&[u8]; 2] {
        [self.engine.as_str().as_bytes(), self.code()]
    }

    pub(crate) fn is_for(&self, engine: &wasmtime::Engine) -> bool {
        self.engine == identity(engine)
    }

    #[allow(
        unsafe_code,
        reason = "the one place where compiled code comes in, see docs/decisions/0024-compiled-code.md"
    )]
    pub(crate) fn component(&self, engine: &wasmtime::Engine) -> Result<Component, CompileError> {
        if !self.is_for(engine) {
            return Err(CompileError::Local("its code was compiled for another engine or CPU".to_owned()));
        }
        // SAFETY: deserialize() wants what precompile_component() made, unchanged, for the same settings and a CPU with
        // the same features. `is_for` has just compared those. And there are three ways to an `OwnCode`: `precompile()`;
        // `from_child()`, which has what a child that we started from this very executable wrote before it ended well;
        // and `Seal::open()`, which has checked an HMAC over code, settings and artifact, made with a key that is on no
        // other node. The bytes are our own copy in memory: nobody can change them after the check.
        unsafe { Component::deserialize(engine, self.code()) }.map_err(|e| error(&e, CompileError::Compile))
    }
}

/// What code depends on beside the component: the version of this program and of wasmtime, the settings, the target, and
/// what the host's CPU can do.
fn identity(engine: &wasmtime::Engine) -> Digest {
    struct Written(Vec<u8>);
    impl Hasher for Written {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
        // Nobody asks: what was written is hashed below, by a function that no two inputs meet in.
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut written = Written(env!("CARGO_PKG_VERSION").as_bytes().to_vec());
    engine.precompile_compatibility_hash().hash(&mut written);
    Digest::of(&written.0)
}

/// A digest at the front of these bytes, and the rest.
fn read_digest(bytes: &[u8]) -> Option<(Digest, &[u8])> {
    let (digest, rest) = bytes.split_at_checked(DIGEST_BYTES)?;
    Some((std::str::from_utf8(digest).ok()?.parse().ok()?, rest))
}

const DIGEST_BYTES: usize = 64;
const MAC_BYTES: usize = 32;
/// First after the MAC: another layout has another one.
const MAGIC: &[u8] = b"sluice compiled code 1\n";

/// What a [`Seal`] is made with.
pub type Key = [u8; 32];

/// A new key, for a node that has none.
///
/// # Errors
/// The system gives no random bytes.
pub fn new_key() -> Result<Key, SealError> {
    let mut key = Key::default();
    rand::fill(&mut key).map_err(|Unspecified| SealError::NoRandom)?;
    Ok(key)
}

/// Why there is no code, or no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Cut, changed, or sealed with another key.
    #[error("it does not carry this node's seal")]
    Broken,
    /// Whole, but under a wrong name.
    #[error("it is sealed for another artifact")]
    OtherArtifact,
    /// No key can be made.
    #[error("the system gives no random bytes")]
    NoRandom,
}

/// An HMAC-SHA256 over code, its artifact and its engine: what carries it was made on the node that has the key.
#[derive(Clone)]
pub struct Seal {
    key: hmac::Key,
}

impl Seal {
    /// The seal that is made with this key.
    #[must_use]
    pub fn new(key: &Key) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// What a disk may keep.
    #[must_use]
    pub fn seal<'a>(&self, artifact: &'a Digest, code: &'a OwnCode) -> Sealed<'a> {
        let [engine, bytes] = code.parts();
        let mut mac = hmac::Context::with_key(&self.key);
        let sealed = [MAGIC, artifact.as_str().as_bytes(), engine, bytes];
        for part in sealed {
            mac.update(part);
        }
        Sealed { mac: mac.sign(), sealed }
    }

    /// The code, if this is what [`Self::seal`] gave for this artifact.
    ///
    /// # Errors
    /// It is not. Nothing of it has been used.
    pub fn open(&self, artifact: &Digest, kept: Vec<u8>) -> Result<OwnCode, SealError> {
        let (engine, from) = self.check(artifact, &kept)?;
        Ok(OwnCode { engine, bytes: kept, from })
    }

    /// The engine, and where the code begins.
    fn check(&self, artifact: &Digest, kept: &[u8]) -> Result<(Digest, usize), SealError> {
        let (mac, sealed) = kept.split_at_checked(MAC_BYTES).ok_or(SealError::Broken)?;
        hmac::verify(&self.key, sealed, mac).map_err(|Unspecified| SealError::Broken)?;
        let sealed = sealed.strip_prefix(MAGIC).ok_or(SealError::Broken)?;
        let (of, sealed) = read_digest(sealed).ok_or(SealError::Broken)?;
        let (engine, code) = read_digest(sealed).ok_or(SealError::Broken)?;
        if &of != artifact {
            return Err(SealError::OtherArtifact);
        }
        Ok((engine, kept.len() - code.len()))
    }
}

/// Code with its seal, to be written without being copied.
pub struct Sealed<'a> {
    mac: hmac::Tag,
    sealed: [&'a [u8]; 4],
}

impl Sealed<'_> {
    /// What to write, one after the other.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 5] {
        let [magic, artifact, engine, code] = self.sealed;
        [self.mac.as_ref(), magic, artifact, engine, code]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, EngineConfig};

    fn some_code() -> OwnCode {
        OwnCode { engine: Digest::of(b"engine"), bytes: b"code".to_vec(), from: 0 }
    }

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        let (artifact, code) = (Digest::of(b"artifact"), some_code());
        let seal = Seal::new(&new_key().unwrap());
        let kept = seal.seal(&artifact, &code).parts().concat();
        let opened = seal.open(&artifact, kept.clone()).unwrap();
        assert_eq!(opened.parts(), code.parts());
        let from_child = OwnCode::from_child(code.parts().concat()).unwrap();
        assert_eq!(from_child.parts(), code.parts());
        let open = |seal: &Seal, artifact, kept: &[u8]| seal.open(artifact, kept.to_vec()).err();
        for at in 0..kept.len() {
            let mut changed = kept.clone();
            changed[at] ^= 1;
            assert_eq!(open(&seal, &artifact, &changed), Some(SealError::Broken), "byte {at} is changed");
            assert_eq!(open(&seal, &artifact, &kept[..at]), Some(SealError::Broken), "cut after {at} bytes");
        }
        let longer = [&kept[..], b"\0"].concat();
        assert_eq!(open(&seal, &artifact, &longer), Some(SealError::Broken));
        let another = Digest::of(b"another");
        assert_eq!(open(&seal, &another, &kept), Some(SealError::OtherArtifact));
        let other = Seal::new(&new_key().unwrap());
        assert_eq!(open(&other, &artifact, &kept), Some(SealError::Broken), "of another node");
    }

    #[test]
    fn a_compiler_without_a_pool_makes_code_for_the_engine_of_its_contract() {
        let engine = Engine::new(&EngineConfig { instances_max: 1, ..EngineConfig::default() }).unwrap();
        let made = |contract| OwnCode { engine: identity(&compiler(contract).unwrap()), bytes: vec![], from: 0 };
        let filter = Contract::Filter { on_request: true, on_response: false };
        for (of, alike) in [(Contract::Proxy, true), (filter, true), (Contract::Handler, false)] {
            let code = made(of);
            assert!(engine.can_run(of, &code), "{of:?}");
            assert_eq!(engine.can_run(Contract::Proxy, &code), alike, "{of:?}");
            assert_eq!(engine.can_run(Contract::Handler, &code), !alike, "{of:?}");
        }
        let other = wasmtime::Engine::new(code_settings(Concurrency::Off).epoch_interruption(false)).unwrap();
        assert!(!made(Contract::Proxy).is_for(&other), "code without epochs could not be stopped");
    }

    #[test]
    fn code_for_another_engine_is_not_run() {
        let engine = Engine::new(&EngineConfig { instances_max: 1, ..EngineConfig::default() }).unwrap();
        for contract in [Contract::Proxy, Contract::Handler] {
            assert!(!engine.can_run(contract, &some_code()));
            assert!(matches!(engine.load(contract, &some_code()).err(), Some(CompileError::Local(_))));
        }
    }
}
