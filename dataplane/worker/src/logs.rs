//! What a guest writes to stdout and stderr: log lines with its unit, revision and group.

use std::{
    io,
    pin::Pin,
    sync::Arc,
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
/// What a call writes beyond this is dropped, and said once.
const CALL_BYTES_MAX: usize = 32 << 10;

/// One of a guest's two streams.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) identity: Arc<Identity>,
    pub(crate) stream: &'static str,
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
    written: usize,
}

impl Lines {
    fn new(log: Log) -> Self {
        Self { log, line: Vec::new(), written: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        let before = self.written;
        self.written = self.written.saturating_add(bytes.len());
        if before > CALL_BYTES_MAX {
            return;
        }
        if self.written > CALL_BYTES_MAX {
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
