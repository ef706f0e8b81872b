//! How often a status is written: at once if something changed, every 15 s if only numbers moved.

use std::time::Duration;

use crate::{GateProgress, RolloutStatus, Time, Verdict};

/// Progress alone is written no more often than this.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// Whether to write a status now; if not now, when.
pub(crate) enum Pace {
    /// Now.
    Now,
    /// Then, if it still differs.
    At(Time),
    /// Nothing to write.
    Never,
}

/// Decides by what differs between the stored status and the new one.
pub(crate) fn pace(stored: &RolloutStatus, new: &RolloutStatus, now: Time) -> Pace {
    if stored == new {
        return Pace::Never;
    }
    let Some(written_at) = stored.written_at else { return Pace::Now };
    let due = written_at.after(PROGRESS_EVERY);
    // A stamp from the future is a clock that went back: write, so that the stamp is right again.
    if now >= due || now < written_at || essence(stored) != essence(new) { Pace::Now } else { Pace::At(due) }
}

/// A status without what moves all the time.
fn essence(status: &RolloutStatus) -> RolloutStatus {
    let mut status = status.clone();
    status.waiting_for.clear();
    status.held_since = None;
    status.groups.iter_mut().for_each(|group| group.behind_since = None);
    status.written_at = None;
    for gate in status.groups.iter_mut().flat_map(|group| group.gates.values_mut()) {
        *gate = GateProgress {
            verdict: Verdict::Running,
            message: String::new(),
            started_at: gate.started_at,
            samples: 0,
            consecutive_failures: 0,
            requests: 0,
            errors: 0,
            watched: Duration::ZERO,
            watched_until: None,
            last_sample_at: None,
            reruns: gate.reruns,
        };
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Phase;

    #[test]
    fn phases_are_written_at_once_and_progress_every_15_s() {
        let noon = Time(1_795_435_200_000);
        let later = |seconds| noon.after(Duration::from_secs(seconds));
        let stored = RolloutStatus { written_at: Some(noon), ..RolloutStatus::default() };
        let moved = RolloutStatus { waiting_for: "x".into(), ..stored.clone() };
        let phase = RolloutStatus { phase: Phase::Progressing, ..stored.clone() };
        assert!(matches!(pace(&stored, &stored, later(99)), Pace::Never));
        assert!(matches!(pace(&stored, &phase, later(1)), Pace::Now));
        assert!(matches!(pace(&stored, &moved, later(1)), Pace::At(at) if at == later(15)));
        assert!(matches!(pace(&stored, &moved, later(15)), Pace::Now));
        assert!(matches!(pace(&stored, &moved, Time(0)), Pace::Now));
    }
}
