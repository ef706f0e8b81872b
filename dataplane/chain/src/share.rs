//! What one unit may have of the node, over all its revisions: calls at once, CPU time, lines of the log.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use sluice_worker::{LogBudget, process_cpu};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::rate::Rate;

/// CPU time is looked at over so long.
const WINDOW: Duration = Duration::from_millis(200);
/// The node is busy when so much of what its threads can do was done.
const BUSY_PERCENT: u64 = 90;
/// Of so many calls, some are shed.
const PARTS: u64 = 1_000;

/// Why a call is shed. Nobody's fault, and no evidence against a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Shed {
    #[error("it has all the calls at once that one unit may have")]
    Calls,
    #[error("the node is busy, and it is above the share of CPU time that one unit may have")]
    Cpu,
}

/// A unit's share. Snapshots come and go; calls under way on old ones still count.
pub(crate) struct Share {
    calls: Arc<Semaphore>,
    pub(crate) log: Arc<LogBudget>,
    cpu: UnitCpu,
    /// Of its `rate` bindings, by name: a new revision goes on where the old one was.
    rates: Mutex<BTreeMap<String, Arc<Rate>>>,
}

impl Share {
    pub(crate) fn new(calls_max: usize) -> Self {
        let calls = Arc::new(Semaphore::new(calls_max.min(Semaphore::MAX_PERMITS)));
        Self { calls, log: Arc::default(), cpu: UnitCpu::default(), rates: Mutex::default() }
    }

    /// The rate of this binding; a new one where there was none, or another.
    pub(crate) fn rate(&self, binding: &str, requests: u32, per: Duration) -> Arc<Rate> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rates.get(binding).filter(|rate| (rate.requests, rate.per) == (requests, per));
        let rate = known.cloned().unwrap_or_else(|| Arc::new(Rate::new(requests, per)));
        rates.insert(binding.to_owned(), rate.clone());
        rate
    }

    /// Whether a request that began then may take the unit's CPU time. Asked before a worker's work on a request, and never in
    /// the middle: what upstreams and other workers have done by then would be lost.
    pub(crate) fn may_run(&self, node: &NodeCpu, began: Instant) -> Result<(), Shed> {
        let window = node.window(began);
        if self.cpu.window.load(Relaxed) < window {
            self.cpu.turn(window, &node.look(window));
        }
        if self.cpu.admits() { Ok(()) } else { Err(Shed::Cpu) }
    }

    /// Room for a call.
    pub(crate) fn take(&self) -> Result<SemaphorePermit<'_>, Shed> {
        self.calls.try_acquire().map_err(|_| Shed::Calls)
    }

    /// The same, to be kept for longer than this is borrowed.
    pub(crate) fn take_owned(&self) -> Result<OwnedSemaphorePermit, Shed> {
        self.calls.clone().try_acquire_owned().map_err(|_| Shed::Calls)
    }

    /// What calls move on by what they use.
    pub(crate) fn cpu_ns(&self) -> Arc<AtomicU64> {
        self.cpu.used_ns.clone()
    }
}

/// CPU time of the process, from window to window.
pub(crate) struct NodeCpu {
    start: Instant,
    /// What all threads that serve can do in a window, and what one unit may always have of it.
    all_ns: u64,
    unit_ns: u64,
    window: AtomicU64,
    /// What the clock of the process said when this window began.
    clock_ns: AtomicU64,
    /// Of the window before.
    used_ns: AtomicU64,
    units: AtomicU64,
    /// Those that were called in this one so far.
    calling: AtomicU64,
}

/// What the node did in a window.
struct Done {
    all_ns: u64,
    unit_ns: u64,
    used_ns: u64,
    /// So many units were called.
    units: u64,
}

impl NodeCpu {
    pub(crate) fn new(threads: usize, unit_percent: u64) -> Self {
        let window = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
        let all_ns = window.saturating_mul(threads as u64);
        Self {
            start: Instant::now(),
            all_ns,
            unit_ns: if unit_percent < 100 { all_ns / 100 * unit_percent } else { u64::MAX },
            window: AtomicU64::new(0),
            clock_ns: AtomicU64::new(0),
            used_ns: AtomicU64::new(0),
            units: AtomicU64::new(0),
            calling: AtomicU64::new(0),
        }
    }

    fn window(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        u64::try_from(since.as_nanos() / WINDOW.as_nanos()).unwrap_or(u64::MAX)
    }

    /// What was done before this window, for a unit that is called in it for the first time. The first unit finds out.
    fn look(&self, window: u64) -> Done {
        let last = self.window.fetch_max(window, Relaxed);
        if last < window {
            let now = u64::try_from(process_cpu().as_nanos()).unwrap_or(u64::MAX);
            let used = now.saturating_sub(self.clock_ns.swap(now, Relaxed));
            self.used_ns.store(used / (window - last), Relaxed);
            self.units.store(self.calling.swap(0, Relaxed), Relaxed);
        }
        self.calling.fetch_add(1, Relaxed);
        Done {
            all_ns: self.all_ns,
            unit_ns: self.unit_ns,
            used_ns: self.used_ns.load(Relaxed),
            units: self.units.load(Relaxed),
        }
    }
}

impl Done {
    /// What a unit may have that wants so much, and got so much.
    fn may_have(&self, wanted_ns: u64, got_ns: u64) -> u64 {
        // Nobody is shed for nobody: what one unit does not use is for those that are called.
        let share = self.unit_ns.max(self.all_ns / self.units.max(1));
        let others_ns = self.used_ns.saturating_sub(got_ns);
        let free_ns = (self.all_ns / 100 * BUSY_PERCENT).saturating_sub(others_ns);
        wanted_ns.min(share.max(free_ns))
    }
}

