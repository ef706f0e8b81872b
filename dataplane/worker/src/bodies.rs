//! Bodies on their way into a guest and out of it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use sluice_egress::{Body, BodyError};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::meter::Meter;

/// A body that the guest reads: tells the meter when the guest waits for it.
pub(crate) struct ToGuest {
    inner: Body,
    meter: Arc<Meter>,
}

impl ToGuest {
    pub(crate) fn new(inner: Body, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl http_body::Body for ToGuest {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let poll = Pin::new(&mut self.inner).poll_frame(cx);
        // A look without a waker is no waiting.
        if poll.is_pending() && !cx.waker().will_wake(Waker::noop()) {
            self.meter.body_waited();
        }
        poll.map_err(|e| {
            self.meter.provoke(&e);
            match e {
                BodyError::Client(_) | BodyError::Upstream(_) => Error::ConnectionTerminated,
                BodyError::Worker(_) => Error::HttpResponseIncomplete,
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body that the guest writes. When the call fails the body breaks off: an end must mean that the
/// guest said so.
pub(crate) struct FromGuest {
    inner: WasiBody,
    meter: Arc<Meter>,
    starving: bool,
}

impl FromGuest {
    pub(crate) fn request(inner: WasiBody, meter: Arc<Meter>) -> Self {
        Self { inner, meter, starving: false }
    }

    fn starve(&mut self, starves: bool) {
        if self.starving != starves {
            self.starving = starves;
            self.meter.starving(starves);
        }
    }
}

impl Drop for FromGuest {
    fn drop(&mut self) {
        self.starve(false);
    }
}

impl http_body::Body for FromGuest {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let ended = self.inner.is_end_stream();
        let poll = Pin::new(&mut self.inner).poll_frame(cx);
        self.starve(poll.is_pending());
        match poll {
            Poll::Ready(None) if self.meter.failed() && !ended => {
                Poll::Ready(Some(Err(BodyError::Worker("it failed before the end".to_owned()))))
            }
            Poll::Ready(Some(Err(e))) => Poll::Ready(Some(Err(BodyError::Worker(e.to_string())))),
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
