//! The engine: one per process, with a pool for each contract and one ticker.

use std::{sync::Arc, thread, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{
    Config, Enabled, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig,
    component::{Component, Linker},
};

use crate::{
    CompileError, Compiled, OwnCode, call,
    compile::{self, Linkers},
    computing, filter,
    imports::Contract,
    slices::ask_for_slices,
};

/// How often it is looked whether a guest runs.
const TICK: Duration = Duration::from_millis(1);
/// The same while one does: its neighbours wait for that.
const TICK_WHILE_A_GUEST_RUNS: Duration = Duration::from_micros(250);
/// The shortest that there is: the ticker does next to nothing, and a guest that loops is not stopped while it waits.
const TICKER_SLICE: Duration = Duration::from_micros(100);

/// Core modules, tables and memories that a component may have: what toolchains make is far below.
const CORE_INSTANCES_MAX: u32 = 32;
const TABLES_MAX: u32 = 16;
const MEMORIES_MAX: u32 = 4;
/// What the pool has for each call that it has room for. Some components take more, and few take all of it. A core instance
/// takes nothing but its count: of those there are as many as all may have.
const TABLES_A_CALL: u32 = 4;
const MEMORIES_A_CALL: u32 = 2;
/// Functions that a guest may point to; JavaScript engines have about 20,000.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Metadata of an instance, in bytes.
const INSTANCE_BYTES_MAX: usize = 4 << 20;

/// Instances that wait for another call hold at most this part of a pool, over all its workers.
const IDLE_PART: u32 = 4;

/// Sizes of each contract's pool. An outer worker of `wasi:http` holds its slot while inner ones run: `instances_max` is
/// requests at once times such workers in a chain.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Calls at once, over all workers of a contract; what is above is shed.
    pub instances_max: u32,
    /// Largest linear memory of any worker, in bytes; a worker's own limit may be lower.
    pub memory_bytes_max: usize,
    /// Bytes of each idle slot's memory that stay resident.
    pub keep_resident_bytes: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { instances_max: 1_000, memory_bytes_max: 256 << 20, keep_resident_bytes: 1 << 20 }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[error("no WebAssembly engine: {0}")]
pub struct EngineError(String);

/// Compiles and runs workers; cheap to clone, one for the life of the process.
#[derive(Clone)]
pub struct Engine {
    engines: Engines,
    linkers: Arc<Linkers>,
}

/// One for each contract, so that workers that wait for slow upstreams never hold the room of filters. Those of proxies and
/// filters make the same code; that of handlers makes its own.
#[derive(Clone)]
pub(crate) struct Engines {
    proxies: wasmtime::Engine,
    handlers: wasmtime::Engine,
    filters: wasmtime::Engine,
}

impl Engines {
    pub(crate) fn of(&self, contract: Contract) -> &wasmtime::Engine {
        match contract {
            Contract::Proxy => &self.proxies,
            Contract::Handler => &self.handlers,
            Contract::Filter { .. } => &self.filters,
        }
    }
}

impl Engine {
    /// An engine, its pool, and the thread that ticks each millisecond or more often until the engine is dropped.
    ///
    /// # Errors
    /// The pool's address space or the thread cannot be had.
    pub fn new(config: &EngineConfig) -> Result<Self, EngineError> {
        let error = |e: wasmtime::Error| EngineError(format!("{e:#}"));
        let engine = |concurrency| wasmtime::Engine::new(&settings(config, concurrency)).map_err(error);
        let engines = Engines {
            proxies: engine(Concurrency::Off)?,
            handlers: engine(Concurrency::On)?,
            filters: engine(Concurrency::Off)?,
        };
        let mut proxy = Linker::new(&engines.proxies);
        wasmtime_wasi::p2::add_to_linker_async(&mut proxy).map_err(error)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut proxy).map_err(error)?;
        let mut handler = Linker::new(&engines.handlers);
        call::handler::add_to_linker(&mut handler).map_err(error)?;
        let mut filter = Linker::new(&engines.filters);
        wasmtime_wasi::p2::add_to_linker_async(&mut filter).map_err(error)?;
        filter::add_to_linker(&mut filter).map_err(error)?;
        tick(&engines).map_err(|e| EngineError(e.to_string()))?;
        let room = || Room::new(config.instances_max);
        let (proxy_room, handler_room, filter_room) = (room(), room(), room());
        let linkers = Linkers { proxy, handler, filter, proxy_room, handler_room, filter_room };
        Ok(Self { engines, linkers: Arc::new(linkers) })
    }

    /// Compiles a component. Blocks for as long as that takes: call it off the serving threads.
    ///
    /// # Errors
    /// See [`CompileError`]; each says what to do.
    pub fn compile(&self, wasm: &[u8]) -> Result<Compiled, CompileError> {
        compile::compile(&self.engines, &self.linkers, wasm)
    }

    /// Links code of our own, made of a component of this contract. Takes milliseconds: call it off the serving threads.
    ///
    /// # Errors
    /// See [`CompileError`]; the pool's sizes and the linkers have their say here.
    pub fn load(&self, contract: Contract, code: &OwnCode) -> Result<Compiled, CompileError> {
        compile::link(&self.linkers, contract, &code.component(self.engines.of(contract))?)
    }

    /// Whether this version made the code, with this engine's settings for the contract, for this CPU.
    #[must_use]
    pub fn can_run(&self, contract: Contract, code: &OwnCode) -> bool {
        code.is_for(self.engines.of(contract))
    }
}

