//! Readings of nodes, and what happened between two of them.

use std::collections::{BTreeMap, BTreeSet};

use sluice_config as wire;
use sluice_rollout::{Counted, Time, WorstNode};

use super::Want;

type Row = (wire::UnitRef, wire::Digest);

/// Readings of a node that are kept in any case: so many seconds may nodes answer apart from each other.
const LAST_KEPT: usize = 60;

/// What one node had counted at some time.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    at: Time,
    boot: String,
    rows: BTreeMap<Row, Tally>,
}

/// Requests and errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    requests: u64,
    errors: u64,
}

impl Reading {
    /// What is wanted of a node's counters. A row that is missing is zero.
    pub(super) fn of(at: Time, counters: &wire::Counters, wants: &[Want]) -> Self {
        let mut rows = BTreeMap::new();
        for unit in &counters.units {
            let wanted = wants.iter().any(|want| want.unit == unit.unit && want.revision == unit.revision);
            if wanted {
                let errors = unit.faults.saturating_add(unit.errors_self);
                // What ended in somebody else's failure says nothing of the unit: an outage of the upstream
                // must not fill a soak.
                let requests = unit.requests.saturating_sub(unit.errors_other);
                let tally = Tally { requests, errors };
                rows.insert((unit.unit.clone(), unit.revision.clone()), tally);
            }
        }
        Self { at, boot: counters.boot.clone(), rows }
    }

    /// Whether something that was counted here counts from zero there.
    fn restarts_before(&self, next: &Self) -> bool {
        let falls = |(row, tally): (&Row, &Tally)| next.tally(row).requests < tally.requests;
        self.boot != next.boot || self.rows.iter().any(falls)
    }

    fn tally(&self, row: &Row) -> Tally {
        self.rows.get(row).copied().unwrap_or_default()
    }
}

/// All readings that may still be asked for.
#[derive(Debug, Default)]
pub(super) struct History {
    nodes: BTreeMap<(String, String), Vec<Reading>>,
    rounds: Vec<Time>,
}

impl History {
    /// Forgets what no gate asks for: of each node, all but the readings that a range may begin with, those
    /// around a new start, and the last.
    pub(super) fn keep(&mut self, wants: &[Want]) {
        let mut starts: BTreeMap<&str, Vec<Time>> = BTreeMap::new();
        for want in wants {
            starts.entry(&want.gate.group).or_default().push(want.from);
        }
        let oldest = wants.iter().map(|want| want.from).min();
        self.rounds.retain(|at| oldest.is_some_and(|oldest| *at >= oldest));
        self.nodes.retain(|(group, _), readings| match starts.get(group.as_str()) {
            Some(starts) => {
                thin(readings, starts);
                !readings.is_empty()
            }
            None => false,
        });
    }

    pub(super) fn add(&mut self, group: &str, node: &str, reading: Reading) {
        self.nodes.entry((group.to_owned(), node.to_owned())).or_default().push(reading);
    }

    /// A round that began at this time is over. Where the clock went back, all before it says nothing.
    pub(super) fn round(&mut self, at: Time) {
        if self.rounds.last().is_some_and(|last| *last > at) {
            self.rounds.clear();
            for readings in self.nodes.values_mut() {
                readings.retain(|reading| reading.at == at);
            }
        }
        if self.rounds.last() != Some(&at) {
            self.rounds.push(at);
        }
    }

