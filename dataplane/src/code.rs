//! From a component to a worker that can be called: from this disk where this node compiled it before, else by a compiler
//! in a process of its own.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use sluice_config::Digest;
use sluice_worker::{CompileError, Compiled, Engine, compiler::Compiler, imports};
use tokio::task::spawn_blocking;

use crate::{cache::Cache, kept::Kept, logging};

/// Makes workers.
pub(crate) struct Codes {
    engine: Engine,
    compiler: Compiler,
    kept: Arc<Kept>,
}

impl Codes {
    pub(crate) fn new(engine: Engine, compiler: Compiler, cache: Arc<Cache>) -> Self {
        Self { engine, compiler, kept: Arc::new(Kept::new(cache)) }
    }

    /// What this node has compiled before, if its disk has it. `wasm` is what the digest says: the caller has verified it.
    pub(crate) async fn kept(&self, artifact: &Digest, wasm: Bytes) -> Result<Option<Compiled>, CompileError> {
        let began = Instant::now();
        let (engine, kept, digest) = (self.engine.clone(), Arc::clone(&self.kept), artifact.clone());
        working(move || {
            // What this refuses costs no process.
            let contract = imports::surface(&wasm)?.check()?;
            drop(wasm);
            let Some(code) = kept.get(&digest, contract, &engine) else { return Ok(None) };
            let compiled = match engine.load(contract, &code) {
                Ok(compiled) => compiled,
                Err(error @ CompileError::Local(_)) => return Err(error),
                // The component may well be a worker: what a compiler says today is what counts.
                Err(error) => {
                    kept.discard(&digest, &error.to_string());
                    return Ok(None);
                }
            };
            let took_us = logging::micros(began.elapsed());
            tracing::debug!(artifact = digest.short(), took_us, "its code is on disk");
            Ok(Some(compiled))
        })
        .await
    }

    /// The same from a compiler's process, for what [`Self::kept`] has not, and keeps it.
    pub(crate) async fn compile(&self, artifact: &Digest, wasm: Bytes) -> Result<Compiled, CompileError> {
        let began = Instant::now();
        let code = self.compiler.compile(&wasm).await?;
        tracing::info!(
            artifact = artifact.short(),
            bytes = wasm.len(),
            code_bytes = code.size(),
            took_us = logging::micros(began.elapsed()),
            "compiled"
        );
        let (engine, kept, digest) = (self.engine.clone(), Arc::clone(&self.kept), artifact.clone());
        working(move || {
            let contract = imports::surface(&wasm)?.check()?;
            drop(wasm);
            let compiled = engine.load(contract, &code)?;
            if let Err(error) = kept.put(&digest, &code) {
                tracing::warn!(artifact = digest.short(), %error, "its code is not kept: a restart compiles it again");
            }
            Ok(compiled)
        })
        .await
    }
}

/// Runs on a blocking thread what the component's own bytes drive. A panic there (a bug of the engine's) is the component's
/// end, not the node's.
async fn working<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CompileError> + Send + 'static,
) -> Result<T, CompileError> {
    spawn_blocking(work).await.unwrap_or_else(|e| {
        let message = format!("loading it panicked: {e}");
        Err(if e.is_panic() { CompileError::Ended(message) } else { CompileError::Local(message) })
    })
}
