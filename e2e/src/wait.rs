//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const POLL_INTERVAL: Duration = Duration::from_millis(150);

/// What one look at the world found.
#[derive(Debug)]
pub enum Look<T> {
    /// The condition holds.
    Done(T),
    /// Not yet, and why: the last reason is part of the error.
    NotYet(String),
}

/// Polls until the condition holds. An error from `look` ends the wait at once: use it for what can no longer change.
pub async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Look<T>>>,
{
    let start = Instant::now();
    loop {
        match look().await? {
            Look::Done(value) => return Ok(value),
            Look::NotYet(why) if start.elapsed() >= limit => {
                bail!("gave up waiting for {what} after {} s: {why}", limit.as_secs());
            }
            Look::NotYet(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

/// The same for callers without a runtime, such as the removal of a cluster.
pub fn until_blocking<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Look<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Look::Done(value) => return Ok(value),
            Look::NotYet(why) if start.elapsed() >= limit => {
                bail!("gave up waiting for {what} after {} s: {why}", limit.as_secs());
            }
            Look::NotYet(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_up_with_the_last_reason() {
        let never = until::<(), _>("rain", Duration::ZERO, || async { Ok(Look::NotYet("sunny".to_owned())) }).await;
        let error = never.expect_err("it never rains");
        assert!(error.to_string().contains("rain"), "{error}");
        assert!(error.to_string().contains("sunny"), "{error}");
    }

    #[tokio::test]
    async fn returns_what_was_found() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(5), || {
            looks += 1;
            let seen = looks;
            async move { Ok(if seen == 3 { Look::Done(seen) } else { Look::NotYet(String::new()) }) }
        })
        .await;
        assert_eq!(found.expect("found"), 3);
    }
}
