//! The counters of one revision of one unit: atomics, and nothing else on the request path.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use sluice_chain::{CallRecord, Class, Origin, RequestRecord, UnitRecorder};
use sluice_config::{Digest, LATENCY_BUCKETS_MS, UnitCounters, UnitRef};
use sluice_worker::{Outcome, Phase};

pub(super) const CLASSES: [Class; 5] = [Class::C2xx, Class::C3xx, Class::C4xx, Class::C499, Class::C5xx];
pub(super) const ORIGINS: [Origin; 4] = [Origin::Own, Origin::Other, Origin::Upstream, Origin::Proxy];

/// Upper bounds of `sluice_worker_seconds`, in microseconds; a last bucket has no bound.
pub(super) const OWN_BUCKETS_US: [u64; 9] = [10, 30, 100, 300, 1_000, 3_000, 10_000, 100_000, 1_000_000];
/// Upper bounds of `sluice_unit_request_seconds`, in microseconds; a last bucket has no bound.
pub(super) const REQUEST_BUCKETS_US: [u64; 9] = {
    let mut bounds = LATENCY_BUCKETS_MS;
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] *= 1_000;
        i += 1;
    }
    bounds
};

pub(super) fn class_index(class: Class) -> usize {
    match class {
        Class::C2xx => 0,
        Class::C3xx => 1,
        Class::C4xx => 2,
        Class::C499 => 3,
        Class::C5xx => 4,
    }
}

fn origin_index(origin: Origin) -> usize {
    match origin {
        Origin::Own => 0,
        Origin::Other => 1,
        Origin::Upstream => 2,
        Origin::Proxy => 3,
    }
}

fn outcome_index(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Next => 0,
        Outcome::Answered => 1,
        Outcome::Trap => 2,
        Outcome::Cpu => 3,
        Outcome::Wall => 4,
        Outcome::Memory => 5,
        Outcome::Shed => 6,
        Outcome::NotLoaded => 7,
        Outcome::Invalid => 8,
        Outcome::Aborted => 9,
    }
}

fn phase_index(phase: Phase) -> usize {
    match phase {
        Phase::Handle => 0,
        Phase::OnRequest => 1,
        Phase::OnResponse => 2,
    }
}

/// Counts by duration. A reader may see a sum that is one observation ahead of the buckets.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; 10],
    sum_ns: AtomicU64,
}

impl Histogram {
    fn observe(&self, bounds_us: &[u64; 9], value: Duration) {
        let us = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        // A value on a bound belongs to the bucket below it; whole microseconds would round down.
        let exact = value.subsec_nanos().is_multiple_of(1_000);
        let bucket = bounds_us.iter().position(|b| us < *b || (us == *b && exact)).unwrap_or(bounds_us.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(u64::try_from(value.as_nanos()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Not cumulative.
    pub(super) fn buckets(&self) -> [u64; 10] {
        std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed))
    }

    pub(super) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }
}

/// Calls of one phase.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// The worker has this phase: its series are there, if at zero.
    is_there: AtomicBool,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    pub(super) own: Histogram,
}

impl Calls {
    pub(super) fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome_index(outcome)].load(Ordering::Relaxed)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Cells {
    calls: [Calls; Phase::ALL.len()],
    requests: [[AtomicU64; ORIGINS.len()]; CLASSES.len()],
    pub(super) duration: Histogram,
    /// Requests, not calls: a worker may be called again and again in one.
    faults: AtomicU64,
    /// 5xx without fault, its own and others': each failed request counts once.
    errors_self: AtomicU64,
    errors_other: AtomicU64,
}

impl UnitRecorder for Cells {
    fn call(&self, record: CallRecord) {
        let calls = &self.calls[phase_index(record.phase)];
        calls.outcomes[outcome_index(record.outcome)].fetch_add(1, Ordering::Relaxed);
        calls.own.observe(&OWN_BUCKETS_US, record.own);
    }

    fn request(&self, record: RequestRecord) {
        // Before the request itself: a reader that comes in between must not take it for a good one.
        let failed = match (record.fault, record.class, record.origin) {
            (true, _, _) => Some(&self.faults),
            (false, Class::C5xx, Origin::Own) => Some(&self.errors_self),
            (false, Class::C5xx, Origin::Other | Origin::Upstream | Origin::Proxy) => Some(&self.errors_other),
            (false, Class::C2xx | Class::C3xx | Class::C4xx | Class::C499, _) => None,
        };
        if let Some(failed) = failed {
            failed.fetch_add(1, Ordering::Relaxed);
        }
        self.requests[class_index(record.class)][origin_index(record.origin)].fetch_add(1, Ordering::Relaxed);
        self.duration.observe(&REQUEST_BUCKETS_US, record.duration);
    }

    fn broke_off(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }
}

impl Cells {
    /// Begins the series of these phases. None ends while the revision is counted: a worker that could not be loaded
    /// at first has one that it has not afterwards.
    pub(super) fn begin(&self, phases: &[Phase]) {
        for phase in phases {
            self.calls[phase_index(*phase)].is_there.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn phases(&self) -> impl Iterator<Item = (Phase, &Calls)> {
        let all = Phase::ALL.into_iter().map(|phase| (phase, &self.calls[phase_index(phase)]));
        all.filter(|(_, calls)| calls.is_there.load(Ordering::Relaxed))
    }

    pub(super) fn requests(&self, class: Class, origin: Origin) -> u64 {
        self.requests[class_index(class)][origin_index(origin)].load(Ordering::Relaxed)
    }

    pub(super) fn counters(&self, unit: &UnitRef, revision: &Digest) -> UnitCounters {
        let all = CLASSES.iter().flat_map(|c| ORIGINS.iter().map(|o| self.requests(*c, *o)));
        UnitCounters {
            unit: unit.clone(),
            revision: revision.clone(),
            requests: all.sum(),
            faults: self.faults.load(Ordering::Relaxed),
            errors_self: self.errors_self.load(Ordering::Relaxed),
            errors_other: self.errors_other.load(Ordering::Relaxed),
            latency: self.duration.buckets().to_vec(),
        }
    }
}
