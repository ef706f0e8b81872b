//! Calls the rest of the chain in a task of its own. An event loop runs no other one within it, and its meter is its guest's:
//! so neither the chain's work nor the guests that write what comes back run in a poll of a guest.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use sluice_egress::{Body, BodyError, empty};
use tokio::sync::{mpsc, oneshot};
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;

use crate::NextFuture;

/// The same response; its body is read ahead by one frame at most. What is let go of ends with its task.
pub(crate) fn called(next: NextFuture) -> NextFuture {
    let (head_to, head) = oneshot::channel();
    let task = wasmtime_wasi::runtime::spawn(async move {
        let response = match next.await {
            Ok(response) => response,
            Err(error) => {
                let _nobody_waits = head_to.send(Err(error));
                return;
            }
        };
        let (parts, body) = response.into_parts();
        if body.is_end_stream() {
            let _nobody_waits = head_to.send(Ok((parts, None)));
            return;
        }
        let (frames_to, frames) = mpsc::channel(1);
        let hint = body.size_hint();
        if head_to.send(Ok((parts, Some((frames, hint))))).is_ok() {
            pass_on(body, &frames_to).await;
        }
    });
    Box::pin(async move {
        match head.await {
            Ok(Ok((parts, None))) => Ok(http::Response::from_parts(parts, empty())),
            Ok(Ok((parts, Some((frames, hint))))) => {
                let body = Passed { frames, hint, is_over: false, _task: task };
                Ok(http::Response::from_parts(parts, body.boxed_unsync()))
            }
            Ok(Err(error)) => Err(error),
            // Its task panicked.
            Err(_gone) => Err(sluice_egress::EgressError::Budget),
        }
    })
}

async fn pass_on(mut body: Body, to: &mpsc::Sender<Option<Result<Frame<Bytes>, BodyError>>>) {
    // Asked for only where there is room: what nobody reads is not made.
    while let Ok(room) = to.reserve().await {
        let frame = body.frame().await;
        if !matches!(frame, Some(Ok(_))) || body.size_hint().exact() == Some(0) {
            // What it holds of others is let go before anybody hears that it is over.
            drop(body);
            room.send(frame);
            return;
        }
        room.send(frame);
    }
}

struct Passed {
    /// The last one says that it is: nothing, an error, or all that was promised.
    frames: mpsc::Receiver<Option<Result<Frame<Bytes>, BodyError>>>,
    hint: SizeHint,
    is_over: bool,
    _task: AbortOnDropJoinHandle<()>,
}

impl http_body::Body for Passed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let frame = ready!(self.frames.poll_recv(cx)).unwrap_or_else(|| {
            // Its task panicked.
            Some(Err(BodyError::Worker("what made it is gone".to_owned())))
        });
        match &frame {
            Some(Ok(frame)) => {
                let read = frame.data_ref().map_or(0, |data| data.len() as u64);
                let mut hint = SizeHint::new();
                hint.set_lower(self.hint.lower().saturating_sub(read));
                if let Some(upper) = self.hint.upper() {
                    hint.set_upper(upper.saturating_sub(read));
                }
                self.hint = hint;
                self.is_over = hint.exact() == Some(0);
            }
            None | Some(Err(_)) => self.is_over = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use http::Response;
    use http_body_util::StreamBody;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn a_body_is_made_as_it_is_read_and_let_go_with_its_reader() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let frames = futures::stream::repeat_with(move || {
            count.fetch_add(1, SeqCst);
            Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"frame")))
        });
        let mut body =
            called(Box::pin(async { Ok(Response::new(StreamBody::new(frames).boxed_unsync())) })).await.unwrap();
        for read in 1..=3 {
            assert!(body.body_mut().frame().await.unwrap().is_ok());
            for _ in 0..100 {
                yield_now().await;
            }
            assert_eq!(made.load(SeqCst), read + 1, "one is ready");
        }
        drop(body);
        while Arc::strong_count(&made) > 1 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_body_breaks_off_as_it_did_and_keeps_its_length() {
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"part"))),
            Err(BodyError::Upstream("it left".into())),
            Ok(Frame::data(Bytes::from_static(b"never read"))),
        ];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        let mut body = called(Box::pin(async { Ok(Response::new(body)) })).await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        assert!(matches!(body.frame().await, Some(Err(BodyError::Upstream(_)))));
        assert!(body.frame().await.is_none());
        let mut whole =
            called(Box::pin(async { Ok(Response::new(sluice_egress::full("whole"))) })).await.unwrap().into_body();
        assert_eq!(whole.size_hint().exact(), Some(5));
        assert!(whole.frame().await.unwrap().is_ok());
        assert!(whole.is_end_stream());
        assert!(whole.frame().await.is_none());
    }
}