    /// What happened from the first round at or after `from` to the last one in which every node of the group
    /// was read; none before there are two such rounds. A node that does not answer is no proof of anything.
    pub(super) fn count(&self, want: &Want, nodes: &BTreeSet<&str>) -> Option<Counted> {
        let from = *self.rounds.iter().find(|at| **at >= want.from)?;
        let last = |node: &str| {
            let readings = self.nodes.get(&(want.gate.group.clone(), node.to_owned()))?;
            readings.last().map(|reading| reading.at)
        };
        let mut to = *self.rounds.last()?;
        for node in nodes {
            to = to.min(last(node)?);
        }
        if to <= from || nodes.is_empty() {
            return None;
        }
        let row = (want.unit.clone(), want.revision.clone());
        let (mut sum, mut worst) = (Tally::default(), None::<WorstNode>);
        for ((group, node), readings) in &self.nodes {
            if *group != want.gate.group {
                continue;
            }
            let range: Vec<&Reading> = readings.iter().filter(|r| r.at >= from && r.at <= to).collect();
            let tally = between(&range, &row);
            sum.requests = sum.requests.saturating_add(tally.requests);
            sum.errors = sum.errors.saturating_add(tally.errors);
            let share = |errors: u64, requests: u64| u128::from(errors) * 1_000_000 / u128::from(requests.max(1));
            if worst.as_ref().is_none_or(|w| share(tally.errors, tally.requests) > share(w.errors, w.requests)) {
                worst = Some(WorstNode { node: node.clone(), requests: tally.requests, errors: tally.errors });
            }
        }
        Some(Counted { from, to, requests: sum.requests, errors: sum.errors, worst })
    }
}

/// Drops what no range needs. A range begins with the first reading at or after a start; the sum over it is the
/// same without those in between, but for where a process started anew or a revision was unloaded.
fn thin(readings: &mut Vec<Reading>, starts: &[Time]) {
    let mut needed = vec![false; readings.len()];
    // The last few: a range ends with the last reading of the slowest node.
    needed.iter_mut().rev().take(LAST_KEPT).for_each(|needed| *needed = true);
    for start in starts {
        if let Some(first) = readings.iter().position(|reading| reading.at >= *start) {
            needed[first] = true;
        }
    }
    for (index, pair) in readings.windows(2).enumerate() {
        if pair[0].restarts_before(&pair[1]) {
            needed[index] = true;
            needed[index + 1] = true;
        }
    }
    let oldest = starts.iter().min();
    let mut needed = needed.into_iter();
    readings.retain(|reading| needed.next() == Some(true) && oldest.is_some_and(|oldest| reading.at >= *oldest));
}

/// What one node did over its readings: the first is the baseline; a process that started in between
/// counted from zero, all of it after the reading before.
fn between(readings: &[&Reading], row: &Row) -> Tally {
    let mut sum = Tally::default();
    for pair in readings.windows(2) {
        let (old, new) = (pair[0], pair[1]);
        let before = if old.boot == new.boot { old.tally(row) } else { Tally::default() };
        let after = new.tally(row);
        // A row that was there and is gone belongs to a revision that was unloaded: nothing new.
        sum.requests = sum.requests.saturating_add(after.requests.saturating_sub(before.requests));
        sum.errors = sum.errors.saturating_add(after.errors.saturating_sub(before.errors));
    }
    sum
}

#[cfg(test)]
mod tests {
    use sluice_rollout::GateRef;

    use super::*;
    use crate::convert::ids;

    fn unit() -> wire::UnitRef {
        wire::UnitRef::new(wire::UnitKind::Worker, "team", "hello")
    }

    fn want(from: i64) -> Want {
        let gate =
            GateRef { rollout: ids::rollout("team", "r"), group: "canary".into(), gate: "errors".into(), since: 1 };
        Want { gate, unit: unit(), revision: wire::Digest::of(b"1"), from: Time(from) }
    }

    fn reading(at: i64, boot: &str, requests: u64, faults: u64) -> Reading {
        let row = wire::UnitCounters {
            unit: unit(),
            revision: wire::Digest::of(b"1"),
            // Nine of them ended in somebody else's failure, which is no evidence.
            requests: requests + 9,
            faults,
            errors_self: 0,
            errors_other: 9,
            latency: Vec::new(),
        };
        let counters = wire::Counters {
            format: 1,
            node: "n".into(),
            boot: boot.into(),
            group: "canary".into(),
            generation: 1,
            units: vec![row],
        };
        Reading::of(Time(at), &counters, &[want(0)])
    }

    fn history(readings: &[(&str, Reading)]) -> History {
        let mut history = History::default();
        for (node, reading) in readings {
            if history.rounds.last() != Some(&reading.at) {
                history.round(reading.at);
            }
            history.add("canary", node, reading.clone());
        }
        history
    }

