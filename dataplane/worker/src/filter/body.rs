//! A body in a guest's hands: read whole when it is asked for, and never lost.

use std::{collections::VecDeque, future::poll_fn, pin::Pin};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::{BodyExt, StreamBody};
use sluice_egress::{Body, BodyError, again, empty};

use super::bindings::sluice::worker::types::BodyError as NoBody;
use crate::meter::Meter;

/// The most that a guest can ask for, and answer with.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

pub(super) struct BodyHeld {
    /// Gone at its end, or where it broke off.
    rest: Option<Body>,
    taken: VecDeque<Bytes>,
    taken_bytes: usize,
    trailers: Option<HeaderMap>,
    broken: Option<BodyError>,
}

impl BodyHeld {
    pub(super) fn new(body: Body) -> Self {
        Self { rest: Some(body), taken: VecDeque::new(), taken_bytes: 0, trailers: None, broken: None }
    }

    /// All of it, if that is not too much.
    pub(super) async fn whole(&mut self, limit: u32, meter: &Meter) -> Result<Vec<u8>, NoBody> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(BODY_BYTES_MAX);
        while self.rest.is_some() && self.taken_bytes <= limit {
            let promised = self.rest.as_ref().map_or(0, |rest| rest.size_hint().lower());
            // Said before it was sent: nothing is read in vain.
            if promised > (limit - self.taken_bytes) as u64 {
                return Err(NoBody::TooLarge);
            }
            self.read(meter).await;
        }
        if self.broken.is_some() {
            return Err(NoBody::BrokenOff);
        }
        if self.taken_bytes > limit {
            return Err(NoBody::TooLarge);
        }
        let mut whole = Vec::with_capacity(self.taken_bytes);
        for chunk in &self.taken {
            whole.extend_from_slice(chunk);
        }
        Ok(whole)
    }

    /// One piece more of it.
    async fn read(&mut self, meter: &Meter) {
        let Some(rest) = self.rest.as_mut() else {
            return;
        };
        let frame = poll_fn(|cx| {
            let polled = Pin::new(&mut *rest).poll_frame(cx);
            if polled.is_pending() {
                meter.body_waited();
            }
            polled
        });
        match frame.await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.taken_bytes += data.len();
                    self.taken.push_back(data);
                }
                Err(frame) => self.trailers = frame.into_trailers().ok().or(self.trailers.take()),
            },
            Some(Err(error)) => {
                meter.provoke(&error);
                self.broken = Some(error);
                self.rest = None;
            }
            None => self.rest = None,
        }
    }

    /// The body as it was, or as much of it as there is.
    pub(super) fn give_back(self) -> Body {
        let rest = match (self.rest, self.broken) {
            (Some(rest), _) => rest,
            (None, Some(error)) => StreamBody::new(futures::stream::iter([Err(error)])).boxed_unsync(),
            (None, None) => empty(),
        };
        if self.taken.is_empty() && self.trailers.is_none() {
            return rest;
        }
        again(self.taken, self.trailers, rest)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body::Frame;
    use sluice_config::Limits;

    use super::*;

    fn meter() -> Meter {
        Meter::new(&Limits { cpu_ms: 1_000, wall_ms: 1_000, memory_bytes: 1 << 20 }, &Arc::default())
    }

    fn body(frames: Vec<Result<&'static [u8], BodyError>>) -> BodyHeld {
        let frames = frames.into_iter().map(|f| f.map(|data| Frame::data(Bytes::from_static(data))));
        BodyHeld::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync())
    }

    async fn collected(held: BodyHeld) -> Result<Bytes, BodyError> {
        held.give_back().collect().await.map(http_body_util::Collected::to_bytes)
    }

    #[tokio::test]
    async fn a_body_is_had_whole_again_and_again_and_goes_on_whole() {
        let mut held = body(vec![Ok(b"one "), Ok(b"two")]);
        assert_eq!(held.whole(3, &meter()).await, Err(NoBody::TooLarge));
        assert_eq!(held.whole(7, &meter()).await.unwrap(), b"one two");
        assert_eq!(held.whole(u32::MAX, &meter()).await.unwrap(), b"one two");
        assert_eq!(held.whole(6, &meter()).await, Err(NoBody::TooLarge));
        assert_eq!(collected(held).await.unwrap(), "one two");
        assert_eq!(collected(body(vec![Ok(b"unread")])).await.unwrap(), "unread");
    }

    #[tokio::test]
    async fn what_is_promised_to_be_too_large_is_not_read() {
        let mut held = BodyHeld::new(sluice_egress::full(vec![0; BODY_BYTES_MAX + 1]));
        assert_eq!(held.whole(u32::MAX, &meter()).await, Err(NoBody::TooLarge));
        assert_eq!(held.taken_bytes, 0);
    }

    #[tokio::test]
    async fn what_broke_off_breaks_off_again_where_it_did() {
        let meter = meter();
        let error = BodyError::Client("left".into());
        let mut held = body(vec![Ok(b"half"), Err(error.clone())]);
        assert_eq!(held.whole(100, &meter).await, Err(NoBody::BrokenOff));
        assert_eq!(meter.provoked(), Some(error.clone()));
        assert_eq!(collected(held).await.unwrap_err(), error);
    }
}
