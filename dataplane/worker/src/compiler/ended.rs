//! How a compiler ended, and whose fault that is: every node would say the same of a component, or this one has trouble.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use rustix::process::Signal;

use super::{
    Bounds, Taken,
    child::status::{LOCAL, NO_MEMORY, REFUSED},
};
use crate::{CompileError, OwnCode};

/// What Rust says before it aborts for want of memory, and its arenas before they panic.
const OUT_OF_MEMORY: [&str; 2] = ["memory allocation of ", "out of memory"];
/// Status of a Rust program that panicked.
const PANICKED: i32 = 101;
/// What a program does to itself by a mistake of its own.
const CRASHES: [Signal; 5] = [Signal::ABORT, Signal::SEGV, Signal::ILL, Signal::FPE, Signal::TRAP];
/// Of words of the compiler, in a message.
const QUOTED_CHARS_MAX: usize = 300;

/// How it ended, and what it left.
pub(super) struct End {
    pub(super) status: ExitStatus,
    pub(super) code: Taken,
    pub(super) words: Taken,
}

impl End {
    /// `is_whole`: it had as much memory as any compiler gets.
    pub(super) fn judge(self, bounds: Bounds, is_whole: bool) -> Result<OwnCode, CompileError> {
        let mib = bounds.memory_bytes >> 20;
        if let Some(bytes_max) = self.code.over {
            return Err(CompileError::Ended(format!(
                "it compiles to more than {} MiB of code: build it smaller",
                bytes_max >> 20
            )));
        }
        let quoted = quote(&self.words.bytes);
        let wants_memory = OUT_OF_MEMORY.iter().any(|words| quoted.contains(words));
        if let Some(signal) = self.status.signal() {
            let is = |other: &Signal| signal == other.as_raw();
            return Err(if is(&Signal::XCPU) {
                over(format!("{} s of CPU", bounds.cpu_seconds), "cpuSeconds")
            } else if is(&Signal::ABORT) && wants_memory {
                out_of_memory(mib, is_whole)
            } else if CRASHES.iter().any(is) {
                CompileError::Ended(format!("the compiler crashed on it, with signal {signal}: {quoted}"))
            } else {
                CompileError::Local(format!(
                    "the compiler was ended from outside, with signal {signal}: is the node out of memory?"
                ))
            });
        }
        let status = self.status.code().unwrap_or(-1);
        if status == 0 {
            let no_code = || CompileError::Local(format!("the compiler ended without code: {quoted}"));
            return OwnCode::from_child(self.code.bytes).ok_or_else(no_code);
        }
        let said = quote(&self.code.bytes);
        Err(match status {
            PANICKED if wants_memory => out_of_memory(mib, is_whole),
            PANICKED => CompileError::Ended(format!("the compiler panicked on it: {quoted}")),
            _ if status == i32::from(REFUSED) => CompileError::Ended(said),
            _ if status == i32::from(NO_MEMORY) => out_of_memory(mib, is_whole),
            _ if status == i32::from(LOCAL) => CompileError::Local(said),
            _ => CompileError::Local(format!("the compiler ended with status {status}: {quoted}")),
        })
    }
}

pub(super) fn too_slow(wall: Duration) -> CompileError {
    CompileError::Local(format!("the compiler was not done after {wall:?}, it had too little of the CPU"))
}

fn out_of_memory(mib: u64, is_whole: bool) -> CompileError {
    if is_whole {
        over(format!("{mib} MiB of memory"), "memoryMiB")
    } else {
        CompileError::Local(format!(
            "compiling it takes more than the {mib} MiB that the pod's memory limit leaves: raise \
             dataplane.resources.limits.memory"
        ))
    }
}

/// The component is too much for any node.
fn over(limit: String, value: &str) -> CompileError {
    CompileError::Ended(format!(
        "compiling it takes more than {limit}: build it smaller, or have the platform raise dataplane.compile.{value}"
    ))
}

/// For a message: one line, not too long.
fn quote(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(QUOTED_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { memory_bytes: 512 << 20, cpu_seconds: 60 };

    fn end(status: i32, code: &str, words: &str) -> End {
        let taken = |text: &str| Taken { bytes: text.into(), over: None };
        End { status: ExitStatus::from_raw(status), code: taken(code), words: taken(words) }
    }

    fn ended(end: End, is_whole: bool) -> String {
        let error = end.judge(BOUNDS, is_whole).err().unwrap();
        let CompileError::Ended(message) = &error else { panic!("it is no refusal: {error}") };
        message.clone()
    }

    fn local(end: End, is_whole: bool) -> String {
        let error = end.judge(BOUNDS, is_whole).err().unwrap();
        let CompileError::Local(message) = &error else { panic!("it is no local trouble: {error}") };
        message.clone()
    }

    #[test]
    fn each_limit_is_named_with_what_it_is_and_what_to_do() {
        let cpu = ended(end(Signal::XCPU.as_raw(), "", ""), true);
        assert_eq!(
            cpu,
            "compiling it takes more than 60 s of CPU: build it smaller, or have the platform raise \
             dataplane.compile.cpuSeconds"
        );
        for refused_memory in [
            end(Signal::ABORT.as_raw(), "", "memory allocation of 1024 bytes failed\n"),
            end(PANICKED << 8, "", "thread 'main' panicked at bumpalo/src/lib.rs:\nout of memory\n"),
            end(i32::from(NO_MEMORY) << 8, "out of memory (failed to allocate 16 bytes)", ""),
        ] {
            let memory = ended(refused_memory, true);
            assert!(memory.contains("more than 512 MiB of memory: build it smaller"), "{memory}");
        }
    }

    #[test]
    fn a_compiler_that_had_less_memory_than_others_have_proves_nothing() {
        let refused_memory = end(Signal::ABORT.as_raw(), "", "memory allocation of 1024 bytes failed\n");
        let message = local(refused_memory, false);
        assert!(message.contains("the pod's memory limit"), "{message}");
    }

    #[test]
    fn what_the_compiler_says_of_the_component_is_passed_on() {
        let said = ended(end(i32::from(REFUSED) << 8, "does not compile: bad section", ""), true);
        assert_eq!(said, "does not compile: bad section");
        let said = local(end(i32::from(LOCAL) << 8, "cannot set a limit", ""), true);
        assert_eq!(said, "cannot set a limit");
    }
}
