//! Compiles in a process of its own, so that whatever a component does to a compiler, it does not do to what serves.
//!
//! The child is this same executable. It gets a component on its standard input and nothing else: no environment, no
//! files, no key. It sets limits to itself before it reads, and writes the code to its standard output. What its end
//! means, and whose fault that is, is decided in one place, `ended`.

mod child;
mod ended;
mod room;

use std::{ffi::OsString, io, ops::Deref, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

pub use child::{Bounds, run_child};
use ended::End;
use room::{Room, Share};

use crate::{CompileError, OwnCode};

/// The executable that runs. By this name, not by its path: an update may have put another program there.
const OURSELVES: &str = "/proc/self/exe";
/// The child's first argument.
pub const COMMAND: &str = "compile";
/// Largest code that is taken from a child; a component has at most 32 MiB.
const CODE_BYTES_MAX: u64 = 256 << 20;
/// Of what a child says on its standard error.
const WORDS_BYTES_MAX: u64 = 16 << 10;

/// What one compilation may take.
#[derive(Clone, Copy, Debug)]
pub struct CompileLimits {
    /// All memory that the compiler can write to. Above, the component is refused.
    pub memory_bytes: u64,
    /// CPU time. Above, the component is refused.
    pub cpu_seconds: u64,
    /// Time on the clock. What is over it without being over the CPU time did not get the CPU: the machine's fault.
    pub wall: Duration,
}

/// Starts a compiler for each component.
pub struct Compiler {
    program: PathBuf,
    /// Arguments before those of the child; tests have a shell there.
    leading: Vec<OsString>,
    limits: CompileLimits,
    code_bytes_max: u64,
    room: Arc<Room>,
}

/// What a compiler made. It holds its compiler's share of the memory: until it is dropped, this process has the code beside what
/// it serves with.
pub struct Made {
    code: OwnCode,
    _share: Share,
}

impl Deref for Made {
    type Target = OwnCode;

    fn deref(&self) -> &OwnCode {
        &self.code
    }
}

impl Compiler {
    /// Compilers under these limits. `program` is what is started in place of this executable.
    #[must_use]
    pub fn new(limits: CompileLimits, program: Option<PathBuf>) -> Self {
        Self {
            program: program.unwrap_or_else(|| OURSELVES.into()),
            leading: Vec::new(),
            limits,
            code_bytes_max: CODE_BYTES_MAX,
            room: Arc::new(Room::new(limits.memory_bytes, room::left)),
        }
    }

    /// Compiles a component. Waits where others have the memory that it may take, or what was made in it. Dropping the future
    /// ends the child.
    ///
    /// # Errors
    /// See [`CompileError`]; each says what to do.
    pub async fn compile(&self, wasm: &[u8]) -> Result<Made, CompileError> {
        let share = self.room.enter().await;
        let bounds = Bounds { memory_bytes: share.bytes(), cpu_seconds: self.limits.cpu_seconds };
        let end = match timeout(self.limits.wall, self.run(bounds, wasm)).await {
            Ok(Ok(end)) => end,
            Ok(Err(error)) => return Err(CompileError::Local(format!("the compiler cannot be started: {error}"))),
            Err(_elapsed) => return Err(ended::too_slow(self.limits.wall)),
        };
        Ok(Made { code: end.judge(bounds, share.is_whole())?, _share: share })
    }

    /// Spawned without anything that would take a fork: with the pool's reservations that copies a lot of page tables.
    async fn run(&self, bounds: Bounds, wasm: &[u8]) -> io::Result<End> {
        let mut child = Command::new(&self.program)
            .arg0("sluice-dataplane")
            .args(&self.leading)
            .arg(COMMAND)
            .args(bounds.arguments())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(mut input), Some(output), Some(words)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("it has no pipes"));
        };
        let feed = async move {
            // One that ends before it has read all says why in another way.
            let _ended_early = input.write_all(wasm).await;
            drop(input);
        };
        let ((), code, words, status) =
            tokio::join!(feed, read(output, self.code_bytes_max), read(words, WORDS_BYTES_MAX), child.wait());
        Ok(End { status: status?, code: code?, words: words? })
    }
}

