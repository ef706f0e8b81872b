//! Counts what the chain tells, per unit and revision: Prometheus series and the operator's counters.
//!
//! The request path touches atomics only, through handles that a snapshot holds. A handle's series
//! start at zero with its first snapshot and end ten minutes after the last snapshot is gone.

mod cells;
pub(crate) mod export;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sluice_chain::{Class, Recorder, UnitRecorder};
use sluice_config::{Counters, Digest, FORMAT, UnitRef};
use sluice_worker::Phase;

use cells::Cells;

/// How long the series of a revision outlive it: a last scrape must see where they ended.
const OUTLIVE: Duration = Duration::from_secs(600);

struct Entry {
    cells: Arc<Cells>,
    unused_since: Option<Instant>,
}

/// All counters of the process.
pub(crate) struct Metrics {
    pub(crate) node: String,
    pub(crate) group: String,
    pub(crate) boot: String,
    units: Mutex<BTreeMap<(UnitRef, Digest), Entry>>,
    unrouted: [AtomicU64; cells::CLASSES.len()],
    applied_generation: AtomicU64,
    exceptions: AtomicU64,
    pub(crate) connections: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(node: String, group: String, boot: String) -> Self {
        Self {
            node,
            group,
            boot,
            units: Mutex::default(),
            unrouted: Default::default(),
            applied_generation: AtomicU64::new(0),
            exceptions: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }

    /// What the report says, for the gauges.
    pub(crate) fn set_state(&self, applied_generation: u64, exceptions: usize) {
        self.applied_generation.store(applied_generation, Ordering::Relaxed);
        self.exceptions.store(exceptions as u64, Ordering::Relaxed);
    }

    /// Ends the series of revisions that no snapshot has had for a while.
    pub(crate) fn end_unused(&self, now: Instant) {
        self.units().retain(|_, entry| {
            if Arc::strong_count(&entry.cells) > 1 {
                entry.unused_since = None;
                return true;
            }
            let since = *entry.unused_since.get_or_insert(now);
            now.duration_since(since) < OUTLIVE
        });
    }

    /// What the operator reads.
    pub(crate) fn counters(&self) -> Counters {
        let units = self.units();
        let rows = units.iter().map(|((unit, revision), entry)| entry.cells.counters(unit, revision));
        Counters {
            format: FORMAT,
            node: self.node.clone(),
            boot: self.boot.clone(),
            group: self.group.clone(),
            generation: self.applied_generation.load(Ordering::Relaxed),
            units: rows.collect(),
        }
    }

    fn cells(&self, unit: &UnitRef, revision: &Digest) -> Arc<Cells> {
        let mut units = self.units();
        let entry = units.entry((unit.clone(), revision.clone()));
        let entry = entry.or_insert_with(|| Entry { cells: Arc::default(), unused_since: None });
        Arc::clone(&entry.cells)
    }

    fn units(&self) -> MutexGuard<'_, BTreeMap<(UnitRef, Digest), Entry>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chain holds its recorder as `Arc<dyn Recorder>`; this one shares the process's counters.
pub(crate) struct Handle(pub(crate) Arc<Metrics>);

impl Recorder for Handle {
    fn unit(&self, unit: &UnitRef, revision: &Digest, phases: &[Phase]) -> Arc<dyn UnitRecorder> {
        let cells = self.0.cells(unit, revision);
        cells.begin(phases);
        cells
    }

    fn unrouted(&self, class: Class) {
        self.0.unrouted[cells::class_index(class)].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
