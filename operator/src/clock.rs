//! The operator's clock. It never jumps, and where this machine's is wrong it follows the API server's, so that
//! what one leader stored about time means the same to the next.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use http::header::DATE;
use jiff::Timestamp;
use kube::Client;
use sluice_rollout::Time;

/// The API server tells its time in whole seconds; nearer than this counts as the same.
const TOLERANCE_MS: i64 = 5_000;
/// So long the API server may take to tell.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Nothing that is decided waits for it more often.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Cheap to clone; all clones are one clock.
#[derive(Clone, Debug)]
pub struct Clock(Arc<RwLock<Anchor>>);

#[derive(Clone, Copy, Debug)]
struct Anchor {
    time: Time,
    at: Instant,
    /// How far this machine's clock was ahead then.
    ahead_ms: i64,
    /// Whether the API server was asked; after no answer it is asked again later.
    asked: bool,
    ask_after: Option<Instant>,
    watching_since: Time,
}

impl Anchor {
    fn here() -> Self {
        let time = machine();
        Self { time, at: Instant::now(), ahead_ms: 0, asked: false, ask_after: None, watching_since: time }
    }

    /// This machine's time, which has milliseconds, unless it is far from the server's.
    fn of(server: Time, machine: Time, at: Instant) -> Self {
        let ahead_ms = machine.0 - server.0;
        let is_off = ahead_ms.abs() > TOLERANCE_MS;
        let (time, ahead_ms) = if is_off { (server, ahead_ms) } else { (machine, 0) };
        Self { time, at, ahead_ms, asked: true, ask_after: None, watching_since: time }
    }

    fn now(&self) -> Time {
        self.time.after(self.at.elapsed())
    }

    /// Whether a machine's clock that shows this has jumped since.
    fn has_jumped(&self, machine: Time) -> bool {
        (machine.0 - self.now().0 - self.ahead_ms).abs() > TOLERANCE_MS
    }
}

fn machine() -> Time {
    Time(Timestamp::now().as_millisecond())
}

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Anchor::here())))
    }
}

impl Clock {
    fn anchor(&self) -> Anchor {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.anchor().now()
    }

    /// Until then, from now on.
    #[must_use]
    pub fn until(&self, then: Time) -> Duration {
        then.since(self.now())
    }

    /// Since when this clock has gone evenly: times before that are another's.
    #[must_use]
    pub fn watching_since(&self) -> Time {
        self.anchor().watching_since
    }

    /// A new leader begins: what was watched before, another watched.
    pub fn begin(&self) {
        let now = self.now();
        let mut anchor = self.0.write().unwrap_or_else(PoisonError::into_inner);
        anchor.asked = false;
        anchor.watching_since = now;
    }

    /// Compares with the API server, once a leader and whenever this machine's clock has jumped.
    pub async fn keep(&self, client: &Client) {
        let anchor = self.anchor();
        let soon = anchor.ask_after.is_some_and(|after| Instant::now() < after);
        if soon || (anchor.asked && !anchor.has_jumped(machine())) {
            return;
        }
        let answer = tokio::time::timeout(TIMEOUT, server_time(client)).await;
        let server = match answer.unwrap_or_else(|_| Err(format!("no answer in {TIMEOUT:?}"))) {
            Ok(time) => time,
            Err(error) => {
                tracing::warn!(error, "the API server does not tell its time");
                let mut anchor = self.0.write().unwrap_or_else(PoisonError::into_inner);
                anchor.ask_after = Some(Instant::now() + ASK_AGAIN);
                return;
            }
        };
        let next = Anchor::of(server, machine(), Instant::now());
        if next.ahead_ms != 0 {
            let seconds_ahead = next.ahead_ms / 1000;
            tracing::warn!(seconds_ahead, "this machine's clock is wrong: following the API server's");
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

/// What every answer of an API server carries.
async fn server_time(client: &Client) -> Result<Time, String> {
    let request = http::Request::get("/version").body(kube::client::Body::empty());
    let request = request.map_err(|error| error.to_string())?;
    let response = client.send(request).await.map_err(|error| error.to_string())?;
    let date = response.headers().get(DATE).ok_or("no Date in its answer")?;
    read_date(date.to_str().map_err(|error| error.to_string())?)
}

fn read_date(date: &str) -> Result<Time, String> {
    let time = jiff::fmt::rfc2822::parse(date).map_err(|error| format!("Date `{date}`: {error}"))?;
    Ok(Time(time.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Time = Time(1_795_435_200_000);

    #[test]
    fn a_date_is_read() {
        assert_eq!(read_date("Mon, 23 Nov 2026 12:00:00 GMT"), Ok(NOON));
        assert!(read_date("noon").is_err());
    }

    #[test]
    fn a_wrong_clock_follows_the_api_server_and_a_right_one_keeps_its_milliseconds() {
        let hour_ahead = NOON.after(Duration::from_secs(3600));
        let wrong = Anchor::of(NOON, hour_ahead, Instant::now());
        assert!(wrong.now().since(NOON) < Duration::from_secs(60));
        let right = Anchor::of(NOON, NOON.after(Duration::from_millis(700)), Instant::now());
        assert_eq!(right.watching_since, NOON.after(Duration::from_millis(700)));
    }

    #[test]
    fn a_jump_is_seen_whether_or_not_the_clock_was_right() {
        let hour_ahead = NOON.after(Duration::from_secs(3600));
        let wrong = Anchor::of(NOON, hour_ahead, Instant::now());
        assert!(!wrong.has_jumped(hour_ahead));
        assert!(wrong.has_jumped(NOON));
        let right = Anchor::of(NOON, NOON, Instant::now());
        assert!(!right.has_jumped(NOON));
        assert!(right.has_jumped(hour_ahead));
    }
}
