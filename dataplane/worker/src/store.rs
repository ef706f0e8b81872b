//! A store under its limits, and the dry start of what will run in one.

use std::{pin::pin, sync::Arc};

use sluice_config::Limits;
use tokio::sync::Semaphore;
use wasmtime::{AsContextMut, Store, UpdateDeadline, component::InstancePre};
use wasmtime_wasi::I32Exit;

use crate::{
    Failure, computing,
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
/// Memory that is wiped where the call ended; more takes milliseconds.
const WIPED_HERE_BYTES_MAX: usize = 1 << 20;
/// How many stores are let go of elsewhere at once: what a guest that always fails leaves must not pile up.
static ELSEWHERE: Semaphore = Semaphore::const_new(4);

/// What a store holds, of either contract.
pub(crate) trait Held: Send + Sized + 'static {
    fn limiter(&mut self) -> &mut Limiter;
    fn meter(&self) -> &Arc<Meter>;
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
        if store.data().meter().has_just_resumed() {
            return Ok(UpdateDeadline::Continue(1));
        }
        computing::found();
        match store.data().meter().tick() {
            Tick::Continue => Ok(UpdateDeadline::Continue(1)),
            Tick::Yield => {
                Ok(UpdateDeadline::YieldCustom(1, Box::pin(computing::give_way(store.data().meter().clone()))))
            }
            Tick::End(limit) => Err(wasmtime::Error::msg(format!("over its {limit:?} limit"))),
        }
    });
    store
}

/// Lets go of the store of a call that failed: on a thread that serves nobody where there is much to wipe.
pub(crate) fn let_go<T: Held>(mut store: Store<T>) {
    if store.data_mut().limiter().bytes() <= WIPED_HERE_BYTES_MAX {
        return;
    }
    if let Ok(permit) = ELSEWHERE.try_acquire() {
        drop(tokio::task::spawn_blocking(move || {
            drop(store);
            drop(permit);
        }));
    }
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
    let started = pin!(async {
        match pre.instantiate_async(&mut store).await {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.downcast_ref::<I32Exit>() {
                // At its start, `exit(0)` is no way to go on, either.
                Some(exit) => wasmtime::Error::msg(format!("it exits with status {} at its start", exit.0)),
                None => error,
            }),
        }
    });
    metered(&meter, started).await
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        thread::{self, ThreadId},
        time::{Duration, Instant},
    };

    use tokio::sync::mpsc;
    use wasmtime::{Engine, Instance, Module, ResourceLimiter};

    use super::*;
    use crate::slices::ask_for_slices;

    /// A module whose one function runs when it is instantiated, and does nothing.
    const RUNS: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x08\x01\0\x0a\x04\x01\x02\0\x0b";

    /// What tests put into a store: no more than it needs.
    pub(crate) struct Holding {
        limiter: Limiter,
        meter: Arc<Meter>,
        /// Is told which thread drops it.
        dropped: Option<mpsc::UnboundedSender<ThreadId>>,
    }

    impl Holding {
        pub(crate) fn new(meter: Arc<Meter>) -> Self {
            Self { limiter: Limiter::new(16 << 20, meter.clone()), meter, dropped: None }
        }
    }

    impl Held for Holding {
        fn limiter(&mut self) -> &mut Limiter {
            &mut self.limiter
        }

        fn meter(&self) -> &Arc<Meter> {
            &self.meter
        }

        fn meter_by(&mut self, meter: &Arc<Meter>) {
            self.meter.clone_from(meter);
        }

        fn is_worn(&mut self) -> bool {
            false
        }
    }

    impl Drop for Holding {
        fn drop(&mut self) {
            if let Some(dropped) = &self.dropped {
                dropped.send(thread::current().id()).unwrap();
            }
        }
    }

    /// Which has what stores need.
    pub(crate) fn engine() -> Engine {
        let mut settings = wasmtime::Config::new();
        settings.epoch_interruption(true);
        Engine::new(&settings).unwrap()
    }

    /// A guest that is over its wall limit finds a tick so long after it was resumed: whether it goes on, and the slices that its
    /// thread has then.
    fn at_a_tick(runs_for: Duration) -> (bool, Option<Duration>) {
        let run = move || {
            let (engine, limits) = (engine(), Limits { cpu_ms: 1_000, wall_ms: 0, memory_bytes: 1 << 20 });
            let module = Module::new(&engine, RUNS).unwrap();
            let meter = Arc::new(Meter::new(&limits, &Arc::default()));
            let mut store = limited(&engine, Holding::new(meter.clone()));
            ask_for_slices(Duration::from_millis(10));
            engine.increment_epoch();
            // The clock stands still where that is in the future.
            let resumed = if runs_for.is_zero() { Instant::now() + Duration::from_secs(60) } else { Instant::now() };
            meter.resume(resumed);
            while resumed.elapsed() < runs_for {}
            let goes_on = Instance::new(&mut store, &module, &[]).is_ok();
            (goes_on, ask_for_slices(Duration::from_millis(10)))
        };
        thread::spawn(run).join().unwrap()
    }

    #[test]
    fn a_tick_that_passed_while_the_guest_waited_is_none_of_its_own() {
        let own = Duration::from_millis(10);
        for (runs_for, is_skipped, expected) in
            [(Duration::ZERO, true, own), (Duration::from_micros(100), false, computing::SLICE)]
        {
            let (goes_on, slices) = at_a_tick(runs_for);
            assert_eq!(goes_on, is_skipped, "after {runs_for:?}");
            // Nothing where the kernel knows none.
            assert!([Some(expected), Some(Duration::ZERO)].contains(&slices), "after {runs_for:?}: {slices:?}");
        }
    }

    #[tokio::test]
    async fn much_memory_is_wiped_on_a_thread_that_serves_nobody() {
        let (engine, limits) = (engine(), Limits { cpu_ms: 1, wall_ms: 1, memory_bytes: 16 << 20 });
        for (bytes, is_here) in [(WIPED_HERE_BYTES_MAX, true), (WIPED_HERE_BYTES_MAX + 1, false)] {
            let (dropped, mut on) = mpsc::unbounded_channel();
            let mut held = Holding::new(Arc::new(Meter::new(&limits, &Arc::default())));
            held.dropped = Some(dropped);
            assert!(held.limiter.memory_growing(0, bytes, None).unwrap());
            let_go(limited(&engine, held));
            assert_eq!(on.recv().await.unwrap() == thread::current().id(), is_here, "{bytes} bytes");
        }
    }
}
