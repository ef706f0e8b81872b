//! Rates of a unit's bindings, counted by this node: the generic cell rate algorithm (ITU-T I.371), a time for each key.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;

/// Keys of one binding; the one that was not used for longest is forgotten first.
const KEYS_MAX: usize = 10_000;

/// A rate, and who has used how much of it.
pub(crate) struct Rate {
    pub(crate) requests: u32,
    pub(crate) per: Duration,
    /// When each key would have used up what it took, at an even pace. Takes memory as keys come, up to the limit.
    until: Mutex<LruCache<String, Instant>>,
}

impl Rate {
    pub(crate) fn new(requests: u32, per: Duration) -> Self {
        Self { requests: requests.max(1), per, until: Mutex::new(LruCache::unbounded()) }
    }

    /// Takes one for this key: nothing where it could, else how long until it can.
    pub(crate) fn take(&self, key: &str, now: Instant) -> Option<Duration> {
        let one = self.per / self.requests;
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let used = until.get(key).map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let wait = (used + one).saturating_sub(self.per);
        if wait > Duration::ZERO {
            return Some(wait);
        }
        match until.get_mut(key) {
            Some(known) => *known = now + used + one,
            None => {
                if until.len() >= KEYS_MAX {
                    until.pop_lru();
                }
                until.put(key.to_owned(), now + one);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_one_after_the_other() {
        let (rate, start) = (Rate::new(3, Duration::from_secs(3)), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for _ in 0..3 {
            assert_eq!(rate.take("a", start), None);
        }
        assert_eq!(rate.take("a", start), Some(Duration::from_secs(1)));
        assert_eq!(rate.take("b", start), None, "another key has its own");
        assert_eq!(rate.take("a", at(999)), Some(Duration::from_millis(1)));
        assert_eq!(rate.take("a", at(1_000)), None);
        assert_eq!(rate.take("a", at(1_000)), Some(Duration::from_secs(1)));
        // What was not used for long is there again, and no more than that.
        let taken = (0..10).filter(|_| rate.take("a", at(1_000_000)).is_none()).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn the_key_that_was_not_used_for_longest_is_forgotten() {
        let (rate, now) = (Rate::new(1, Duration::from_secs(60)), Instant::now());
        assert_eq!(rate.take("first", now), None);
        assert_eq!(rate.take("second", now), None);
        for n in 0..KEYS_MAX - 1 {
            assert!(rate.take("second", now).is_some(), "it is used, and known");
            assert_eq!(rate.take(&n.to_string(), now), None);
        }
        assert_eq!(rate.until.lock().unwrap().len(), KEYS_MAX);
        assert_eq!(rate.take("first", now), None, "it is new again");
        assert!(rate.take("second", now).is_some());
    }
}
