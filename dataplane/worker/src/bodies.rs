//! Bodies on their way into a guest and out of it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use sluice_egress::{Body, BodyError};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::meter::Meter;

/// A body that the guest reads: tells the meter when the guest waits for it.
pub(crate) struct ToGuest {
    inner: Body,
    meter: Arc<Meter>,
    /// Part of the request that it serves: who breaks it off answers for what the guest makes of that. What the guest
    /// asked for on its own is its own affair.
    is_served: bool,
}

impl ToGuest {
    /// A body of the request that the guest serves, or of the response from `next`.
    pub(crate) fn served(inner: Body, meter: Arc<Meter>) -> Self {
        Self::new(inner, meter, true)
    }

    /// A body that the guest fetched.
    pub(crate) fn fetched(inner: Body, meter: Arc<Meter>) -> Self {
        Self::new(inner, meter, false)
    }

    fn new(inner: Body, meter: Arc<Meter>, is_served: bool) -> Self {
        meter.hands.take();
        Self { inner, meter, is_served }
    }
}

impl Drop for ToGuest {
    fn drop(&mut self) {
        self.meter.hands.give();
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
            if self.is_served {
                self.meter.provoke(&e);
            }
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
    /// The guest has not said yet how it ends.
    is_open: bool,
}

impl FromGuest {
    pub(crate) fn request(inner: WasiBody, meter: Arc<Meter>) -> Self {
        let is_open = !inner.is_end_stream();
        if is_open {
            meter.request_opened();
            meter.hands.reads();
        }
        Self { inner, meter, starving: false, is_open }
    }

    fn starve(&mut self, starves: bool) {
        if self.starving != starves {
            self.starving = starves;
            self.meter.starving(starves);
        }
    }

    fn close(&mut self) {
        if self.is_open {
            self.is_open = false;
            self.meter.hands.read();
        }
    }
}

impl Drop for FromGuest {
    fn drop(&mut self) {
        self.starve(false);
        self.close();
    }
}

impl http_body::Body for FromGuest {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let waits = self.meter.body_waits();
        let poll = Pin::new(&mut self.inner).poll_frame(cx);
        // What the guest only passes on is not what it owes.
        let owes = self.meter.body_waits() == waits;
        self.starve(poll.is_pending() && owes);
        let ends = matches!(poll, Poll::Ready(None | Some(Err(_))));
        let was_open = self.is_open;
        if ends && was_open {
            self.meter.request_closed();
            self.close();
        }
        match poll {
            Poll::Ready(None) if self.meter.failed() && was_open => {
                Poll::Ready(Some(Err(BodyError::Worker("it failed before the end".to_owned()))))
            }
            Poll::Ready(None) if was_open && self.inner.size_hint().lower() > 0 => {
                Poll::Ready(Some(Err(BodyError::Worker("it is shorter than its content-length".to_owned()))))
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