/// Whether the code is for an engine that runs several tasks in one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concurrency {
    On,
    /// Without, a class of attacks and a fifth of a call's cost is gone.
    Off,
}

impl Concurrency {
    /// What a contract needs.
    pub(crate) fn of(contract: Contract) -> Self {
        match contract {
            Contract::Handler => Self::On,
            Contract::Proxy | Contract::Filter { .. } => Self::Off,
        }
    }
}

fn settings(config: &EngineConfig, concurrency: Concurrency) -> Config {
    let mut settings = code_settings(concurrency);
    settings.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(config)));
    settings
}

/// What code depends on. The compiler's process has this and no pool: where instances are put is no part of their code.
pub(crate) fn code_settings(concurrency: Concurrency) -> Config {
    let is_concurrent = concurrency == Concurrency::On;
    let mut settings = Config::new();
    settings
        .wasm_component_model(true)
        .concurrency_support(is_concurrent)
        .wasm_component_model_async(is_concurrent)
        .epoch_interruption(true)
        .memory_init_cow(true);
    // Shared memories would grow past the limiter.
    settings.wasm_threads(false);
    settings.wasm_shared_everything_threads(false);
    settings
}

fn pool(config: &EngineConfig) -> PoolingAllocationConfig {
    let calls = config.instances_max;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(calls.saturating_mul(MEMORIES_A_CALL))
        .total_tables(calls.saturating_mul(TABLES_A_CALL))
        .total_stacks(calls)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .max_memory_size(config.memory_bytes_max)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_unused_warm_slots(calls.min(256))
        .linear_memory_keep_resident(config.keep_resident_bytes)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(32 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// What a contract's pool has room for.
#[derive(Clone)]
pub(crate) struct Room {
    /// Instances that wait for another call.
    pub(crate) idle: Arc<Semaphore>,
    /// Calls at once beside them.
    calls: Arc<Semaphore>,
    calls_max: u32,
}

impl Room {
    fn new(instances_max: u32) -> Self {
        let idle_max = instances_max / IDLE_PART;
        let calls_max = instances_max - idle_max;
        let semaphore = |max: u32| Arc::new(Semaphore::new(max as usize));
        Self { idle: semaphore(idle_max), calls: semaphore(calls_max), calls_max }
    }

    /// Room for a call of this weight; nothing where there is none.
    pub(crate) fn call(&self, weight: u32) -> Option<OwnedSemaphorePermit> {
        // One that takes more than a small pool has may try alone.
        self.calls.clone().try_acquire_many_owned(weight.min(self.calls_max)).ok()
    }
}

/// For how many calls an instance takes what the pool has.
pub(crate) fn weight(component: &Component) -> u32 {
    // One that instantiates what it imports does not tell: then it is the most that the pool lets it have.
    let (memories, tables) = component
        .resources_required()
        .map_or((MEMORIES_MAX, TABLES_MAX), |required| (required.num_memories, required.num_tables));
    memories.div_ceil(MEMORIES_A_CALL).max(tables.div_ceil(TABLES_A_CALL)).max(1)
}

/// One OS thread for all calls: a guest that spins can hold the async runtime's timers, not this.
fn tick(engines: &Engines) -> std::io::Result<()> {
    let engines = [engines.proxies.weak(), engines.handlers.weak(), engines.filters.weak()];
    thread::Builder::new()
        .name("sluice-ticker".to_owned())
        .spawn(move || {
            ask_for_slices(TICKER_SLICE);
            let tick = |engine: &EngineWeak| engine.upgrade().map(|engine| engine.increment_epoch());
            // Workers may outlive what compiled them.
            while engines.iter().filter_map(tick).count() > 0 {
                thread::sleep(if computing::was_found() { TICK_WHILE_A_GUEST_RUNS } else { TICK });
            }
        })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instance of one module with so many memories and tables.
    fn component(memories: u8, tables: u8) -> Vec<u8> {
        let section = |id: u8, content: &[u8]| [&[id, u8::try_from(content.len()).unwrap()], content].concat();
        let tables = [&[tables][..], &[0x70, 0, 1].repeat(tables.into())].concat();
        let memories = [&[memories][..], &[0, 1].repeat(memories.into())].concat();
        let module = [&b"\0asm\x01\0\0\0"[..], &section(4, &tables), &section(5, &memories)].concat();
        [&b"\0asm\x0d\0\x01\0"[..], &section(1, &module), &section(2, &[1, 0, 0, 0])].concat()
    }

    #[test]
    fn an_instance_weighs_what_it_takes_of_the_pool() {
        let engine = wasmtime::Engine::new(&code_settings(Concurrency::Off)).unwrap();
        let weight = |memories, tables| weight(&Component::from_binary(&engine, &component(memories, tables)).unwrap());
        for (memories, tables, expected) in [(0, 0, 1), (1, 3, 1), (2, 4, 1), (1, 5, 2), (1, 16, 4), (3, 1, 2)] {
            assert_eq!(weight(memories, tables), expected, "{memories} memories, {tables} tables");
        }
    }
}
