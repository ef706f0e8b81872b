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
    /// The last one that came is the first to go: its memory is warm. Nothing once the worker is superseded.
    waiting: Mutex<Option<Vec<Waiting<T, I>>>>,
}

struct Waiting<T: 'static, I> {
    living: Living<T, I>,
    _room: OwnedSemaphorePermit,
}

impl<T: Held, I> Idle<T, I> {
    pub(crate) fn new(instances: Instances, room: Arc<Semaphore>) -> Self {
        Self {
            calls_max: instances.reuse,
            age_max: Duration::from_millis(instances.max_age_ms),
            room,
            waiting: Mutex::new(Some(Vec::new())),
        }
    }

    /// One for a call under this meter, if any waits.
    pub(crate) fn take(&self, meter: &Arc<Meter>) -> Option<Living<T, I>> {
        let now = Instant::now();
        loop {
            let mut living = self.waiting().as_mut()?.pop()?.living;
            if !self.is_old(living.life, now) {
                living.store.set_epoch_deadline(1);
                living.store.data_mut().meter_by(meter);
                return Some(living);
            }
        }
    }

    /// After a call that returned. It is dropped where it has served enough, holds too much, or where enough of them wait.
    pub(crate) fn give_back(&self, mut living: Living<T, I>) {
        living.life.calls += 1;
        let now = Instant::now();
        if living.life.calls >= self.calls_max || self.is_old(living.life, now) || living.store.data_mut().is_worn() {
            return;
        }
        let Ok(room) = self.room.clone().try_acquire_owned() else {
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
