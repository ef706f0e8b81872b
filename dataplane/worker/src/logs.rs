//! What a guest writes to stdout and stderr: log lines with its unit, revision and group.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use crate::Identity;

/// A longer line is cut.
const LINE_BYTES_MAX: usize = 4 << 10;
/// What a call writes beyond this, to both streams together, is dropped, and said once.
const CALL_BYTES_MAX: usize = 32 << 10;

/// What the call that runs has written. An instance that serves more than one keeps its streams, but each call has its own limit.
#[derive(Default)]
pub(crate) struct Logged {
    call: AtomicU64,
    bytes: AtomicUsize,
}

impl Logged {
    /// Another call begins.
    pub(crate) fn begin(&self) {
        self.call.fetch_add(1, Relaxed);
        self.bytes.store(0, Relaxed);
    }
}

/// One of a guest's two streams.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) identity: Arc<Identity>,
    pub(crate) stream: &'static str,
    pub(crate) logged: Arc<Logged>,
}

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines::new(self.clone()))
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines::new(self.clone()))
    }
}

struct Lines {
    log: Log,
    line: Vec<u8>,
    /// Whose the line is.
    call: u64,
}

impl Lines {
    fn new(log: Log) -> Self {
        let call = log.logged.call.load(Relaxed);
        Self { log, line: Vec::new(), call }
    }

    fn take(&mut self, bytes: &[u8]) {
        let call = self.log.logged.call.load(Relaxed);
        if self.call != call {
            // An earlier call did not end its line: this one does not go on with it.
            self.end_line();
            self.call = call;
        }
        let before = self.log.logged.bytes.fetch_add(bytes.len(), Relaxed);
        if before > CALL_BYTES_MAX {
            return;
        }
        if before.saturating_add(bytes.len()) > CALL_BYTES_MAX {
            self.end_line();
            self.say("(more is dropped: a call may write 32 KiB)");
            return;
        }
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            self.say(&String::from_utf8_lossy(&line));
        }
    }

    fn say(&self, line: &str) {
        if !self.log.identity.may_log() {
            return;
        }
        let Identity { unit, revision, group, .. } = &*self.log.identity;
        tracing::info!(
            target: "sluice::worker",
            %unit,
            %revision,
            %group,
            stream = self.log.stream,
            "{line}"
        );
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end_line();
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_BYTES_MAX)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Lines {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use sluice_config::{Digest, UnitKind, UnitRef};

    use super::*;

    fn lines() -> Lines {
        let identity = Identity {
            unit: UnitRef::new(UnitKind::Worker, "team", "noisy"),
            revision: Digest::of(b"noisy"),
            group: "canary".into(),
            log: Arc::default(),
            cpu_ns: Arc::default(),
        };
        Lines::new(Log { identity: Arc::new(identity), stream: "stdout", logged: Arc::default() })
    }

    #[test]
    fn each_call_has_its_own_limit_and_its_own_lines() {
        let mut lines = lines();
        lines.take(b"half a line");
        lines.log.logged.begin();
        assert_eq!(lines.line, b"half a line");
        lines.take(b"another");
        assert_eq!(lines.line, b"another", "it is no part of the earlier call's");
        lines.take(&[b'x'; CALL_BYTES_MAX]);
        assert!(lines.line.is_empty(), "it wrote too much");
        lines.take(b"nobody hears this");
        assert!(lines.line.is_empty());
        lines.log.logged.begin();
        lines.take(b"and this is heard");
        assert_eq!(lines.line, b"and this is heard");
    }

    #[test]
    fn both_streams_have_one_limit() {
        let mut one = lines();
        let mut two = Lines::new(one.log.clone());
        one.take(&[b'x'; CALL_BYTES_MAX]);
        two.take(b"more");
        assert!(two.line.is_empty());
    }
}
