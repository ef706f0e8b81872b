//! What a call has used so far, against its limits: CPU by the thread's clock, wall time without
//! waiting on others, memory. Shared between the call, its store and its bodies.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use sluice_config::Limits;
use sluice_egress::BodyError;

use crate::{
    Outcome,
    clock::{nanos, thread_cpu_ns},
    computing,
    hands::Hands,
};

/// A guest that has had the thread for less than this goes on at a tick instead of yielding.
const SLICE_MIN_NS: u64 = 200_000;

/// A tick that is found sooner after the guest was resumed passed, as good as always, while it waited.
const RESUMED_NS: u64 = 50_000;

/// What may pass between two looks at a guest that runs: it is looked at each millisecond at least, and where more CPU time has
/// passed than that, the machine stood still (its host gave memory back, say) and charged the thread for it. One
/// instruction that fills much memory is not looked at either: of those the wall limit is the bound.
const UNSEEN_MAX_NS: u64 = 5_000_000;
/// The same where the limit itself is small.
const UNSEEN_MIN_NS: u64 = 2_000_000;

/// How often a guest that waits for others is looked at, at most: each look is CPU time of its own.
const LOOK_MIN: Duration = Duration::from_millis(250);

/// All fields are written by whoever polls the call, but for the counts, which bodies and `next`
/// calls move from other threads. No decision needs two of them to agree.
pub(crate) struct Meter {
    cpu_limit_ns: u64,
    /// Moves on when the response is complete: what the guest still does is measured by itself.
    wall_limit_ns: AtomicU64,
    start: Instant,
    /// CPU time used, and what of it counts against the limit, up to the last look; where the thread's clock was then.
    cpu_ns: AtomicU64,
    counted_ns: AtomicU64,
    looked_cpu_ns: AtomicU64,
    /// CPU time of all calls of the unit: this one's as it is used, also of a call that is given up.
    unit_cpu_ns: Arc<AtomicU64>,
    /// Wall time charged up to the last suspension.
    wall_ns: AtomicU64,
    /// Since when the guest runs, or waits.
    resumed_cpu_ns: AtomicU64,
    since_ns: AtomicU64,
    running: AtomicBool,
    /// The last moment at which somebody else was to blame for waiting.
    excused_ns: AtomicU64,
    /// `next` calls without a response yet.
    next_open: AtomicUsize,
    /// Bodies that the guest writes and whose reader waits for more: the guest is to blame.
    starving: AtomicUsize,
    /// Request bodies of which it is not known that the guest ended them.
    requests_open: AtomicUsize,
    /// The guest is gone, and its response's body has no end.
    left_open: AtomicBool,
    /// It went in the middle: nothing of it that is still read has an end.
    cut_off: AtomicBool,
    /// Since it was resumed, the guest has waited for a body, or yielded.
    body_waited: AtomicBool,
    /// How often anybody has waited for a body that the guest was given.
    body_waits: AtomicU64,
    yielded: AtomicBool,
    /// It had yielded when it was resumed.
    goes_on: AtomicBool,
    /// The response's head is set: wall time no longer counts.
    answered: AtomicBool,
    answered_well: AtomicBool,
    called_next: AtomicBool,
    memory_denied: AtomicBool,
    failed: AtomicBool,
    verdict: AtomicU8,
    /// The guest broke off the request that it sent on.
    broke_off: AtomicBool,
    /// The first error of a body that the guest was given.
    provoked: Mutex<Option<BodyError>>,
    pub(crate) hands: Hands,
}

/// Which limit ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Cpu,
    Wall,
}

impl Limit {
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Cpu => Outcome::Cpu,
            Self::Wall => Outcome::Wall,
        }
    }
}

/// What to do with a guest at a tick.
pub(crate) enum Tick {
    Continue,
    Yield,
    End(Limit),
}

impl Meter {
    /// `unit_cpu_ns` is moved on by what the call uses.
    pub(crate) fn new(limits: &Limits, unit_cpu_ns: &Arc<AtomicU64>) -> Self {
        Self {
            cpu_limit_ns: limits.cpu_ms.saturating_mul(1_000_000),
            wall_limit_ns: AtomicU64::new(limits.wall_ms.saturating_mul(1_000_000)),
            start: Instant::now(),
            cpu_ns: AtomicU64::new(0),
            counted_ns: AtomicU64::new(0),
            looked_cpu_ns: AtomicU64::new(0),
            unit_cpu_ns: unit_cpu_ns.clone(),
            wall_ns: AtomicU64::new(0),
            resumed_cpu_ns: AtomicU64::new(0),
            since_ns: AtomicU64::new(0),
            running: AtomicBool::new(false),
            excused_ns: AtomicU64::new(0),
            next_open: AtomicUsize::new(0),
            starving: AtomicUsize::new(0),
            requests_open: AtomicUsize::new(0),
            left_open: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            body_waited: AtomicBool::new(false),
            body_waits: AtomicU64::new(0),
            yielded: AtomicBool::new(false),
            goes_on: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            answered_well: AtomicBool::new(false),
            called_next: AtomicBool::new(false),
            memory_denied: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            verdict: AtomicU8::new(0),
            broke_off: AtomicBool::new(false),
            provoked: Mutex::default(),
            hands: Hands::default(),
        }
    }

