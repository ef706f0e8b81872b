//! A guest that computes: it is looked at more often, whoever else wants its core interrupts it, and at the end of each slice it
//! gives way. Small guests are done before the first look.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::task::yield_now;

use crate::{meter::Meter, slices::ask_for_slices};

/// The longer its slices are, the surer it is interrupted by who asks for shorter ones.
pub(crate) const SLICE: Duration = Duration::from_millis(20);
/// Who gives way goes on when nobody else has wanted the thread for so long,
const QUIET: Duration = Duration::from_micros(100);
/// or has waited for so long.
const GIVE_WAY_MAX: Duration = Duration::from_millis(1);
/// To find that nobody else wants it takes less than this, and what others do takes more.
const NOTHING: Duration = Duration::from_micros(20);

/// Since the ticker asked last.
static WAS_FOUND: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// While a guest computes on this thread: the slices that it has otherwise.
    static SLICE_BEFORE: Cell<Option<Duration>> = const { Cell::new(None) };
    /// When somebody last had this thread for a while.
    static BUSY: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// At a tick, a guest was found to run on this thread.
pub(crate) fn found() {
    WAS_FOUND.store(true, Relaxed);
    if SLICE_BEFORE.get().is_none() {
        SLICE_BEFORE.set(ask_for_slices(SLICE));
    }
}

/// Whether one was found, on any thread, since this was last asked.
pub(crate) fn was_found() -> bool {
    WAS_FOUND.swap(false, Relaxed)
}

/// The guest on this thread returns, or waits.
pub(crate) fn rests() {
    if let Some(slice) = SLICE_BEFORE.take() {
        ask_for_slices(slice);
    }
}

/// Others have the thread, again and again: what a request sends upstream in its first turn is answered by a later one, and
/// needs not wait for another slice, be it this guest's or that of another one which gives way.
pub(crate) async fn give_way(meter: Arc<Meter>) {
    let began = Instant::now();
    BUSY.set(Some(began));
    let mut last = began;
    loop {
        meter.yields();
        // Tokio's own yield lets sockets and timers have their turn.
        yield_now().await;
        let now = Instant::now();
        if now - last > NOTHING {
            BUSY.set(Some(now));
        }
        last = now;
        // A task may go on on another thread, on which nobody was busy.
        let is_quiet = BUSY.get().is_none_or(|busy| now.saturating_duration_since(busy) >= QUIET);
        if is_quiet || now - began >= GIVE_WAY_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_config::Limits;

    use super::*;

    #[test]
    fn a_thread_has_its_own_slices_again_when_the_guest_rests() {
        let (before, computing, after) = std::thread::spawn(|| {
            let own = Duration::from_millis(10);
            ask_for_slices(own);
            found();
            let computing = ask_for_slices(SLICE);
            rests();
            (own, computing, ask_for_slices(own))
        })
        .join()
        .unwrap();
        // Nothing where the kernel knows none.
        assert!([Some(SLICE), Some(Duration::ZERO)].contains(&computing), "{computing:?}");
        assert!([Some(before), Some(Duration::ZERO)].contains(&after), "{after:?}");
    }

    #[tokio::test]
    async fn who_gives_way_goes_on_when_nobody_wants_the_thread() {
        let limits = Limits { cpu_ms: 1, wall_ms: 1, memory_bytes: 1 << 20 };
        let began = Instant::now();
        give_way(Arc::new(Meter::new(&limits, &Arc::default()))).await;
        assert!(began.elapsed() >= QUIET);
    }
}
