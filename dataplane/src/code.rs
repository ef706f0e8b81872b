//! From a component to a worker that can be called: from this disk where this node compiled it before, else by a compiler
//! in a process of its own.

use std::{sync::Arc, time::Instant};

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

    /// `wasm` is what the digest says: the caller has verified it.
    pub(crate) async fn make(&self, artifact: &Digest, wasm: Vec<u8>) -> Result<Compiled, CompileError> {
        let began = Instant::now();
        let (engine, kept, digest) = (self.engine.clone(), Arc::clone(&self.kept), artifact.clone());
        let (wasm, contract, from_disk) = working(move || {
            // What this refuses costs no process.
            let contract = imports::surface(&wasm)?.check()?;
            let code = kept.get(&digest, contract, &engine);
            Ok((wasm, contract, code.map(|code| engine.load(contract, &code)).transpose()?))
        })
        .await?;
        if let Some(compiled) = from_disk {
            let took_us = logging::micros(began.elapsed());
            tracing::debug!(artifact = artifact.short(), took_us, "its code is on disk");
            return Ok(compiled);
        }
        let code = self.compiler.compile(&wasm).await?;
        tracing::info!(
            artifact = artifact.short(),
            bytes = wasm.len(),
            code_bytes = code.size(),
            took_us = logging::micros(began.elapsed()),
            "compiled"
        );
        drop(wasm);
        let (engine, kept, digest) = (self.engine.clone(), Arc::clone(&self.kept), artifact.clone());
        working(move || {
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
