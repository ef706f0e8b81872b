//! What came back from a worker's `next` calls: whose it was, and, for `onFailure: open`, the response
//! itself, so that it can be passed on when the worker fails with it in its hands.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use sluice_egress::{Body, BodyError};

use crate::{
    passage::{Maker, Reply, ReplyFuture},
    replay::Kept,
};

/// Status and maker of the last response that a worker got from `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) maker: Maker,
}

/// The last `next` call of a worker.
pub(crate) struct Inner {
    keeps: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    called: bool,
    seen: Option<Seen>,
    last: Option<(Arc<Mutex<Last>>, Upload)>,
}

/// A `next` call that can be taken over.
enum Last {
    /// Under way.
    Open(ReplyFuture),
    /// Given to the worker, and kept.
    Given {
        status: StatusCode,
        headers: HeaderMap,
        body: Kept,
        maker: Maker,
    },
    Gone,
}

/// What is left of a worker's last `next` call once the worker is gone.
pub(crate) enum Recovered {
    /// Its response, whole.
    Reply(Reply),
    /// Nothing went upstream, and the rest of what it would have sent is gone with the worker: as good
    /// as never made.
    Unsent,
    /// There is no response, and no other way to one.
    Lost,
}

impl Inner {
    pub(crate) fn new(keeps: bool) -> Arc<Self> {
        Arc::new(Self { keeps, state: Mutex::default() })
    }

    pub(crate) fn was_called(&self) -> bool {
        self.state().called
    }

    pub(crate) fn seen(&self) -> Option<Seen> {
        self.state().seen
    }

    /// Nobody will ask for the response again.
    pub(crate) fn release(&self) {
        let last = self.state().last.take();
        if let Some((last, _)) = last
            && let Last::Given { body, .. } = &*lock(&last)
        {
            body.release();
        }
    }

    /// Begins a `next` call; the worker may give up waiting, even before it is first polled: the call
    /// goes on when it is recovered.
    pub(crate) fn begin(
        self: Arc<Self>,
        reply: ReplyFuture,
        upload: Upload,
        sender: usize,
    ) -> impl Future<Output = Response<Body>> + Send {
        self.state().called = true;
        let reply: ReplyFuture = if self.keeps {
            let last = Arc::new(Mutex::new(Last::Open(reply)));
            self.state().last = Some((last.clone(), upload));
            Box::pin(poll_fn(move |cx| lock(&last).poll_given(cx)))
        } else {
            reply
        };
        async move { self.saw(reply.await, sender) }
    }

    fn saw(&self, reply: Reply, sender: usize) -> Response<Body> {
        // A body that broke off was this worker's.
        let maker = if matches!(reply.maker, Maker::Sender) { Maker::Worker(sender) } else { reply.maker };
        self.state().seen = Some(Seen { status: reply.response.status(), maker });
        reply.response
    }

    /// Takes the last `next` call from the hands of a worker that failed.
    pub(crate) async fn recover(&self, went_upstream: impl Fn() -> bool) -> Recovered {
        let Some((last, upload)) = self.state().last.take() else {
            return Recovered::Lost;
        };
        {
            // With the lock nobody else drives the call: what has not gone upstream stays here.
            let mut last = lock(&last);
            if matches!(*last, Last::Open(_)) && !upload.is_done() && !went_upstream() {
                *last = Last::Gone;
                return Recovered::Unsent;
            }
        }
        match poll_fn(|cx| lock(&last).poll_taken(cx)).await {
            // A body that broke off was this worker's.
            Some(reply) if matches!(reply.maker, Maker::Sender) => Recovered::Lost,
            Some(reply) => Recovered::Reply(reply),
            None => Recovered::Lost,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Last {
    /// For the worker: a response whose body can be had again.
    fn poll_given(&mut self, cx: &mut Context<'_>) -> Poll<Reply> {
        let Self::Open(reply) = self else {
            // Taken over: the worker that waits here is gone.
            return Poll::Pending;
        };
        let Reply { response, maker } = ready!(reply.as_mut().poll(cx));
        let (parts, body) = response.into_parts();
        let (body, kept) = Kept::of(body);
        *self = Self::Given { status: parts.status, headers: parts.headers.clone(), body: kept, maker };
        Poll::Ready(Reply { response: Response::from_parts(parts, body), maker })
    }

    /// For the chain, when the worker is gone.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        match self {
            Self::Open(reply) => {
                let reply = ready!(reply.as_mut().poll(cx));
                *self = Self::Gone;
                Poll::Ready(Some(reply))
            }
            Self::Given { body, .. } => {
                let body = body.recover();
                let Self::Given { status, headers, maker, .. } = std::mem::replace(self, Self::Gone) else {
                    return Poll::Ready(None);
                };
                Poll::Ready(body.map(|body| {
                    let mut response = Response::new(body);
                    *response.status_mut() = status;
                    *response.headers_mut() = headers;
                    Reply { response, maker }
                }))
            }
            Self::Gone => Poll::Ready(None),
        }
    }
}

/// Whether the body that a worker sends on is still to come: once the worker is gone, it breaks off.
#[derive(Clone)]
pub(crate) struct Upload {
    done: Arc<AtomicBool>,
}

impl Upload {
    /// Follows the request's body.
    pub(crate) fn follow(request: Request<Body>) -> (Request<Body>, Self) {
        let upload = Self { done: Arc::new(AtomicBool::new(request.body().is_end_stream())) };
        if upload.is_done() {
            return (request, upload);
        }
        let done = upload.done.clone();
        (request.map(|inner| Followed { inner, done }.boxed_unsync()), upload)
    }

    fn is_done(&self) -> bool {
        self.done.load(Relaxed)
    }
}

struct Followed {
    inner: Body,
    done: Arc<AtomicBool>,
}

/// Nobody wants more of it.
impl Drop for Followed {
    fn drop(&mut self) {
        self.done.store(true, Relaxed);
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if frame.is_none() || self.inner.is_end_stream() {
            self.done.store(true, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
