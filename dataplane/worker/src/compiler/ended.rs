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
/// What gives a compiler that had less than others as much as they have.
const POD_MEMORY: &str = "dataplane.resources.limits.memory";
/// Of words of the compiler, in a message.
const QUOTED_CHARS_MAX: usize = 300;

/// How it ended, and what it left.
pub(super) struct End {
    pub(super) status: ExitStatus,
    pub(super) code: Taken,
    pub(super) words: Taken,
}

/// The ways to end.
enum How {
    Done,
    /// It says what is wrong with the component.
    Refused(String),
    TooMuchCode {
        bytes_max: u64,
    },
    OverCpu,
    OutOfMemory,
    /// A mistake of the compiler's own: a crash, or a panic.
    Broken(String),
    /// Something is wrong with this machine.
    Local(String),
}

impl End {
    /// `is_whole`: it had as much memory as any compiler gets. One that had less tells by want of memory nothing of its
    /// component, nor by breaking, for want of memory breaks programs in many ways.
    pub(super) fn judge(self, bounds: Bounds, is_whole: bool) -> Result<OwnCode, CompileError> {
        let mib = bounds.memory_bytes >> 20;
        Err(match (self.how(), is_whole) {
            (How::Done, _) => {
                let words = quote(&self.words.bytes);
                let no_code = || CompileError::Local(format!("the compiler ended without code: {words}"));
                return OwnCode::from_child(self.code.bytes).ok_or_else(no_code);
            }
            (How::Refused(why), _) => CompileError::Ended(why),
            (How::TooMuchCode { bytes_max }, _) => CompileError::Ended(format!(
                "it compiles to more than {} MiB of code: build it smaller",
                bytes_max >> 20
            )),
            (How::OverCpu, _) => over(format!("{} s of CPU", bounds.cpu_seconds), "cpuSeconds"),
            (How::OutOfMemory, true) => over(format!("{mib} MiB of memory"), "memoryMiB"),
            (How::OutOfMemory, false) => CompileError::Local(format!(
                "compiling it takes more than the {mib} MiB that the pod's memory limit leaves: raise {POD_MEMORY}"
            )),
            (How::Broken(what), true) => CompileError::Ended(what),
            (How::Broken(what), false) => CompileError::Local(format!(
                "{what} (it had only the {mib} MiB that the pod's memory limit leaves: raise {POD_MEMORY})"
            )),
            (How::Local(why), _) => CompileError::Local(why),
        })
    }

    fn how(&self) -> How {
        if let Some(bytes_max) = self.code.over {
            return How::TooMuchCode { bytes_max };
        }
        let words = quote(&self.words.bytes);
        let all_words = String::from_utf8_lossy(&self.words.bytes);
        let wants_memory = OUT_OF_MEMORY.iter().any(|words| all_words.contains(words));
        if let Some(signal) = self.status.signal() {
            let is = |other: &Signal| signal == other.as_raw();
            return if is(&Signal::XCPU) {
                How::OverCpu
            } else if is(&Signal::ABORT) && wants_memory {
                How::OutOfMemory
            } else if CRASHES.iter().any(is) {
                How::Broken(format!("the compiler crashed on it, with signal {signal}: {words}"))
            } else {
                How::Local(format!(
                    "the compiler was ended from outside, with signal {signal}: is the node out of memory?"
                ))
            };
        }
        let status = self.status.code().unwrap_or(-1);
        let said = || quote(&self.code.bytes);
        match status {
            0 => How::Done,
            PANICKED if wants_memory => How::OutOfMemory,
            PANICKED => How::Broken(format!("the compiler panicked on it: {words}")),
            _ if status == i32::from(REFUSED) => How::Refused(said()),
            _ if status == i32::from(NO_MEMORY) => How::OutOfMemory,
            _ if status == i32::from(LOCAL) => How::Local(said()),
            _ => How::Local(format!("the compiler ended with status {status}: {words}")),
        }
    }
}

pub(super) fn too_slow(wall: Duration) -> CompileError {
    CompileError::Local(format!("the compiler was not done after {wall:?}, it had too little of the CPU"))
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

    /// With all memory that a compiler gets, and with less.
    #[test]
    fn whose_fault_it_is() {
        let signal = |signal: Signal, words| end(signal.as_raw(), "", words);
        let status = |status: u8, words| end(i32::from(status) << 8, "why", words);
        // The word that tells stands behind what fits into a message.
        let late = format!("{} memory allocation of 1024 bytes failed\n", "at some place\n".repeat(100));
        let panicked = u8::try_from(PANICKED).unwrap();
        for (what, ends, its_own) in [
            ("over its CPU time", [(); 2].map(|()| signal(Signal::XCPU, "")), [true, true]),
            ("refused", [(); 2].map(|()| status(REFUSED, "")), [true, true]),
            ("aborts for memory", [(); 2].map(|()| signal(Signal::ABORT, &late)), [true, false]),
            ("panics for memory", [(); 2].map(|()| status(panicked, &late)), [true, false]),
            ("says no memory", [(); 2].map(|()| status(NO_MEMORY, "")), [true, false]),
            ("aborts", [(); 2].map(|()| signal(Signal::ABORT, "overflowed its stack")), [true, false]),
            ("crashes", [(); 2].map(|()| signal(Signal::SEGV, "")), [true, false]),
            ("panics", [(); 2].map(|()| status(panicked, "no such block")), [true, false]),
            ("is killed", [(); 2].map(|()| signal(Signal::KILL, "")), [false, false]),
            ("has trouble", [(); 2].map(|()| status(LOCAL, "")), [false, false]),
            ("is no compiler", [(); 2].map(|()| status(1, "")), [false, false]),
            ("says nothing", [(); 2].map(|()| end(0, "", "")), [false, false]),
        ] {
            for ((end, is_whole), expected) in ends.into_iter().zip([true, false]).zip(its_own) {
                let error = end.judge(BOUNDS, is_whole).err().unwrap();
                let is_refused = matches!(error, CompileError::Ended(_));
                assert_eq!(is_refused, expected, "{what}, all memory: {is_whole}: {error}");
                assert!(is_refused || matches!(error, CompileError::Local(_)), "{what}: {error}");
            }
        }
    }

    #[test]
    fn a_compiler_that_had_less_memory_than_others_have_names_what_to_raise() {
        for words in ["memory allocation of 1024 bytes failed\n", "it broke\n"] {
            let message = local(end(Signal::ABORT.as_raw(), "", words), false);
            assert!(message.contains("the pod's memory limit") && message.contains(POD_MEMORY), "{message}");
        }
    }

    #[test]
    fn what_the_compiler_says_of_the_component_is_passed_on() {
        let said = ended(end(i32::from(REFUSED) << 8, "does not compile: bad section", ""), true);
        assert_eq!(said, "does not compile: bad section");
        let said = local(end(i32::from(LOCAL) << 8, "cannot set a limit", ""), true);
        assert_eq!(said, "cannot set a limit");
    }
}
