//! Many writes that do not wait for each other: begun in order, so many at a time.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, stream};

use crate::writer::WriteError;

/// An API server is asked for so much at once by one caller: more only makes other callers wait.
const AT_ONCE: usize = 8;

/// Does all of it; what came of each, in order.
pub async fn all<T>(work: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    stream::iter(work).buffered(AT_ONCE).collect().await
}

/// Does writes until the API server does not answer; what came of each, in order: nothing of what was not begun by then.
pub async fn writes<T>(work: impl IntoIterator<Item = impl Future<Output = Written<T>>>) -> Vec<Option<Written<T>>> {
    let is_silent = AtomicBool::new(false);
    let guarded = work.into_iter().map(|write| async {
        if is_silent.load(Ordering::Relaxed) {
            return None;
        }
        let done = write.await;
        if done.as_ref().is_err_and(WriteError::is_unanswered) {
            is_silent.store(true, Ordering::Relaxed);
        }
        Some(done)
    });
    all(guarded).await
}

/// What came of a write.
pub type Written<T> = Result<T, WriteError>;

/// The worst that went wrong.
///
/// # Errors
/// That.
pub fn worst<T>(done: impl IntoIterator<Item = Option<Written<T>>>) -> Written<()> {
    let mut worst = Ok(());
    for done in done.into_iter().flatten() {
        worst = WriteError::worse(worst, done.map(drop));
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_conflict_stops_no_other_write_and_silence_does() {
        let conflict = || WriteError::Conflict { what: "Unit a".to_owned() };
        let silence = || WriteError::Api {
            what: "Unit b".to_owned(),
            source: Box::new(kube::Error::Service("connection refused".into())),
        };
        let outcome = |number: usize| match number {
            1 => Err(conflict()),
            20 => Err(silence()),
            number => Ok(number),
        };
        let done = writes((0..100).map(|number| std::future::ready(outcome(number)))).await;
        assert!(matches!(done[1], Some(Err(WriteError::Conflict { .. }))));
        assert!(matches!(done[2], Some(Ok(2))));
        assert!(done[99].is_none());
        assert!(worst(done).is_err_and(|error| error.is_unanswered()));
    }
}
