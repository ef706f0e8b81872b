//! Whose turn it is to write the status of a node, and when. Pure; time comes in.
//!
//! Two pods of a node overlap while one takes over, and both are told of every write. The newer one writes
//! once it is ready: it knows which pod was there before it, and takes back what that one still writes. The older
//! one lets a pod that it has never seen go first, and comes back should that one go away.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sluice_config::NodeReport;

/// Where nobody reported yet, this pod waits so long until it is ready; but not for ever.
const READY_FIRST: Duration = Duration::from_secs(10);
/// News of earlier writes comes late: only what stays wrong for so long is put right.
const LATE: Duration = Duration::from_secs(1);
/// How long another pod's report stays before this one comes back; doubled each time.
const YIELD: Duration = Duration::from_secs(60);
const YIELD_MAX: Duration = Duration::from_secs(3600);

/// What the object holds, so far as this pod knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not heard of yet.
    #[default]
    Unknown,
    /// There is no object.
    Gone,
    /// There is one without a report.
    Empty,
    Report(Box<NodeReport>),
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Write,
    WaitUntil(Instant),
    /// Until there is news.
    Wait,
}

pub(super) struct Turn {
    pod: String,
    started_at: Instant,
    seen: Seen,
    /// Pods that reported before this one did.
    before: BTreeSet<String>,
    /// What was written last, and how the API server keeps it.
    written: Option<(NodeReport, NodeReport)>,
    wrong_since: Option<Instant>,
    repairs: u32,
    yields_since: Option<Instant>,
    yields_for: Duration,
}

impl Turn {
    pub(super) fn new(pod: String, now: Instant) -> Self {
        Self {
            pod,
            started_at: now,
            seen: Seen::Unknown,
            before: BTreeSet::new(),
            written: None,
            wrong_since: None,
            repairs: 0,
            yields_since: None,
            yields_for: YIELD,
        }
    }

    pub(super) fn saw(&mut self, seen: Seen) {
        if self.written.is_none()
            && let Seen::Report(report) = &seen
            && report.pod != self.pod
        {
            self.before.insert(report.pod.clone());
        }
        self.seen = seen;
    }

    /// It was written, and is kept like this.
    pub(super) fn wrote(&mut self, report: NodeReport, kept: NodeReport) {
        if self.wrong_since.take().is_some() {
            self.repairs += 1;
        }
        if self.yields_since.take().is_some() {
            self.yields_for = (self.yields_for * 2).min(YIELD_MAX);
        }
        self.seen = Seen::Report(Box::new(kept.clone()));
        self.written = Some((report, kept));
    }

    pub(super) fn next(&mut self, report: &NodeReport, ready: bool, now: Instant) -> Next {
        let other = match &self.seen {
            Seen::Report(seen) if seen.pod != self.pod => Some(&seen.pod),
            Seen::Report(_) | Seen::Unknown | Seen::Gone | Seen::Empty => None,
        };
        let Some((told, kept)) = &self.written else {
            return match (ready, &self.seen) {
                (true, _) => Next::Write,
                (false, Seen::Unknown) => Next::Wait,
                (false, _) if other.is_some() => Next::Wait,
                (false, _) => at(self.started_at + READY_FIRST, now),
            };
        };
        if other.is_some_and(|pod| !self.before.contains(pod)) {
            let since = *self.yields_since.get_or_insert(now);
            return at(since + self.yields_for, now);
        }
        self.yields_since = None;
        let wrong = match &self.seen {
            Seen::Unknown | Seen::Gone => false,
            Seen::Empty => true,
            Seen::Report(seen) => **seen != *kept,
        };
        if !wrong {
            self.wrong_since = None;
            self.repairs = 0;
        }
        if told != report {
            return Next::Write;
        }
        if !wrong {
            return Next::Wait;
        }
        let since = *self.wrong_since.get_or_insert(now);
        at(since + LATE * (1 << self.repairs.min(10)), now)
    }
}

