//! Shares of CPU time: on a busy node a unit that is above its share has some of its calls shed.
//!
//! Time goes by windows of 200 ms. What was used in one says what is shed in the next. An example: two threads serve, which is
//! 400 ms of CPU time a window. Six units were called; one of them used 240 ms, the others 160 ms together.
//!
//! - All 400 ms were used. From 360 ms on (90%) the node is busy, so some of that goes.
//! - The unit's share is 25%, which is 100 ms: more than an equal part, a sixth.
//! - It may have its share, or what the others leave of the 360 ms where that is more: 200 ms of the 240 ms that it wanted.
//! - So 167 of 1000 of its calls are shed. It then uses 200 ms, which is 240 ms over the 833 of 1000 that ran: while it wants as
//!   much, as much is shed, and the node does its 360 ms.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use sluice_worker::process_cpu;

/// CPU time is looked at over so long.
const WINDOW: Duration = Duration::from_millis(200);
/// The node is busy when so much of what its threads can do was done.
const BUSY_PERCENT: u64 = 90;
/// Of so many calls, some are shed.
const PARTS: u64 = 1_000;

/// CPU time of the process, from window to window.
pub(crate) struct NodeCpu {
    start: Instant,
    /// What all threads that serve can do in a window, and what one unit may always have of it.
    all_ns: u64,
    unit_ns: u64,
    /// Locked once a window by each thread and unit.
    windows: Mutex<Windows>,
}

/// This window, and the one before.
struct Windows {
    window: u64,
    /// What the clock of the process said when this one began.
    clock_ns: u64,
    /// Units that were called in this one so far.
    calling: u64,
    /// What was used in the one before, and by how many units.
    used_ns: u64,
    units: u64,
}

/// What the node did in a window.
struct Done {
    all_ns: u64,
    unit_ns: u64,
    used_ns: u64,
    units: u64,
}

impl NodeCpu {
    pub(crate) fn new(threads: usize, unit_percent: u64) -> Self {
        let window = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
        let all_ns = window.saturating_mul(threads as u64);
        // What the process did before it served is no window's.
        let windows = Windows { window: 0, clock_ns: clock_ns(), calling: 0, used_ns: 0, units: 0 };
        Self {
            start: Instant::now(),
            all_ns,
            unit_ns: if unit_percent < 100 { all_ns / 100 * unit_percent } else { u64::MAX },
            windows: Mutex::new(windows),
        }
    }

