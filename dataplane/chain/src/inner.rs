//! What came back from a worker's `next` calls: whose it was, and, for `onFailure: open`, the response
//! itself, so that it can be passed on when the worker fails with it in its hands.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Response, StatusCode};
use sluice_egress::Body;

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
    last: Option<Arc<Mutex<Last>>>,
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
        if let Some(last) = last
            && let Last::Given { body, .. } = &*lock(&last)
        {
            body.release();
        }
    }

    /// Runs a `next` call; the worker may give up waiting, the call goes on when it is recovered.
    pub(crate) async fn run(self: Arc<Self>, reply: ReplyFuture, sender: usize) -> Response<Body> {
        let reply = if self.keeps {
            let last = Arc::new(Mutex::new(Last::Open(reply)));
            self.state().last = Some(last.clone());
            poll_fn(|cx| lock(&last).poll_given(cx)).await
        } else {
            reply.await
        };
        // A body that broke off was this worker's.
        let maker = if matches!(reply.maker, Maker::Sender) { Maker::Worker(sender) } else { reply.maker };
        self.state().seen = Some(Seen { status: reply.response.status(), maker });
        reply.response
    }

    /// Marks that `next` was called, from before it runs.
    pub(crate) fn called(&self) {
        self.state().called = true;
    }

    /// The response of the last `next` call, whole, from the worker's hands.
    pub(crate) async fn recover(&self) -> Option<Reply> {
        let last = self.state().last.take()?;
        poll_fn(|cx| lock(&last).poll_taken(cx)).await
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