fn at(time: Instant, now: Instant) -> Next {
    if now >= time { Next::Write } else { Next::WaitUntil(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(pod: &str, generation: u64) -> NodeReport {
        NodeReport { pod: pod.into(), applied_generation: generation, ..NodeReport::default() }
    }

    fn seen(pod: &str, generation: u64) -> Seen {
        Seen::Report(Box::new(report(pod, generation)))
    }

    /// A pod that has reported.
    fn settled(pod: &str, start: Instant) -> Turn {
        let mut turn = Turn::new(pod.into(), start);
        turn.saw(Seen::Empty);
        assert_eq!(turn.next(&report(pod, 1), true, start), Next::Write);
        turn.wrote(report(pod, 1), report(pod, 1));
        turn.saw(seen(pod, 1));
        turn
    }

    #[test]
    fn nothing_is_written_while_nothing_changes() {
        let start = Instant::now();
        let mut turn = settled("a", start);
        assert_eq!(turn.next(&report("a", 1), true, start + YIELD_MAX), Next::Wait);
        assert_eq!(turn.next(&report("a", 2), true, start), Next::Write);
        turn.wrote(report("a", 2), report("a", 2));
        // News of the first write, late.
        turn.saw(seen("a", 1));
        assert_eq!(turn.next(&report("a", 2), true, start), Next::WaitUntil(start + LATE));
        turn.saw(seen("a", 2));
        assert_eq!(turn.next(&report("a", 2), true, start + LATE), Next::Wait);
    }

    #[test]
    fn what_the_api_server_keeps_in_its_own_way_is_not_written_again() {
        let start = Instant::now();
        let mut turn = Turn::new("a".into(), start);
        let kept = NodeReport { contracts: vec!["by another's hand".into()], ..report("a", 1) };
        turn.wrote(report("a", 1), kept.clone());
        turn.saw(Seen::Report(Box::new(kept)));
        assert_eq!(turn.next(&report("a", 1), true, start + YIELD_MAX), Next::Wait);
    }

    #[test]
    fn a_report_that_was_lost_or_went_back_is_written_again() {
        let start = Instant::now();
        for lost in [Seen::Empty, seen("a", 0)] {
            let mut turn = settled("a", start);
            turn.saw(Seen::Gone);
            assert_eq!(turn.next(&report("a", 1), true, start), Next::Wait, "there is nothing to write to");
            turn.saw(lost.clone());
            assert_eq!(turn.next(&report("a", 1), true, start), Next::WaitUntil(start + LATE));
            assert_eq!(turn.next(&report("a", 1), true, start + LATE), Next::Write, "{lost:?}");
            turn.wrote(report("a", 1), report("a", 1));
            assert_eq!(turn.next(&report("a", 1), true, start + LATE), Next::Wait);
        }
    }

    #[test]
    fn a_pod_that_is_not_ready_leaves_the_report_of_another_alone() {
        let start = Instant::now();
        let mut new = Turn::new("new".into(), start);
        assert_eq!(new.next(&report("new", 0), false, start + YIELD), Next::Wait, "who reports is not known yet");
        new.saw(seen("old", 7));
        assert_eq!(new.next(&report("new", 0), false, start + YIELD), Next::Wait);
        assert_eq!(new.next(&report("new", 7), true, start + YIELD), Next::Write);

        let mut first = Turn::new("first".into(), start);
        first.saw(Seen::Empty);
        assert_eq!(first.next(&report("first", 0), false, start), Next::WaitUntil(start + READY_FIRST));
        assert_eq!(first.next(&report("first", 0), false, start + READY_FIRST), Next::Write);
    }

    #[test]
    fn of_two_pods_the_newer_one_has_the_last_word() {
        let start = Instant::now();
        let mut old = settled("old", start);
        let mut new = Turn::new("new".into(), start);
        new.saw(seen("old", 1));
        assert_eq!(new.next(&report("new", 1), true, start), Next::Write);
        new.wrote(report("new", 1), report("new", 1));
        old.saw(seen("new", 1));
        assert_eq!(old.next(&report("old", 2), true, start), Next::WaitUntil(start + YIELD), "also with news");
        // It had one more on its way.
        new.saw(seen("old", 2));
        assert_eq!(new.next(&report("new", 1), true, start), Next::WaitUntil(start + LATE));
        assert_eq!(new.next(&report("new", 1), true, start + LATE), Next::Write);
    }

    #[test]
    fn the_older_pod_comes_back_when_the_newer_one_went_away() {
        let start = Instant::now();
        let mut old = settled("old", start);
        old.saw(seen("new", 1));
        assert_eq!(old.next(&report("old", 1), true, start), Next::WaitUntil(start + YIELD));
        assert_eq!(old.next(&report("old", 1), true, start + YIELD), Next::Write);
        old.wrote(report("old", 1), report("old", 1));
        assert_eq!(old.next(&report("old", 1), true, start + YIELD), Next::Wait);
        old.saw(seen("new", 1));
        let later = start + YIELD;
        assert_eq!(
            old.next(&report("old", 1), true, later),
            Next::WaitUntil(later + 2 * YIELD),
            "less often each time"
        );
    }
}
