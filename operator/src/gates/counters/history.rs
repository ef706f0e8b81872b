//! Readings of nodes, and what happened between two of them.

use std::collections::BTreeMap;

use sluice_config as wire;
use sluice_rollout::{Counted, Time, WorstNode};

use super::Want;

type Row = (wire::UnitRef, wire::Digest);

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
    /// Forgets what no gate asks for.
    pub(super) fn keep(&mut self, wants: &[Want]) {
        let Some(oldest) = wants.iter().map(|want| want.from).min() else {
            *self = Self::default();
            return;
        };
        self.rounds.retain(|at| *at >= oldest);
        for readings in self.nodes.values_mut() {
            readings.retain(|reading| reading.at >= oldest);
        }
        self.nodes.retain(|_, readings| !readings.is_empty());
    }

    pub(super) fn add(&mut self, group: &str, node: &str, reading: Reading) {
        self.nodes.entry((group.to_owned(), node.to_owned())).or_default().push(reading);
    }

    /// A round that began at this time is over.
    pub(super) fn round(&mut self, at: Time) {
        self.rounds.push(at);
    }

    /// What happened from the first round at or after `from` to the last one; none before there are two
    /// rounds, and none while no node was read in the last one.
    pub(super) fn count(&self, want: &Want) -> Option<Counted> {
        let from = *self.rounds.iter().find(|at| **at >= want.from)?;
        let to = *self.rounds.last().filter(|to| **to > from)?;
        let row = (want.unit.clone(), want.revision.clone());
        let (mut sum, mut worst) = (Tally::default(), None::<WorstNode>);
        let mut read = false;
        for ((group, node), readings) in &self.nodes {
            if *group != want.gate.group {
                continue;
            }
            let range: Vec<&Reading> = readings.iter().filter(|reading| reading.at >= from).collect();
            read |= range.last().is_some_and(|reading| reading.at == to);
            let tally = between(&range, &row);
            sum.requests = sum.requests.saturating_add(tally.requests);
            sum.errors = sum.errors.saturating_add(tally.errors);
            let share = |errors: u64, requests: u64| u128::from(errors) * 1_000_000 / u128::from(requests.max(1));
            if worst.as_ref().is_none_or(|w| share(tally.errors, tally.requests) > share(w.errors, w.requests)) {
                worst = Some(WorstNode { node: node.clone(), requests: tally.requests, errors: tally.errors });
            }
        }
        read.then_some(Counted { from, to, requests: sum.requests, errors: sum.errors, worst })
    }
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

    #[test]
    fn only_what_happened_after_the_start_counts() {
        let history = history(&[
            ("a", reading(100, "x", 1_000, 50)),
            ("a", reading(200, "x", 1_010, 50)),
            ("a", reading(300, "x", 1_030, 51)),
        ]);
        let counted = history.count(&want(150)).unwrap();
        assert_eq!((counted.from, counted.to), (Time(200), Time(300)));
        assert_eq!((counted.requests, counted.errors), (20, 1));
        assert!(history.count(&want(250)).is_none(), "one reading is a baseline and no more");
    }

    #[test]
    fn a_node_that_started_anew_counts_from_zero() {
        let history = history(&[
            ("a", reading(100, "x", 1_000, 50)),
            ("b", reading(100, "p", 10, 0)),
            ("a", reading(200, "y", 7, 2)),
            ("b", reading(200, "p", 30, 0)),
        ]);
        let counted = history.count(&want(100)).unwrap();
        assert_eq!((counted.requests, counted.errors), (27, 2));
        assert_eq!(counted.worst.map(|w| (w.node, w.errors)), Some(("a".to_owned(), 2)));
    }

    #[test]
    fn silence_is_no_sample() {
        let mut history = history(&[("a", reading(100, "x", 1_000, 50)), ("a", reading(200, "x", 1_010, 50))]);
        history.round(Time(300));
        assert!(history.count(&want(100)).is_none());
    }

    #[test]
    fn ranges_that_follow_each_other_miss_nothing() {
        let history = history(&[
            ("a", reading(100, "x", 0, 0)),
            ("a", reading(200, "x", 10, 1)),
            ("a", reading(300, "x", 25, 1)),
        ]);
        let (first, second) = (history.count(&want(100)).unwrap(), history.count(&want(200)).unwrap());
        assert_eq!((first.requests, second.from, second.requests), (25, Time(200), 15));
    }
}
