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
    /// Of the request that it serves, sent on.
    is_served: bool,
}

impl FromGuest {
    /// Of a request to the rest of the chain.
    pub(crate) fn served(inner: WasiBody, meter: Arc<Meter>) -> Self {
        Self::new(inner, meter, true)
    }

    /// Of one that the guest makes on its own.
    pub(crate) fn fetching(inner: WasiBody, meter: Arc<Meter>) -> Self {
        Self::new(inner, meter, false)
    }

    fn new(inner: WasiBody, meter: Arc<Meter>, is_served: bool) -> Self {
        let is_open = !inner.is_end_stream();
        if is_open {
            meter.request_opened();
            meter.hands.reads();
        }
        Self { inner, meter, starving: false, is_open, is_served }
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
        let why = match poll {
            Poll::Ready(None) if self.meter.failed() && was_open => "it failed before the end".to_owned(),
            Poll::Ready(None) if was_open && self.inner.size_hint().lower() > 0 => {
                "it is shorter than its content-length".to_owned()
            }
            Poll::Ready(Some(Err(e))) => e.to_string(),
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        if self.is_served {
            self.meter.broke_off();
        }
        Poll::Ready(Some(Err(BodyError::Worker(why))))
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
    use futures::stream;
    use http_body_util::{BodyExt, StreamBody};
    use sluice_config::Limits;

    use super::*;

    #[tokio::test]
    async fn what_breaks_after_the_guest_broke_off_its_request_is_no_excuse() {
        let limits = Limits { cpu_ms: 1_000, wall_ms: 1_000, memory_bytes: 1 << 20 };
        for guest_breaks_off in [false, true] {
            let meter = Arc::new(Meter::new(&limits, &Arc::default()));
            if guest_breaks_off {
                let broken = StreamBody::new(stream::iter([Err(Error::ConnectionTerminated)])).boxed_unsync();
                assert!(FromGuest::served(broken, meter.clone()).frame().await.unwrap().is_err());
            }
            let left = BodyError::Upstream("left".to_owned());
            let broken = StreamBody::new(stream::iter([Err(left.clone())])).boxed_unsync();
            assert!(ToGuest::served(broken, meter.clone()).frame().await.unwrap().is_err());
            assert_eq!(meter.provoked(), (!guest_breaks_off).then_some(left));
        }
    }
}
