//! A response's body that a worker makes, and that breaks off when the snapshot it runs on is to end. It does not hold the
//! snapshot.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use sluice_egress::{Body, BodyError};
use tokio::sync::watch;

type Over = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Ending {
    inner: Body,
    over: watch::Receiver<bool>,
    /// Made when the body is waited for: most are not.
    waits: Option<Over>,
}

pub(crate) fn ending(inner: Body, over: watch::Receiver<bool>) -> Body {
    if inner.is_end_stream() {
        return inner;
    }
    Ending { inner, over, waits: None }.boxed_unsync()
}

async fn is_over(mut over: watch::Receiver<bool>) {
    if over.wait_for(|over| *over).await.is_err() {
        // The snapshot is gone: no worker runs on it, and the rest is the upstream's.
        std::future::pending::<()>().await;
    }
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if !*this.over.borrow()
            && let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx)
        {
            return Poll::Ready(frame);
        }
        let waits = this.waits.get_or_insert_with(|| Box::pin(is_over(this.over.clone())));
        waits.as_mut().poll(cx).map(|()| Some(Err(BodyError::Worker("its revision runs no longer".to_owned()))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
