//! The body type that listeners, chain, workers and egress pass along, and how one ends badly.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a peer may send nothing in the middle of a message, or take nothing of one.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A body on its way, in either direction.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Who broke off a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The client left or sent what is not HTTP.
    Client(String),
    /// The upstream left or sent what is not HTTP.
    Upstream(String),
    /// The worker that was making it failed.
    Worker(String),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(why) => write!(f, "the client's body broke off: {why}"),
            Self::Upstream(why) => write!(f, "the upstream's body broke off: {why}"),
            Self::Worker(why) => write!(f, "a worker's body broke off: {why}"),
        }
    }
}

impl std::error::Error for BodyError {}

/// A body of nothing.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that breaks off when nothing of it comes for so long while somebody waits for it. Whoever stalls
/// would otherwise hold a connection, a worker and its memory for ever.
pub fn timed<B>(inner: B, limit: Duration, who: fn(String) -> BodyError) -> Body
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static,
{
    if inner.is_end_stream() {
        return empty();
    }
    Timed { inner, limit, who, waits: false, alarm: None }.boxed_unsync()
}

struct Timed<B> {
    inner: B,
    limit: Duration,
    who: fn(String) -> BodyError,
    /// Since the alarm was set, nothing came.
    waits: bool,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin> http_body::Body for Timed<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.waits = false;
            return Poll::Ready(frame);
        }
        let end = Instant::now() + this.limit;
        let alarm = this.alarm.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if !this.waits {
            this.waits = true;
            alarm.as_mut().reset(end);
        }
        alarm.as_mut().poll(cx).map(|()| Some(Err((this.who)(format!("nothing came for {:?}", this.limit)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One frame, then silence.
    struct Stalls {
        sent: bool,
    }

    impl http_body::Body for Stalls {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            if std::mem::replace(&mut self.sent, true) {
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"one")))))
        }
    }

    #[tokio::test]
    async fn a_body_of_which_nothing_comes_breaks_off() {
        let mut body = timed(Stalls { sent: false }.boxed_unsync(), Duration::from_millis(20), BodyError::Client);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error, BodyError::Client("nothing came for 20ms".into()));
    }
}
