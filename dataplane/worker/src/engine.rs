//! The engine: one per process, with its pool and its ticker.

use crate::{CompileError, Compiled};

/// Sizes of the pool. An outer worker holds its slot while inner ones run: `instances_max` is
/// requests at once times workers in a chain.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Calls at once, over all workers; what is above is shed.
    pub instances_max: u32,
    /// Largest linear memory of any worker, in bytes; a worker's own limit may be lower.
    pub memory_bytes_max: usize,
    /// Bytes of each idle slot's memory that stay resident.
    pub keep_resident_bytes: usize,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[error("no WebAssembly engine: {0}")]
pub struct EngineError(pub(crate) String);

/// Compiles and runs workers; cheap to clone, one for the life of the process.
#[derive(Clone)]
pub struct Engine;

impl Engine {
    /// An engine, its pool, and the thread that ticks each millisecond while calls run.
    ///
    /// # Errors
    /// The pool's address space cannot be had.
    pub fn new(_config: &EngineConfig) -> Result<Self, EngineError> {
        todo!()
    }

    /// Compiles a component. Blocks for as long as that takes: call it off the serving threads.
    ///
    /// # Errors
    /// See [`CompileError`]; each says what to do.
    pub fn compile(&self, _wasm: &[u8]) -> Result<Compiled, CompileError> {
        todo!()
    }
}