    /// When it was made: the call begins.
    pub(crate) fn began(&self) -> Instant {
        self.start
    }

    /// When the guest gave the thread back, if it runs no more.
    pub(crate) fn suspended_at(&self) -> Instant {
        self.start + Duration::from_nanos(self.since_ns.load(Relaxed))
    }

    /// The guest gets the thread, at this moment or just after.
    pub(crate) fn resume(&self, at: Instant) {
        let now = self.ns_at(at);
        self.wall_ns.store(self.wall_at(now), Relaxed);
        self.since_ns.store(now, Relaxed);
        let cpu = thread_cpu_ns(at);
        self.resumed_cpu_ns.store(cpu, Relaxed);
        self.looked_cpu_ns.store(cpu, Relaxed);
        self.running.store(true, Relaxed);
        self.body_waited.store(false, Relaxed);
        self.goes_on.store(self.yielded.swap(false, Relaxed), Relaxed);
    }

    /// The guest gives the thread back.
    pub(crate) fn suspend(&self) {
        let at = Instant::now();
        let now = self.ns_at(at);
        self.look(at);
        self.wall_ns.store(self.wall_at(now), Relaxed);
        self.since_ns.store(now, Relaxed);
        self.running.store(false, Relaxed);
        computing::rests();
    }

    /// Whether the guest that runs has hardly begun to: a tick says nothing of it then. One that yielded computes, and its deadline
    /// was set when it was resumed.
    pub(crate) fn has_just_resumed(&self) -> bool {
        !self.goes_on.load(Relaxed) && self.now_ns().saturating_sub(self.since_ns.load(Relaxed)) < RESUMED_NS
    }

    /// Called by the engine while the guest runs.
    pub(crate) fn tick(&self) -> Tick {
        if let Some(limit) = self.exceeded() {
            return Tick::End(limit);
        }
        let slice = self.looked_cpu_ns.load(Relaxed).saturating_sub(self.resumed_cpu_ns.load(Relaxed));
        if slice < SLICE_MIN_NS { Tick::Continue } else { Tick::Yield }
    }

    /// The guest is about to yield: until it is resumed, it waits for others.
    pub(crate) fn yields(&self) {
        self.yielded.store(true, Relaxed);
    }

    /// The limit that the call is over, if any; the first one found stays the verdict.
    pub(crate) fn exceeded(&self) -> Option<Limit> {
        if let Some(limit) = self.verdict() {
            return Some(limit);
        }
        let at = Instant::now();
        if self.running.load(Relaxed) {
            self.look(at);
        }
        let limit = if self.counted_ns.load(Relaxed) > self.cpu_limit_ns {
            Limit::Cpu
        } else if !self.answered.load(Relaxed) && self.wall_at(self.ns_at(at)) > self.wall_limit_ns.load(Relaxed) {
            Limit::Wall
        } else {
            return None;
        };
        self.verdict.store(limit as u8 + 1, Relaxed);
        Some(limit)
    }

    /// The limit that ended the call.
    pub(crate) fn verdict(&self) -> Option<Limit> {
        match self.verdict.load(Relaxed) {
            1 => Some(Limit::Cpu),
            2 => Some(Limit::Wall),
            _ => None,
        }
    }

    /// How long a suspended guest may wait before its wall limit has to be looked at; nothing once it answered.
    pub(crate) fn patience(&self) -> Option<Duration> {
        if self.answered.load(Relaxed) {
            return None;
        }
        let limit = self.wall_limit_ns.load(Relaxed);
        let left = limit.saturating_sub(self.wall_ns.load(Relaxed));
        // A little over, so that the look finds it exceeded.
        let left = Duration::from_nanos(left) + Duration::from_micros(100);
        Some(if self.is_excused() { left.max(LOOK_MIN) } else { left })
    }

    /// Charges the wait so far, unless it is excused, and begins a new one.
    pub(crate) fn settle(&self) {
        let now = self.now_ns();
        self.wall_ns.store(self.wall_at(now), Relaxed);
        self.since_ns.store(now, Relaxed);
    }

