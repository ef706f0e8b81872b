//! Instances that serve more than one call, where a worker's manifest asks for it.
//!
//! An instance belongs to one worker at its place in one snapshot, and to nobody else: those of another worker or of another
//! revision never meet its memory. Whatever ends a call but its own return ends the instance, too.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sluice_config::Instances;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;

use crate::{meter::Meter, store::Held};

/// Idle instances of one worker, at most. More calls at once than that begin with fresh ones.
const IDLE_MAX: usize = 64;

/// An instance that can serve another call.
pub(crate) struct Living<T: 'static, I> {
    pub(crate) store: Store<T>,
    pub(crate) instance: I,
    pub(crate) life: Life,
}

/// What an instance has behind it.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    born: Instant,
    calls: u32,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self { born: Instant::now(), calls: 0 }
    }
}

/// The instances of one worker that wait for a call.
pub(crate) struct Idle<T: 'static, I> {
    calls_max: u32,
    age_max: Duration,
    /// Of all workers together: who waits holds a slot of the engine's pool.
    room: Arc<Semaphore>,
    /// For how many of them one of these counts there.
    weight: u32,
    /// The last one that came is the first to go: its memory is warm. Nothing once the worker is superseded.
    waiting: Mutex<Option<Vec<Waiting<T, I>>>>,
}

struct Waiting<T: 'static, I> {
    living: Living<T, I>,
    _room: OwnedSemaphorePermit,
}

impl<T: Held, I> Idle<T, I> {
    pub(crate) fn new(instances: Instances, room: Arc<Semaphore>, weight: u32) -> Self {
        Self {
            calls_max: instances.reuse,
            age_max: Duration::from_millis(instances.max_age_ms),
            room,
            weight,
            waiting: Mutex::new(Some(Vec::new())),
        }
    }

    /// One for a call under this meter, if any waits.
    pub(crate) fn take(&self, meter: &Arc<Meter>) -> Option<Living<T, I>> {
        self.take_at(meter, meter.began())
    }

    fn take_at(&self, meter: &Arc<Meter>, now: Instant) -> Option<Living<T, I>> {
        loop {
            let mut living = self.waiting().as_mut()?.pop()?.living;
            if !self.is_old(living.life, now) {
                living.store.set_epoch_deadline(1);
                living.store.data_mut().meter_by(meter);
                return Some(living);
            }
        }
    }

    /// After a call that has returned by now. It is dropped where it has served enough, holds too much, or where enough of them wait.
    pub(crate) fn give_back(&self, mut living: Living<T, I>, now: Instant) {
        living.life.calls += 1;
        if living.life.calls >= self.calls_max || self.is_old(living.life, now) || living.store.data_mut().is_worn() {
            return;
        }
        let Ok(room) = self.room.clone().try_acquire_many_owned(self.weight) else {
            return;
        };
        // What is dropped is dropped without the lock.
        let _surplus = {
            let mut waiting = self.waiting();
            let Some(waiting) = waiting.as_mut() else {
                return;
            };
            // The one that has waited longest may be out of use.
            let old = waiting.first().is_some_and(|first| self.is_old(first.living.life, now));
            let surplus = old.then(|| waiting.remove(0));
            if waiting.len() < IDLE_MAX {
                waiting.push(Waiting { living, _room: room });
            }
            surplus
        };
    }

    /// Lets go of those that are too old, where no call comes to do it.
    pub(crate) fn sweep(&self, now: Instant) {
        let is_old = |waiting: &mut Waiting<T, I>| self.is_old(waiting.living.life, now);
        // As above.
        let _old: Vec<_> =
            self.waiting().as_mut().map(|waiting| waiting.extract_if(.., is_old).collect()).unwrap_or_default();
    }

    /// Lets go of those that wait, and of those that come back.
    pub(crate) fn close(&self) {
        let waiting = self.waiting().take();
        drop(waiting);
    }

    fn is_old(&self, life: Life, now: Instant) -> bool {
        now.duration_since(life.born) >= self.age_max
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Vec<Waiting<T, I>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use sluice_config::Limits;

    use super::*;
    use crate::store::{
        limited,
        tests::{Holding, engine},
    };

    const AGE: Duration = Duration::from_secs(60);

    fn meter() -> Arc<Meter> {
        let limits = Limits { cpu_ms: 1_000, wall_ms: 1_000, memory_bytes: 1 << 20 };
        Arc::new(Meter::new(&limits, &Arc::default()))
    }

    fn living(engine: &wasmtime::Engine) -> Living<Holding, ()> {
        Living { store: limited(engine, Holding::new(meter())), instance: (), life: Life::new() }
    }

    /// Two that wait, the first of them as old as it may get, and when that is.
    fn two(weight: u32) -> (Idle<Holding, ()>, Instant) {
        let engine = engine();
        let instances = Instances { reuse: 10, max_age_ms: 60_000 };
        let idle = Idle::new(instances, Arc::new(Semaphore::new(4)), weight);
        let (mut first, second) = (living(&engine), living(&engine));
        first.life.born = second.life.born.checked_sub(Duration::from_secs(1)).unwrap();
        let old = first.life.born + AGE;
        idle.give_back(first, Instant::now());
        idle.give_back(second, Instant::now());
        (idle, old)
    }

    #[test]
    fn those_that_weigh_more_find_less_room() {
        for (weight, left) in [(1, 2), (2, 0), (3, 1), (4, 0), (5, 4)] {
            assert_eq!(two(weight).0.room.available_permits(), left, "{weight} each");
        }
    }

    #[test]
    fn one_that_got_too_old_while_it_waited_is_not_taken() {
        let (idle, old) = two(2);
        let second = idle.take_at(&meter(), old);
        assert!(second.is_some_and(|living| living.life.born + AGE > old));
        assert!(idle.take_at(&meter(), old).is_none());
        assert_eq!(idle.room.available_permits(), 4);
    }

    #[test]
    fn none_waits_once_the_worker_is_superseded() {
        let (idle, old) = two(1);
        let living = idle.take_at(&meter(), old - Duration::from_millis(1)).unwrap();
        idle.close();
        idle.give_back(living, Instant::now());
        assert!(idle.take_at(&meter(), old).is_none());
        assert_eq!(idle.room.available_permits(), 4);
    }

    #[test]
    fn one_that_gets_too_old_goes_though_nobody_calls() {
        let (idle, old) = two(2);
        idle.sweep(old - Duration::from_millis(1));
        assert_eq!(idle.room.available_permits(), 0);
        idle.sweep(old);
        assert_eq!(idle.room.available_permits(), 2);
        idle.sweep(old + AGE);
        assert_eq!(idle.room.available_permits(), 4);
    }
}
