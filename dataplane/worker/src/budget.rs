//! How much may be logged: what prints or fails at each request must not drown what others say.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A line every so often, in the long run.
const LINE_EVERY: Duration = Duration::from_millis(50);
/// So many at once.
const BURST: u32 = 200;

/// Lines that somebody has left: 200 at once, 20 a second.
#[derive(Debug, Default)]
pub struct LogBudget {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When all that was said would have been said at an even pace.
    paid_until: Option<Instant>,
    missed: u64,
}

impl LogBudget {
    /// Takes a line: how many were missed since the last one that was said; none where this one is one of them.
    pub fn take(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let paid_until = state.paid_until.map_or(now, |at| at.max(now));
        if paid_until.duration_since(now) > LINE_EVERY * (BURST - 1) {
            state.missed += 1;
            return None;
        }
        state.paid_until = Some(paid_until + LINE_EVERY);
        Some(std::mem::take(&mut state.missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_said_then_a_line_now_and_then_and_what_was_missed_is_told() {
        let budget = LogBudget::default();
        let start = Instant::now();
        let said = (0..1_000).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(said, 200);
        assert_eq!(budget.take(start + LINE_EVERY), Some(800));
        assert_eq!(budget.take(start + LINE_EVERY), None);
        let rested = start + LINE_EVERY * 1_000;
        assert_eq!(budget.take(rested), Some(1));
        assert_eq!((0..1_000).filter(|_| budget.take(rested).is_some()).count(), 199);
    }
}
