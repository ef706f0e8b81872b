//! What an error of the engine's means: whose fault it is, and under which outcome it is counted.

use wasmtime::PoolConcurrencyLimitError;
use wasmtime_wasi::I32Exit;

use crate::{Failure, Outcome, meter::Meter};

/// What a log has of a trap.
const TOLD_CHARS_MAX: usize = 2_000;

/// A guest asked for what the host cannot do: a message that cannot be, or more than may be kept. The message goes to logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(pub(crate) String);

/// Why a guest ended; nothing where it only said `exit(0)`.
pub(crate) fn judge(error: &wasmtime::Error, meter: &Meter) -> Option<Failure> {
    let own = |outcome, why| Failure { outcome, why, provoked: None };
    if let Some(limit) = meter.verdict() {
        let why = format!("over its {limit:?} limit").to_lowercase();
        return Some(own(limit.outcome(), why));
    }
    if let Some(I32Exit(0)) = error.downcast_ref::<I32Exit>() {
        return None;
    }
    let failure = of(error);
    Some(match failure.outcome {
        Outcome::Trap if meter.was_memory_denied() => {
            own(Outcome::Memory, format!("over its memory limit: {}", failure.why))
        }
        Outcome::Trap | Outcome::Invalid => Failure { provoked: meter.provoked(), ..failure },
        Outcome::Next
        | Outcome::Answered
        | Outcome::Cpu
        | Outcome::Wall
        | Outcome::Memory
        | Outcome::Shed
        | Outcome::NotLoaded
        | Outcome::Aborted => failure,
    })
}

fn of(error: &wasmtime::Error) -> Failure {
    let failure = |outcome, why| Failure { outcome, why, provoked: None };
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return failure(Outcome::Shed, "no room for another call".to_owned());
    }
    if is_local(error) {
        return failure(Outcome::Shed, format!("the machine has no room for another call: {error:#}"));
    }
    if let Some(Invalid(why)) = error.downcast_ref::<Invalid>() {
        return failure(Outcome::Invalid, why.clone());
    }
    match error.downcast_ref::<I32Exit>() {
        Some(I32Exit(status)) => failure(Outcome::Trap, format!("it exited with status {status}")),
        None => failure(Outcome::Trap, told(error)),
    }
}

/// The trap, then where: a stack of the guest's is long, and what is too long is cut. Never by `{:?}`: with RUST_BACKTRACE set
/// that has the host's stack as well, and naming its functions holds a serving thread for 100 ms.
fn told(error: &wasmtime::Error) -> String {
    let mut causes: Vec<_> = error.chain().map(ToString::to_string).collect();
    causes.reverse();
    causes.join(": ").chars().take(TOLD_CHARS_MAX).collect()
}

/// Whether the system refused something (memory, mostly) outside of any guest: whose fault that is, the
/// component cannot say.
pub(crate) fn is_local(error: &wasmtime::Error) -> bool {
    let system = |e: &(dyn std::error::Error + 'static)| {
        e.is::<std::io::Error>() || e.is::<rustix::io::Errno>() || e.is::<wasmtime::OutOfMemory>()
    };
    error.downcast_ref::<wasmtime::WasmBacktrace>().is_none() && error.chain().any(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trap_is_told_before_the_guests_stack_and_without_the_hosts() {
        let trap = || wasmtime::Error::msg("unreachable");
        assert_eq!(of(&trap().context("wasm backtrace: 0: handle")).why, "unreachable: wasm backtrace: 0: handle");
        let deep = of(&trap().context("0: handle ".repeat(1_000))).why;
        assert!(deep.starts_with("unreachable: 0: handle"), "{deep}");
        assert_eq!(deep.len(), TOLD_CHARS_MAX);
    }

    #[test]
    fn what_the_system_refuses_is_not_the_components_fault() {
        let io = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        assert!(is_local(&wasmtime::Error::from(io()).context("mmap failed to allocate 0x1000 bytes")));
        assert!(is_local(&wasmtime::Error::from(rustix::io::Errno::NOMEM).context("cannot make it accessible")));
        assert!(!is_local(&wasmtime::Error::msg("invalid magic number")));
    }
}