/// CPU time of one unit's calls, from window to window. Read and written by all threads, with no lock: a call that is counted
/// in the next window, or one more that is admitted, does no harm.
#[derive(Default)]
struct UnitCpu {
    window: AtomicU64,
    /// In this window so far.
    used_ns: Arc<AtomicU64>,
    /// Of `PARTS` calls, how many are shed.
    shed: AtomicU64,
    calls: AtomicU32,
}

impl UnitCpu {
    /// A window begins: what was used in those before says how much is shed in this one.
    fn turn(&self, window: u64, node: &Done) {
        let last = self.window.fetch_max(window, Relaxed);
        if last >= window {
            return;
        }
        let used = self.used_ns.swap(0, Relaxed) / (window - last);
        // What would have been used had nothing been shed.
        let wanted = used.saturating_mul(PARTS) / (PARTS - self.shed.load(Relaxed)).max(1);
        let shed = PARTS - node.may_have(wanted, used).saturating_mul(PARTS) / wanted.max(1);
        // Some always run, or nobody would see that it wants less.
        self.shed.store(if wanted == 0 { 0 } else { shed.min(PARTS - PARTS / 100) }, Relaxed);
    }

    /// Evenly: of 1000 calls with 250 to shed, each fourth.
    fn admits(&self) -> bool {
        let shed = self.shed.load(Relaxed);
        if shed == 0 {
            return true;
        }
        let call = u64::from(self.calls.fetch_add(1, Relaxed));
        call * shed / PARTS == (call + 1) * shed / PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    /// One thread's window.
    const ALL: u64 = 200 * MS;

    /// Calls of one unit in each of these windows; how many of them ran in the last, of 1000 that want so much together.
    fn windows(unit: &UnitCpu, windows: std::ops::Range<u64>, units: u64, others_ns: u64, wants_ns: u64) -> u64 {
        let (mut ran, each_ns) = (0, wants_ns / 1_000);
        for window in windows {
            // As much as there is time for.
            let used_ns = (others_ns + ran * each_ns).min(ALL);
            unit.turn(window, &Done { all_ns: ALL, unit_ns: ALL / 4, used_ns, units });
            ran = 0;
            for _ in 0..1_000 {
                if unit.admits() {
                    ran += 1;
                    unit.used_ns.fetch_add(each_ns, Relaxed);
                }
            }
        }
        ran
    }

    #[test]
    fn on_a_busy_node_a_unit_above_its_share_is_cut_until_the_node_is_not_busy() {
        let unit = UnitCpu::default();
        // 90% of 200 ms less 80 ms are 100 ms: 625 calls of 160 µs.
        let ran = windows(&unit, 1..40, 6, 80 * MS, 160 * MS);
        assert!((610..=640).contains(&ran), "{ran} of 1000 ran");
        // And goes on as it likes once it wants less.
        assert_eq!(windows(&unit, 40..44, 6, 80 * MS, 40 * MS), 1_000);
    }

    #[test]
    fn nobody_is_cut_below_its_share() {
        let unit = UnitCpu::default();
        // The others use all there is: a quarter of it are 50 ms, 312 calls of 160 µs.
        let ran = windows(&unit, 1..40, 6, 200 * MS, 160 * MS);
        assert!((305..=320).contains(&ran), "{ran} of 1000 ran");
        assert_eq!(windows(&unit, 40..60, 6, 200 * MS, 49 * MS), 1_000);
    }

    #[test]
    fn where_fewer_are_called_each_has_an_equal_part() {
        let unit = UnitCpu::default();
        let ran = windows(&unit, 1..40, 2, 200 * MS, 160 * MS);
        assert!((615..=630).contains(&ran), "{ran} of 1000 ran: half of the window are 625 calls");
    }

    #[test]
    fn nobody_is_shed_who_is_alone_or_where_there_is_time() {
        let alone = UnitCpu::default();
        assert_eq!(windows(&alone, 1..20, 1, 100 * MS, 190 * MS), 1_000);
        let unit = UnitCpu::default();
        assert_eq!(windows(&unit, 1..20, 6, 5 * MS, 170 * MS), 1_000);
    }

    #[test]
    fn one_that_was_idle_is_not_judged_by_what_it_did_long_ago() {
        let unit = UnitCpu::default();
        windows(&unit, 1..40, 6, 200 * MS, 160 * MS);
        assert_eq!(windows(&unit, 100..101, 6, 200 * MS, MS), 1_000);
    }

    #[test]
    fn what_the_node_did_is_told_by_the_clock_of_the_process() {
        let node = NodeCpu::new(1, 25);
        assert_eq!(node.unit_ns, ALL / 4);
        // Nothing can have used all of an hour.
        assert!(node.look(18_000).used_ns < ALL / 2);
        let start = Instant::now();
        while process_cpu() < Duration::from_nanos(node.clock_ns.load(Relaxed)) + WINDOW {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::hint::black_box((0..10_000_u64).sum::<u64>());
        }
        let done = node.look(18_001);
        assert!(done.used_ns >= ALL, "{}", done.used_ns);
        assert_eq!(done.units, 1, "one unit looked in the window before");
        assert_eq!(node.look(18_001).used_ns, done.used_ns, "as it was found");
        assert_eq!(node.look(18_002).units, 2);
    }
}
