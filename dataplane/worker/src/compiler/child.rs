//! What the compiler's process does: it limits itself, reads one component, writes its code, and ends.

use std::{
    fs,
    io::{self, Read as _, Write as _},
};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit};

use crate::{
    CompileError, imports,
    own_code::{compiler, precompile_with},
};

/// How a child ends that has no code: it says why on its standard output.
pub(super) mod status {
    /// The component's fault.
    pub(in super::super) const REFUSED: u8 = 65;
    /// The system refused memory.
    pub(in super::super) const NO_MEMORY: u8 = 70;
    /// Something else is wrong with this machine.
    pub(in super::super) const LOCAL: u8 = 71;
}

/// What serves goes first: under full load the compiler has a quarter of what one serving thread has.
const NICENESS: i32 = 6;
/// What a process maps that is no data of its own: its program, libraries, stack.
const MAPPED_BYTES: u64 = 512 << 20;
const FILES_MAX: u64 = 16;
/// As most systems have it: what overflows it does so on every node.
const STACK_BYTES: u64 = 8 << 20;

/// What a child may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// All memory that it can write to.
    pub memory_bytes: u64,
    /// CPU time.
    pub cpu_seconds: u64,
}

impl Bounds {
    /// What the child is told, after its command.
    pub(super) fn arguments(self) -> [String; 2] {
        [format!("--memory-bytes={}", self.memory_bytes), format!("--cpu-seconds={}", self.cpu_seconds)]
    }
}

/// All of the child's life; what it returns is its exit status.
#[must_use]
pub fn run_child(bounds: Bounds) -> u8 {
    let (status, said) = match work(bounds) {
        Ok(()) => return 0,
        Err(Ended::Machine(why)) => (status::LOCAL, why),
        Err(Ended::Compiler(CompileError::Local(why))) => (status::NO_MEMORY, why),
        Err(Ended::Compiler(error)) => (status::REFUSED, error.to_string()),
    };
    // Whoever does not listen any more has its reasons.
    let mut output = io::stdout();
    let _nobody_listens = output.write_all(said.as_bytes()).and_then(|()| output.flush());
    status
}

enum Ended {
    Machine(String),
    Compiler(CompileError),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        // A component that is read into memory may be too large for it.
        if error.kind() == io::ErrorKind::OutOfMemory {
            return Self::Compiler(CompileError::Local(error.to_string()));
        }
        Self::Machine(format!("the compiler's process: {error}"))
    }
}

fn work(bounds: Bounds) -> Result<(), Ended> {
    limit(bounds)?;
    let mut wasm = Vec::new();
    io::stdin().lock().read_to_end(&mut wasm)?;
    let contract = imports::surface(&wasm).and_then(|surface| surface.check());
    let contract = contract.map_err(|refused| Ended::Compiler(refused.into()))?;
    let compiler = compiler(contract).map_err(Ended::Machine)?;
    let code = precompile_with(&compiler, &wasm).map_err(Ended::Compiler)?;
    let mut output = io::stdout().lock();
    for part in code.parts() {
        output.write_all(part)?;
    }
    Ok(output.flush()?)
}

/// A limit that cannot be set is an error: nothing is compiled without.
fn limit(bounds: Bounds) -> io::Result<()> {
    // With the thread that started it, which lives as long as the node does.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Where memory runs out, this process goes, not the one that serves. Best effort, as is its place in the queue for CPUs.
    let _best_effort = fs::write("/proc/self/oom_score_adj", "1000");
    let _best_effort = nice(NICENESS);
    // One second more for who does not heed the signal at the first.
    lower(Resource::Cpu, bounds.cpu_seconds, bounds.cpu_seconds + 1)?;
    // Data is what counts. Where a sandbox does not count it, the address space is bounded, too.
    lower(Resource::Data, bounds.memory_bytes, bounds.memory_bytes)?;
    let mapped = bounds.memory_bytes.saturating_add(MAPPED_BYTES);
    lower(Resource::As, mapped, mapped)?;
    lower(Resource::Stack, STACK_BYTES, STACK_BYTES)?;
    lower(Resource::Nofile, FILES_MAX, FILES_MAX)?;
    // It writes no files, has no threads and starts nothing.
    for none in [Resource::Core, Resource::Fsize, Resource::Nproc] {
        lower(none, 0, 0)?;
    }
    Ok(())
}

/// What is lower already stays: only a privileged process may raise it.
fn lower(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum.map_or(hard, |now| now.min(hard));
    Ok(setrlimit(resource, Rlimit { current: Some(soft.min(maximum)), maximum: Some(maximum) })?)
}
