//! CPU time, of threads and of the process.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// A thread's clock is read again after this. Until then all the time that passes counts as CPU time of the thread, so that a call
/// is charged with at most so much that was another thread's, or is spared at most so much of its own.
const READ_EVERY: Duration = Duration::from_micros(50);

/// What the clock of a thread said, and when.
#[derive(Clone, Copy)]
struct Read {
    at: Instant,
    cpu_ns: u64,
}

thread_local! {
    static LAST: Cell<Option<Read>> = const { Cell::new(None) };
}

/// CPU time of this thread at this moment, which is now. To read the clock is a system call, and takes a good part of the time of a
/// small guest's call: neighbours in a chain share one.
pub(crate) fn thread_cpu_ns(now: Instant) -> u64 {
    let last = LAST.get().map(|read| (read, now.saturating_duration_since(read.at)));
    match last.filter(|(_, passed)| *passed < READ_EVERY) {
        Some((read, passed)) => read.cpu_ns + nanos(passed),
        None => {
            let cpu_ns = clock_ns(ClockId::ThreadCPUTime);
            LAST.set(Some(Read { at: now, cpu_ns }));
            cpu_ns
        }
    }
}

/// CPU time of all threads of this process.
#[must_use]
pub fn process_cpu() -> Duration {
    Duration::from_nanos(clock_ns(ClockId::ProcessCPUTime))
}

/// Nanoseconds of a duration: 584 years at most.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn clock_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_thread_uses_does_not_count_but_for_what_is_not_looked_at() {
        let before = thread_cpu_ns(Instant::now());
        let other = std::thread::spawn(|| spin(Duration::from_millis(20)));
        other.join().unwrap();
        let after = thread_cpu_ns(Instant::now());
        assert!(after - before < 10_000_000, "{} ns", after - before);
    }

    #[test]
    fn time_that_passes_between_two_reads_counts() {
        let now = Instant::now();
        let first = thread_cpu_ns(now);
        assert_eq!(thread_cpu_ns(now + READ_EVERY / 2), first + nanos(READ_EVERY / 2));
        spin(Duration::from_millis(20));
        assert!(thread_cpu_ns(Instant::now()) > first, "and it is read again");
    }

    fn spin(duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {}
    }
}
