//! Runs something of a guest's to its end or to its limits.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::time::{self, Sleep, sleep};

use crate::{Failure, Outcome, failure, meter::Meter};

/// Wakes a call when its wall limit may be over.
#[derive(Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether a guest that waits is over a limit; if not, when to look again.
    pub(crate) fn poll(&mut self, meter: &Meter, cx: &mut Context<'_>) -> Poll<Failure> {
        loop {
            if let Some(limit) = meter.exceeded() {
                return Poll::Ready(Failure {
                    outcome: limit.outcome(),
                    why: format!("over its {limit:?} limit while it waited").to_lowercase(),
                    provoked: None,
                });
            }
            let Some(patience) = meter.patience() else {
                self.0 = None;
                return Poll::Pending;
            };
            let alarm = match &mut self.0 {
                Some(alarm) => {
                    alarm.as_mut().reset(time::Instant::now() + patience);
                    alarm
                }
                None => self.0.insert(Box::pin(sleep(patience))),
            };
            ready!(alarm.as_mut().poll(cx));
            meter.settle();
        }
    }
}

/// What the guest returns, or why it did not. What it has borrowed is free again then.
pub(crate) async fn metered<T>(
    meter: &Meter,
    mut guest: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
) -> Result<T, Failure> {
    let mut alarm = Alarm::default();
    // Clocks are read as seldom as that is right: to read one takes a hundredth of a small guest's call.
    let mut begins = Some(meter.began());
    poll_fn(|cx| {
        meter.resume(begins.take().unwrap_or_else(Instant::now));
        let polled = guest.as_mut().poll(cx);
        meter.suspend();
        match polled {
            Poll::Ready(Ok(value)) => Poll::Ready(Ok(value)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(failure::judge(&error, meter).unwrap_or_else(|| Failure {
                outcome: Outcome::Invalid,
                why: "it exited without an answer".to_owned(),
                provoked: meter.provoked(),
            }))),
            Poll::Pending => alarm.poll(meter, cx).map(Err),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::Arc};

    use sluice_config::Limits;

    use super::*;

    #[tokio::test]
    async fn what_waits_for_ever_is_ended() {
        let limits = Limits { cpu_ms: 1_000, wall_ms: 20, memory_bytes: 1 << 20 };
        let meter = Meter::new(&limits, &Arc::default());
        let failure = metered::<()>(&meter, pin!(std::future::pending())).await.unwrap_err();
        assert_eq!(failure.outcome, Outcome::Wall);
    }
}
