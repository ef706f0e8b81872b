//! A store under its limits, and the dry start of what will run in one.

use std::sync::Arc;

use sluice_config::Limits;
use wasmtime::{AsContextMut, Store, UpdateDeadline, component::InstancePre};
use wasmtime_wasi::I32Exit;

use crate::{
    Failure,
    limiter::Limiter,
    meter::{Meter, Tick},
    metered::metered,
    state::RESOURCES_MAX,
};

/// Bytes that a guest may hand to the host in one call of a host function.
const HOSTCALL_BYTES_MAX: usize = 4 << 20;
/// Tasks, streams and futures, and what belongs to each, that a guest may hold at once: each costs memory of the host.
pub(crate) const TASKS_MAX: usize = 4 * RESOURCES_MAX;
/// What a component may use at its dry start: CPU, so that a starved node is not taken for a slow component, and an
/// end to waiting for nothing. A call is bounded by its own limits.
const WARM_CPU_MS: u64 = 10_000;
const WARM_WALL_MS: u64 = 30_000;

/// What a store holds, of either contract.
pub(crate) trait Held: Send + Sized + 'static {
    fn limiter(&mut self) -> &mut Limiter;
    fn meter(&self) -> &Meter;
    /// Another call begins.
    fn meter_by(&mut self, meter: &Arc<Meter>);
    /// Whether the next call might find too little left, through no fault of its own.
    fn is_worn(&mut self) -> bool;
}

/// A store whose guest yields and ends as the meter of what it holds says.
pub(crate) fn limited<T: Held>(engine: &wasmtime::Engine, held: T) -> Store<T> {
    let mut store = Store::new(engine, held);
    store.limiter(|held| held.limiter());
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_epoch_deadline(1);
    let is_concurrent = engine.get_concurrency_support();
    store.epoch_deadline_callback(move |mut store| {
        if is_concurrent && store.as_context_mut().concurrent_state_table_size() > TASKS_MAX {
            store.data().meter().memory_denied();
            return Err(wasmtime::Error::msg("too many tasks, streams and futures at once"));
        }
        match store.data().meter().tick() {
            Tick::Continue => Ok(UpdateDeadline::Continue(1)),
            // Tokio's own yield lets sockets and timers have their turn.
            Tick::Yield => Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))),
            Tick::End(limit) => Err(wasmtime::Error::msg(format!("over its {limit:?} limit"))),
        }
    });
    store
}

/// Makes an instance and drops it. Nothing is asked of it: no request runs.
pub(crate) async fn warm<T: Held>(
    pre: &InstancePre<T>,
    limits: &Limits,
    held: impl FnOnce(Arc<Meter>) -> T,
) -> Result<(), Failure> {
    let limits = Limits { cpu_ms: WARM_CPU_MS, wall_ms: WARM_WALL_MS, memory_bytes: limits.memory_bytes };
    // On no serving thread: nobody's share of them.
    let meter = Arc::new(Meter::new(&limits, &Arc::default()));
    let mut store = limited(pre.engine(), held(meter.clone()));
    metered(&meter, async {
        match pre.instantiate_async(&mut store).await {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.downcast_ref::<I32Exit>() {
                // At its start, `exit(0)` is no way to go on, either.
                Some(exit) => wasmtime::Error::msg(format!("it exits with status {} at its start", exit.0)),
                None => error,
            }),
        }
    })
    .await
}
