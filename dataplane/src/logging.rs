//! Structured logs: one JSON object a line, on standard output.
//!
//! A thread of its own writes them. When whoever reads standard output is slow, lines are dropped and counted;
//! requests, and the way back, wait for nobody's logs.

use std::{io, time::Duration};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt};

/// Lines that wait to be written. The longest that a guest can make are about 5 KiB: 20 MiB at worst.
const WAITING_MAX: usize = 4_096;
/// How often lost lines are told of, if there are any.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The log; what waits is written when it is dropped.
pub(crate) struct Log {
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

/// Sets up logging, once.
pub(crate) fn init(filter: &str) -> anyhow::Result<Log> {
    let filter = EnvFilter::try_new(filter)?;
    let (writer, guard) = writer(io::stdout(), WAITING_MAX);
    let log = Log { dropped: writer.error_counter(), _writer: guard };
    fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(writer)
        .try_init()
        .map_err(|e| anyhow::anyhow!("cannot set up logging: {e}"))?;
    Ok(log)
}

fn writer(to: impl io::Write + Send + 'static, waiting_max: usize) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(waiting_max).thread_name("log").finish(to)
}

impl Log {
    /// Tells of lost lines, for as long as the process runs.
    pub(crate) fn tell_lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let dropped = self.dropped.clone();
        async move {
            let mut told = 0;
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                let lost = dropped.dropped_lines();
                if lost > told {
                    tracing::warn!(lines = lost - told, "log lines were lost: they are not read fast enough");
                    told = lost;
                }
            }
        }
    }
}

/// As a number in the log: wider integers come out as text.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// As a number in the log.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, sync::mpsc};

    use super::*;

    /// Takes nothing until the test lets it.
    struct Stuck(mpsc::Receiver<()>);

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _released = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let (release, held) = mpsc::channel();
        let (mut log, guard) = writer(Stuck(held), 8);
        for _ in 0..100 {
            log.write_all(b"a line\n").unwrap();
        }
        assert!(log.error_counter().dropped_lines() >= 90);
        drop(release);
        drop(guard);
    }
}