    fn window(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        u64::try_from(since.as_nanos() / WINDOW.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A unit is called in this window, or in a later one that has begun by now. For the first of its calls there: what the node
    /// did before, and how many windows ago the unit was called last. All of it under the lock: a unit counts once, and nobody
    /// takes the numbers of an earlier window for those of the last.
    fn turn(&self, unit: &AtomicU64, window: u64) -> Option<(Done, u64)> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = windows.window.max(window);
        let last = unit.fetch_max(now, Relaxed);
        if last >= now {
            return None;
        }
        if windows.window < now {
            let clock_ns = clock_ns();
            *windows = Windows {
                window: now,
                clock_ns,
                calling: 0,
                used_ns: clock_ns.saturating_sub(windows.clock_ns) / (now - windows.window),
                units: windows.calling,
            };
        }
        windows.calling += 1;
        let Windows { used_ns, units, .. } = *windows;
        Some((Done { all_ns: self.all_ns, unit_ns: self.unit_ns, used_ns, units }, now - last))
    }
}

fn clock_ns() -> u64 {
    u64::try_from(process_cpu().as_nanos()).unwrap_or(u64::MAX)
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

/// CPU time of one unit's calls, from window to window. Read and written by all threads: a call that is counted in the next
/// window, or one more that is admitted, does no harm.
#[derive(Default)]
pub(crate) struct UnitCpu {
    /// The last one in which it was called.
    window: AtomicU64,
    /// Since then; its calls move it on.
    pub(crate) used_ns: Arc<AtomicU64>,
    /// Of `PARTS` calls, how many are shed.
    shed: AtomicU64,
    calls: AtomicU32,
}

impl UnitCpu {
    /// Whether a request that began then may run.
    pub(crate) fn may_run(&self, node: &NodeCpu, began: Instant) -> bool {
        self.may_run_in(node, node.window(began))
    }

    fn may_run_in(&self, node: &NodeCpu, window: u64) -> bool {
        if self.window.load(Relaxed) < window
            && let Some((done, windows)) = node.turn(&self.window, window)
        {
            self.judge(&done, windows);
        }
        self.admits()
    }

    /// What was used in the windows before says how much is shed in this one.
    fn judge(&self, node: &Done, windows: u64) {
        let used = self.used_ns.swap(0, Relaxed) / windows.max(1);
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
    use std::{sync::Barrier, thread};

    use super::*;

    const MS: u64 = 1_000_000;
    /// One thread's window.
    const ALL: u64 = 200 * MS;

    /// Calls of one unit in so many windows; how many of them ran in the last, of 1000 that want so much together.
    fn windows(unit: &UnitCpu, windows: u64, units: u64, others_ns: u64, wants_ns: u64) -> u64 {
        let (mut ran, each_ns) = (0, wants_ns / 1_000);
        for _ in 0..windows {
            // As much as there is time for.
            let used_ns = (others_ns + ran * each_ns).min(ALL);
            unit.judge(&Done { all_ns: ALL, unit_ns: ALL / 4, used_ns, units }, 1);
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
    fn the_example_is_right() {
        let done = Done { all_ns: 400 * MS, unit_ns: 100 * MS, used_ns: 400 * MS, units: 6 };
        assert_eq!(done.may_have(240 * MS, 240 * MS), 200 * MS);
        let unit = UnitCpu::default();
        unit.used_ns.store(240 * MS, Relaxed);
        unit.judge(&done, 1);
        assert_eq!(unit.shed.load(Relaxed), 167);
        unit.used_ns.store(200 * MS, Relaxed);
        unit.judge(&Done { used_ns: 360 * MS, ..done }, 1);
        assert_eq!(unit.shed.load(Relaxed), 167);
    }

    #[test]
    fn on_a_busy_node_a_unit_above_its_share_is_cut_until_the_node_is_not_busy() {
        let unit = UnitCpu::default();
        // 90% of 200 ms less 80 ms are 100 ms: 625 calls of 160 µs.
        let ran = windows(&unit, 40, 6, 80 * MS, 160 * MS);
        assert!((610..=640).contains(&ran), "{ran} of 1000 ran");
        // And goes on as it likes once it wants less.
        assert_eq!(windows(&unit, 4, 6, 80 * MS, 40 * MS), 1_000);
    }

    #[test]
    fn nobody_is_cut_below_its_share() {
        let unit = UnitCpu::default();
        // The others use all there is: a quarter of it are 50 ms, 312 calls of 160 µs.
        let ran = windows(&unit, 40, 6, 200 * MS, 160 * MS);
        assert!((305..=320).contains(&ran), "{ran} of 1000 ran");
        assert_eq!(windows(&unit, 20, 6, 200 * MS, 49 * MS), 1_000);
    }

    #[test]
    fn where_fewer_are_called_each_has_an_equal_part() {
        let unit = UnitCpu::default();
        let ran = windows(&unit, 40, 2, 200 * MS, 160 * MS);
        assert!((615..=630).contains(&ran), "{ran} of 1000 ran: half of the window are 625 calls");
    }

    #[test]
    fn nobody_is_shed_who_is_alone_or_where_there_is_time() {
        let alone = UnitCpu::default();
        assert_eq!(windows(&alone, 20, 1, 100 * MS, 190 * MS), 1_000);
        let unit = UnitCpu::default();
        assert_eq!(windows(&unit, 20, 6, 5 * MS, 170 * MS), 1_000);
    }

    #[test]
    fn one_that_was_idle_is_not_judged_by_what_it_did_long_ago() {
        let unit = UnitCpu::default();
        windows(&unit, 40, 6, 200 * MS, 160 * MS);
        assert_ne!(unit.shed.load(Relaxed), 0);
        unit.judge(&Done { all_ns: ALL, unit_ns: ALL / 4, used_ns: ALL, units: 6 }, 60);
        assert_eq!(unit.shed.load(Relaxed), 0);
    }

    #[test]
    fn what_a_unit_used_in_a_busy_window_is_shed_in_the_next() {
        // Without threads there is no time to spare.
        let (node, unit) = (NodeCpu::new(0, 25), UnitCpu::default());
        assert!(unit.may_run_in(&node, 1));
        unit.used_ns.fetch_add(MS, Relaxed);
        let ran = |window| (0..1_000).filter(|_| unit.may_run_in(&node, window)).count();
        assert_eq!((ran(1), ran(2), ran(3)), (1_000, 10, 1_000));
    }

    #[test]
    fn a_unit_counts_once_however_many_threads_call_it() {
        const THREADS: usize = 4;
        let (node, units) = (NodeCpu::new(1, 25), [UnitCpu::default(), UnitCpu::default()]);
        let barrier = Barrier::new(THREADS);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for window in 1..500 {
                        barrier.wait();
                        units.iter().for_each(|unit| assert!(unit.may_run_in(&node, window)));
                        barrier.wait();
                        let now = node.windows.lock().unwrap();
                        assert_eq!((now.window, now.calling), (window, 2));
                        assert_eq!(now.units, if window == 1 { 0 } else { 2 });
                    }
                });
            }
        });
    }

    #[test]
    fn a_request_that_comes_late_counts_in_the_window_that_runs() {
        let (node, early, late) = (NodeCpu::new(1, 25), UnitCpu::default(), UnitCpu::default());
        early.may_run_in(&node, 9);
        for window in 5..9 {
            late.may_run_in(&node, window);
        }
        assert_eq!(node.windows.lock().unwrap().calling, 2);
        early.may_run_in(&node, 10);
        assert_eq!(node.windows.lock().unwrap().units, 2);
    }

    #[test]
    fn what_the_node_did_is_told_by_the_clock_of_the_process() {
        let node = NodeCpu::new(1, 25);
        assert_eq!(node.unit_ns, ALL / 4);
        let units = [AtomicU64::new(0), AtomicU64::new(0)];
        let (done, windows) = node.turn(&units[0], 18_000).unwrap();
        assert_eq!(windows, 18_000);
        assert!(done.used_ns < ALL / 2, "nothing can have used all of an hour");
        let began = node.windows.lock().unwrap().clock_ns;
        let start = Instant::now();
        while clock_ns() < began + ALL {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::hint::black_box((0..10_000_u64).sum::<u64>());
        }
        let (done, windows) = node.turn(&units[0], 18_001).unwrap();
        assert!(done.used_ns >= ALL, "{}", done.used_ns);
        assert_eq!((windows, done.units), (1, 1), "one unit was called in the window before");
        assert!(node.turn(&units[0], 18_001).is_none(), "it is known");
        assert_eq!(node.turn(&units[1], 18_001).unwrap().0.used_ns, done.used_ns, "as it was found");
        assert_eq!(node.turn(&units[0], 18_002).unwrap().0.units, 2);
    }

    #[test]
    fn what_the_process_did_before_is_no_windows() {
        let used = clock_ns();
        let node = NodeCpu::new(1, 25);
        assert!(node.windows.lock().unwrap().clock_ns >= used);
    }
}
