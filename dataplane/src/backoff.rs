//! Waiting times between attempts: doubling, bounded, jittered, so that a thousand nodes that lost
//! the same server do not come back to it in step.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Attempts so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// How long to wait before the next attempt: between half and all of the doubled time.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        // The standard library's hasher keys are its only source of randomness, and enough here.
        let random = RandomState::new().hash_one(self.attempts) % 1000;
        full / 2 + full / 2 * u32::try_from(random).unwrap_or(0) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..100).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits[4] >= FIRST * 8 && waits[4] <= FIRST * 16);
        assert!(waits[99] >= LONGEST / 2 && waits[99] <= LONGEST);
    }
}
