//! A body that can be had again: what a reader took of it is kept, up to a limit, and what it did
//! not take is still there.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use sluice_egress::{Body, BodyError, again, empty};

/// What is kept of a body.
pub(crate) const REPLAY_BYTES_MAX: usize = 64 << 10;

/// Gets a body back from whoever reads it.
#[derive(Clone)]
pub(crate) enum Kept {
    /// There was none: nothing to lose.
    Nothing,
    Shared(Arc<Mutex<Shared>>),
}

pub(crate) struct Shared {
    /// Gone once it is had back.
    inner: Option<Body>,
    taken: Keep,
    taken_bytes: usize,
    trailers: Option<http::HeaderMap>,
}

/// What a reader took.
enum Keep {
    Frames(VecDeque<Bytes>),
    /// More than fits, or nobody will ask for it: the body cannot be had again.
    Lost,
}

impl Kept {
    /// Splits a body into one to hand out and the means to have it again.
    pub(crate) fn of(body: Body) -> (Body, Self) {
        if body.is_end_stream() {
            return (body, Self::Nothing);
        }
        let shared = Arc::new(Mutex::new(Shared {
            inner: Some(body),
            taken: Keep::Frames(VecDeque::new()),
            taken_bytes: 0,
            trailers: None,
        }));
        (Reader(shared.clone()).boxed_unsync(), Self::Shared(shared))
    }

    /// The body from its beginning; nothing where too much of it was read. The reader gets no more.
    pub(crate) fn recover(&self) -> Option<Body> {
        let Self::Shared(shared) = self else {
            return Some(empty());
        };
        let mut shared = lock(shared);
        let inner = shared.inner.take()?;
        match std::mem::replace(&mut shared.taken, Keep::Lost) {
            Keep::Lost => None,
            Keep::Frames(taken) => Some(again(taken, shared.trailers.take(), inner)),
        }
    }

    /// Nobody will ask for it again: stop keeping.
    pub(crate) fn release(&self) {
        if let Self::Shared(shared) = self {
            lock(shared).taken = Keep::Lost;
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Keep::Frames(frames) = &mut self.taken else {
            return;
        };
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                self.taken_bytes += data.len();
                if self.taken_bytes > REPLAY_BYTES_MAX {
                    self.taken = Keep::Lost;
                } else {
                    frames.push_back(data.clone());
                }
            }
            (None, Some(trailers)) => self.trailers = Some(trailers.clone()),
            (None, None) => {}
        }
    }
}

struct Reader(Arc<Mutex<Shared>>);

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = lock(&self.0);
        let Some(inner) = shared.inner.as_mut() else {
            let gone = BodyError::Worker("the request goes on without this worker".to_owned());
            return Poll::Ready(Some(Err(gone)));
        };
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => shared.keep(frame),
            // Broken is broken for whoever reads it next, too.
            Some(Err(_)) => shared.taken = Keep::Lost,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).inner.as_ref().is_some_and(|b| b.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).inner.as_ref().map_or_else(SizeHint::default, |b| b.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    fn body(frames: &[&[u8]]) -> Body {
        let frames: Vec<Result<_, BodyError>> =
            frames.iter().map(|f| Ok(Frame::data(Bytes::copy_from_slice(f)))).collect();
        StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
    }

    async fn take(body: &mut Body) -> usize {
        body.frame().await.unwrap().unwrap().into_data().unwrap().len()
    }

    async fn whole(body: Body) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn an_unread_or_partly_read_body_is_had_whole() {
        for reads in 0..=3 {
            let (mut reader, kept) = Kept::of(body(&[b"one ", b"two ", b"three"]));
            for _ in 0..reads {
                take(&mut reader).await;
            }
            assert_eq!(whole(kept.recover().unwrap()).await, "one two three");
            assert!(reader.frame().await.unwrap().is_err());
            assert!(kept.recover().is_none());
        }
    }

    #[tokio::test]
    async fn exactly_the_limit_is_kept_and_one_byte_more_is_not() {
        let full = vec![1; REPLAY_BYTES_MAX];
        let (mut reader, kept) = Kept::of(body(&[&full, b"x"]));
        take(&mut reader).await;
        assert_eq!(whole(kept.recover().unwrap()).await.len(), REPLAY_BYTES_MAX + 1);

        let (mut reader, kept) = Kept::of(body(&[&full, b"x"]));
        take(&mut reader).await;
        take(&mut reader).await;
        assert!(kept.recover().is_none());
    }

    #[tokio::test]
    async fn a_released_body_streams_on_but_is_not_kept() {
        let (mut reader, kept) = Kept::of(body(&[b"one", b"two"]));
        take(&mut reader).await;
        kept.release();
        assert_eq!(whole(reader).await, "two");
        assert!(kept.recover().is_none());
    }

    #[test]
    fn no_body_is_nothing_to_lose() {
        let (_, kept) = Kept::of(empty());
        assert!(kept.recover().is_some());
        assert!(kept.recover().is_some());
    }
}
