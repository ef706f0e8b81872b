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

/// Does writes until the API server does not answer: what was not begun by then is left out.
pub async fn writes<T>(work: impl IntoIterator<Item = impl Future<Output = Result<T, WriteError>>>) -> Done<T> {
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
    let mut all = Done { stored: Vec::new(), worst: Ok(()) };
    for done in self::all(guarded).await.into_iter().flatten() {
        match done {
            Ok(stored) => all.stored.push(stored),
            Err(error) => all.worst = WriteError::worse(all.worst, Err(error)),
        }
    }
    all
}

/// What came of writes.
#[derive(Debug)]
pub struct Done<T> {
    /// What was stored, in order.
    pub stored: Vec<T>,
    /// The worst that went wrong.
    pub worst: Result<(), WriteError>,
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
        assert!(done.worst.is_err_and(|error| error.is_unanswered()));
        assert!(done.stored.contains(&2));
        assert!(!done.stored.contains(&99));
    }
}