    pub(crate) fn own(&self) -> Duration {
        Duration::from_nanos(self.wall_ns.load(Relaxed))
    }

    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Relaxed))
    }

    // === what others tell ===

    pub(crate) fn next_began(&self) {
        self.called_next.store(true, Relaxed);
        self.next_open.fetch_add(1, Relaxed);
    }

    pub(crate) fn next_ended(&self) {
        self.excuse();
        self.next_open.fetch_sub(1, Relaxed);
    }

    pub(crate) fn called_next(&self) -> bool {
        self.called_next.load(Relaxed)
    }

    pub(crate) fn body_waited(&self) {
        self.body_waited.store(true, Relaxed);
        self.body_waits.fetch_add(1, Relaxed);
    }

    /// Has another value once somebody has waited for a body that the guest was given.
    pub(crate) fn body_waits(&self) -> u64 {
        self.body_waits.load(Relaxed)
    }

    pub(crate) fn starving(&self, starves: bool) {
        self.excuse();
        if starves {
            self.starving.fetch_add(1, Relaxed);
        } else {
            self.starving.fetch_sub(1, Relaxed);
        }
    }

    pub(crate) fn request_opened(&self) {
        self.requests_open.fetch_add(1, Relaxed);
    }

    pub(crate) fn request_closed(&self) {
        self.requests_open.fetch_sub(1, Relaxed);
    }

    /// The guest returned or exited with so many bodies neither finished nor dropped. Those of its requests
    /// may be among them: not every language lets go of what nobody read.
    pub(crate) fn left(&self, bodies: usize) {
        self.left_open.store(bodies > self.requests_open.load(Relaxed), Relaxed);
    }

    /// The guest exited or failed, whatever it was writing.
    pub(crate) fn cut_off(&self) {
        if self.hands.are_read() {
            self.left_open.store(true, Relaxed);
            self.cut_off.store(true, Relaxed);
        }
    }

    pub(crate) fn was_left_open(&self) -> bool {
        self.left_open.load(Relaxed)
    }

    pub(crate) fn answered(&self) {
        self.settle();
        self.answered.store(true, Relaxed);
    }

    /// What it answered is a response that may go on.
    pub(crate) fn answered_well(&self) {
        self.answered_well.store(true, Relaxed);
    }

    pub(crate) fn has_answered_well(&self) -> bool {
        self.answered_well.load(Relaxed)
    }

    /// The response is complete, the guest still runs: its time counts again.
    pub(crate) fn tail_began(&self) {
        self.settle();
        self.wall_limit_ns.fetch_add(self.wall_ns.load(Relaxed), Relaxed);
        self.answered.store(false, Relaxed);
    }

    pub(crate) fn memory_denied(&self) {
        self.memory_denied.store(true, Relaxed);
    }

    pub(crate) fn was_memory_denied(&self) -> bool {
        self.memory_denied.load(Relaxed)
    }

    /// The guest broke off the request that it sent on: what breaks off in its hands from now on may be so for that.
    pub(crate) fn broke_off(&self) {
        self.broke_off.store(true, Relaxed);
    }

    /// A body broke off in the guest's hands, and through no fault of its own as far as is known.
    pub(crate) fn provoke(&self, error: &BodyError) {
        if self.broke_off.load(Relaxed) {
            return;
        }
        let mut provoked = self.provoked.lock().unwrap_or_else(PoisonError::into_inner);
        provoked.get_or_insert_with(|| error.clone());
    }

    pub(crate) fn provoked(&self) -> Option<BodyError> {
        self.provoked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn fail(&self) {
        self.failed.store(true, Relaxed);
    }

    /// Whether what the guest writes breaks off.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Relaxed) || self.cut_off.load(Relaxed)
    }

    // === clocks ===

    fn excuse(&self) {
        if self.is_excused() {
            self.excused_ns.store(self.now_ns(), Relaxed);
        }
    }

    /// Whether a suspended guest waits for somebody else.
    fn is_excused(&self) -> bool {
        if self.body_waited.load(Relaxed) || self.yielded.load(Relaxed) {
            return true;
        }
        self.starving.load(Relaxed) == 0 && self.next_open.load(Relaxed) > 0
    }

    fn wall_at(&self, now_ns: u64) -> u64 {
        let charged = self.wall_ns.load(Relaxed);
        let since = self.since_ns.load(Relaxed);
        if self.running.load(Relaxed) {
            return charged + now_ns.saturating_sub(since);
        }
        if self.answered.load(Relaxed) || self.is_excused() {
            return charged;
        }
        charged + now_ns.saturating_sub(since.max(self.excused_ns.load(Relaxed)))
    }

    /// Charges the CPU time since the last look at a guest that runs.
    fn look(&self, at: Instant) {
        let now = thread_cpu_ns(at);
        let passed = now.saturating_sub(self.looked_cpu_ns.load(Relaxed));
        let counted = passed.min((self.cpu_limit_ns / 4).clamp(UNSEEN_MIN_NS, UNSEEN_MAX_NS));
        self.looked_cpu_ns.store(now, Relaxed);
        self.cpu_ns.store(self.cpu_ns.load(Relaxed) + passed, Relaxed);
        self.unit_cpu_ns.fetch_add(passed, Relaxed);
        self.counted_ns.store(self.counted_ns.load(Relaxed) + counted, Relaxed);
    }

    fn now_ns(&self) -> u64 {
        self.ns_at(Instant::now())
    }

    fn ns_at(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.start))
    }
}

#[cfg(test)]
mod tests;