/// What comes, up to a limit. Above, the other side finds nobody to write to.
async fn read(from: impl AsyncRead + Unpin, bytes_max: u64) -> io::Result<Taken> {
    let mut bytes = Vec::new();
    let read = from.take(bytes_max + 1).read_to_end(&mut bytes).await?;
    Ok(Taken { bytes, over: (read as u64 > bytes_max).then_some(bytes_max) })
}

struct Taken {
    bytes: Vec<u8>,
    /// The limit, where there was more.
    over: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CompileLimits =
        CompileLimits { memory_bytes: 64 << 20, cpu_seconds: 10, wall: Duration::from_secs(60) };

    /// A shell that plays the compiler.
    fn played(script: &str, limits: CompileLimits) -> Compiler {
        let mut compiler = Compiler::new(limits, Some("/bin/sh".into()));
        compiler.leading = vec!["-c".into(), script.into()];
        compiler
    }

    async fn error(script: &str) -> CompileError {
        played(script, LIMITS).compile(&vec![0; 1 << 20]).await.err().unwrap()
    }

    #[tokio::test]
    async fn the_component_goes_in_and_the_code_comes_out() {
        // 64 digits stand for the engine.
        let compiler = played("printf '%064d' 0; wc -c", LIMITS);
        let code = compiler.compile(&vec![0; 1 << 20]).await.unwrap();
        let said = code.parts()[1];
        assert_eq!(std::str::from_utf8(said).unwrap().trim(), "1048576");
    }

    #[tokio::test]
    async fn what_was_made_keeps_its_memory_until_it_is_put_where_it_belongs() {
        let mut compiler = played("printf '%064d' 0", LIMITS);
        compiler.room = Arc::new(Room::new(LIMITS.memory_bytes, || Some(LIMITS.memory_bytes)));
        let made = compiler.compile(b"").await.unwrap();
        let mut second = Box::pin(compiler.compile(b""));
        assert!(timeout(Duration::from_millis(100), &mut second).await.is_err(), "there is memory for one");
        drop(made);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn a_compiler_that_is_ended_from_outside_is_local_trouble() {
        let killed = error("kill -9 $$").await;
        assert!(matches!(killed, CompileError::Local(_)), "{killed}");
        assert!(killed.to_string().contains("signal 9"), "{killed}");
    }

    #[tokio::test]
    async fn a_compiler_that_cannot_be_started_is_local_trouble() {
        let compiler = Compiler::new(LIMITS, Some("/nowhere/compiler".into()));
        let error = compiler.compile(b"").await.err().unwrap();
        assert!(matches!(error, CompileError::Local(_)), "{error}");
        assert!(error.to_string().contains("cannot be started"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_is_no_compiler_is_local_trouble() {
        for script in ["true", "exit 2", "echo this is no code"] {
            let error = error(script).await;
            assert!(matches!(error, CompileError::Local(_)), "{script}: {error}");
        }
    }

    #[tokio::test]
    async fn a_compiler_that_crashes_or_panics_refuses_the_component() {
        for (script, says) in [
            ("echo \"thread 'main' has overflowed its stack\" >&2; kill -ABRT $$", "overflowed its stack"),
            ("kill -SEGV $$", "signal 11"),
            ("echo 'panicked at here: no such block' >&2; exit 101", "no such block"),
        ] {
            let error = error(script).await;
            assert!(matches!(error, CompileError::Ended(_)), "{script}: {error}");
            assert!(error.to_string().contains(says), "{script}: {error}");
        }
    }

    #[tokio::test]
    async fn a_compiler_that_does_not_end_is_ended() {
        let compiler = played("exec sleep 1000", CompileLimits { wall: Duration::from_millis(50), ..LIMITS });
        let error = compiler.compile(b"").await.err().unwrap();
        assert!(matches!(error, CompileError::Local(_)), "{error}");
        assert!(error.to_string().contains("not done after"), "{error}");
    }

    #[tokio::test]
    async fn code_without_end_is_not_taken() {
        let mut compiler = played("exec cat /dev/zero", LIMITS);
        compiler.code_bytes_max = 1 << 20;
        let error = compiler.compile(b"").await.err().unwrap();
        assert!(matches!(error, CompileError::Ended(_)), "{error}");
        assert!(error.to_string().contains("more than 1 MiB of code"), "{error}");
    }
}