    fn count(history: &History, from: i64, nodes: &[&str]) -> Option<Counted> {
        history.count(&want(from), &nodes.iter().copied().collect())
    }

    #[test]
    fn only_what_happened_after_the_start_counts() {
        let history = history(&[
            ("a", reading(100, "x", 1_000, 50)),
            ("a", reading(200, "x", 1_010, 50)),
            ("a", reading(300, "x", 1_030, 51)),
        ]);
        let counted = count(&history, 150, &["a"]).unwrap();
        assert_eq!((counted.from, counted.to), (Time(200), Time(300)));
        assert_eq!((counted.requests, counted.errors), (20, 1));
        assert!(count(&history, 250, &["a"]).is_none(), "one reading is a baseline and no more");
    }

    #[test]
    fn a_node_that_started_anew_counts_from_zero() {
        let history = history(&[
            ("a", reading(100, "x", 1_000, 50)),
            ("b", reading(100, "p", 10, 0)),
            ("a", reading(200, "y", 7, 2)),
            ("b", reading(200, "p", 30, 0)),
        ]);
        let counted = count(&history, 100, &["a", "b"]).unwrap();
        assert_eq!((counted.requests, counted.errors), (27, 2));
        assert_eq!(counted.worst.map(|w| (w.node, w.errors)), Some(("a".to_owned(), 2)));
    }

    #[test]
    fn a_silent_node_is_waited_for_and_what_it_did_meanwhile_is_not_lost() {
        let mut history = history(&[
            ("a", reading(100, "x", 0, 0)),
            ("b", reading(100, "p", 0, 0)),
            ("a", reading(200, "x", 10, 0)),
            ("b", reading(200, "p", 10, 0)),
            ("a", reading(300, "x", 20, 0)),
        ]);
        assert!(count(&history, 200, &["a", "b"]).is_none(), "b was not read since");
        assert!(count(&history, 100, &["a", "b", "c"]).is_none(), "c was never read");
        history.round(Time(400));
        history.add("canary", "a", reading(400, "x", 30, 0));
        history.add("canary", "b", reading(400, "p", 40, 9));
        let counted = count(&history, 200, &["a", "b"]).unwrap();
        assert_eq!((counted.from, counted.to, counted.requests, counted.errors), (Time(200), Time(400), 50, 9));
    }

    #[test]
    fn ranges_that_follow_each_other_miss_nothing() {
        let history = history(&[
            ("a", reading(100, "x", 0, 0)),
            ("a", reading(200, "x", 10, 1)),
            ("a", reading(300, "x", 25, 1)),
        ]);
        let (first, second) = (count(&history, 100, &["a"]).unwrap(), count(&history, 200, &["a"]).unwrap());
        assert_eq!((first.requests, second.from, second.requests), (25, Time(200), 15));
    }

    #[test]
    fn what_is_dropped_changes_no_sum_and_what_is_kept_does_not_grow() {
        let (mut whole, mut thinned) = (History::default(), History::default());
        for second in 0..2_000 {
            // The process starts anew every 300 seconds.
            let (boot, requests) = (second / 300, second % 300);
            let read = reading(second, &boot.to_string(), requests.unsigned_abs(), 0);
            for history in [&mut whole, &mut thinned] {
                history.round(Time(second));
                history.add("canary", "a", read.clone());
            }
            thinned.keep(&[want(10), want(1_000)]);
        }
        for from in [10, 1_000] {
            assert_eq!(count(&whole, from, &["a"]), count(&thinned, from, &["a"]));
        }
        let kept: usize = thinned.nodes.values().map(Vec::len).sum();
        assert!(kept < 100, "{kept} readings are kept");
    }

    #[test]
    fn a_clock_that_goes_back_begins_anew() {
        let mut history = history(&[("a", reading(100, "x", 0, 0)), ("a", reading(200, "x", 10, 1))]);
        history.add("canary", "a", reading(150, "x", 20, 1));
        history.round(Time(150));
        assert!(count(&history, 0, &["a"]).is_none());
    }
}
