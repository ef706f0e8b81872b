//! How long a thread has a core before others are looked at: what must not wait asks for little at a time.

use std::{io, time::Duration};

use libc::{c_long, c_uint, pid_t, sched_attr};

use crate::clock::nanos;

const THIS_THREAD: pid_t = 0;
const NO_FLAGS: c_uint = 0;
const ATTRIBUTES_BYTES: c_uint = size_of::<sched_attr>() as c_uint;

/// Asks the kernel to give this thread the core in slices of so long, from 100 µs to 100 ms, and says how long they were. From
/// Linux 6.12 on, a thread that wakes and wants a shorter slice than the one that runs has the core at once, but where that one's is
/// as good as over. Otherwise it waits for its end, 1 to 3 ms unless asked for, and for the next tick of the kernel's clock. Nobody
/// has more of the core in all. Earlier kernels do not look at it. Nothing where the system refuses, as a sandbox may: then
/// all is as it was.
pub fn ask_for_slices(slice: Duration) -> Option<Duration> {
    let asked = attributes().and_then(|before| {
        // All else stays as it is, niceness above all.
        set(&sched_attr { sched_runtime: nanos(slice), ..before })?;
        Ok(Duration::from_nanos(before.sched_runtime))
    });
    asked.inspect_err(|error| tracing::debug!(%error, "one thread may wait for a slice of another")).ok()
}

#[allow(unsafe_code, reason = "a system call that no library has a safe function for")]
fn attributes() -> io::Result<sched_attr> {
    let mut attributes = sched_attr {
        size: ATTRIBUTES_BYTES,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `ATTRIBUTES_BYTES` to where the pointer shows. As many are there, integers all.
    let status =
        unsafe { libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, &raw mut attributes, ATTRIBUTES_BYTES, NO_FLAGS) };
    said(status).map(|()| sched_attr { size: ATTRIBUTES_BYTES, ..attributes })
}

#[allow(unsafe_code, reason = "as above")]
fn set(attributes: &sched_attr) -> io::Result<()> {
    // SAFETY: the kernel reads from where the pointer shows what `size` says, which is what there is.
    said(unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const *attributes, NO_FLAGS) })
}

fn said(status: c_long) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_the_slices_that_it_asks_for_and_nothing_else_changes() {
        let asks = || {
            let before = attributes().unwrap();
            let said = ask_for_slices(Duration::from_micros(100)).unwrap();
            assert_eq!(nanos(said), before.sched_runtime);
            (before, attributes().unwrap())
        };
        let (before, after) = std::thread::spawn(asks).join().unwrap();
        // Nothing where the kernel knows none.
        assert!([0, 100_000].contains(&after.sched_runtime), "{} ns", after.sched_runtime);
        let rest = |a: &sched_attr| (a.sched_policy, a.sched_flags, a.sched_nice, a.sched_priority);
        assert_eq!(rest(&before), rest(&after));
    }
}
