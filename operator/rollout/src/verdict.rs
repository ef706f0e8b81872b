//! What a gate says, from what was known and the samples since.

use std::time::Duration;

use crate::{Check, Counted, GateProgress, JobState, Ppm, Queried, QueryOutcome, Sample, Time, Verdict};

/// A gap in watching longer than this counts as not watched: the operator was away, or a clock jumped.
/// It must exceed the 15 s at which progress is stored.
const WATCH_GAP_MAX: Duration = Duration::from_secs(30);
/// Counters older than this say nothing about now.
const COUNTERS_STALE: Duration = Duration::from_secs(30);
/// Clocks of two operators may differ by so much.
const SKEW_MAX: Duration = Duration::from_secs(5);
/// A Job that could not be run is tried again after this.
pub(crate) const RERUN_AFTER: Duration = Duration::from_secs(60);

/// A gate that has just started.
pub(crate) fn start(now: Time, reruns: u32) -> GateProgress {
    GateProgress {
        verdict: Verdict::Running,
        message: String::new(),
        started_at: now,
        samples: 0,
        consecutive_failures: 0,
        requests: 0,
        errors: 0,
        watched: Duration::ZERO,
        watched_until: None,
        last_sample_at: None,
        reruns,
    }
}

/// What a gate is judged with beside its own progress.
pub(crate) struct Evidence<'a> {
    /// Now.
    pub(crate) now: Time,
    /// Since when this operator watches.
    pub(crate) watching_since: Time,
    /// Offered samples; some may be known already, or too old.
    pub(crate) samples: &'a [Sample],
    /// Whether any node of the group is live.
    pub(crate) live: bool,
    /// Whether nodes count requests for the unit.
    pub(crate) counts: bool,
    /// Name of the Job of this round.
    pub(crate) job: &'a str,
}

/// Folds the new samples in and judges.
pub(crate) fn judge(gate: &mut GateProgress, check: &Check, evidence: &Evidence<'_>) {
    turn_back(gate, evidence.now);
    let (verdict, message) = match check {
        Check::Soak { duration, min_requests } => {
            watch(gate, *duration, evidence);
            count(gate, evidence);
            soak(gate, *duration, min_requests.filter(|_| evidence.counts))
        }
        Check::ErrorRate { max, min_requests } => {
            let worst = count(gate, evidence);
            error_rate(gate, *max, (*min_requests).max(1), worst, evidence.now)
        }
        Check::Prometheus { interval, failure_limit, min_samples, .. } => {
            query(gate, (*failure_limit).max(1), (*min_samples).max(1), evidence);
            stale_query(gate, *interval, evidence.now)
        }
        Check::Job => job(gate, evidence),
    };
    gate.verdict = verdict;
    gate.message = message;
}

/// A clock that went back: what was measured before lies ahead, and would look fresh until its time comes. What
/// was counted stays, bad as good; but it is no word on now before something was measured since.
fn turn_back(gate: &mut GateProgress, now: Time) {
    let stamps = [Some(gate.started_at), gate.last_sample_at, gate.watched_until];
    if stamps.into_iter().flatten().all(|stamp| stamp <= now.after(SKEW_MAX)) {
        return;
    }
    gate.started_at = now;
    gate.watched_until = None;
    gate.last_sample_at = None;
    gate.samples = 0;
}

/// Adds the time since the last look, if somebody was looking.
fn watch(gate: &mut GateProgress, duration: Duration, evidence: &Evidence<'_>) {
    if gate.watched >= duration {
        return;
    }
    let until = gate.watched_until.unwrap_or(gate.started_at);
    let gap = evidence.now.since(until.max(evidence.watching_since));
    if evidence.live && gap <= WATCH_GAP_MAX {
        gate.watched = (gate.watched + gap).min(duration);
    }
    // Never back: an operator whose clock is behind would let the other one count the same seconds again.
    gate.watched_until = Some(until.max(evidence.now));
}

fn soak(gate: &GateProgress, duration: Duration, min_requests: Option<u64>) -> (Verdict, String) {
    let enough = min_requests.is_none_or(|min| gate.requests >= min);
    let verdict = if gate.watched >= duration && enough { Verdict::Pass } else { Verdict::Running };
    let requests = min_requests.map_or_else(String::new, |min| format!(", {}/{min} req", gate.requests));
    (verdict, format!("{} of {} s{requests}", gate.watched.as_secs(), duration.as_secs()))
}

/// Adds up the counters of ranges that lie after all that was counted before.
fn count(gate: &mut GateProgress, evidence: &Evidence<'_>) -> Option<String> {
    let mut new: Vec<&Counted> = Vec::new();
    for sample in evidence.samples {
        if let Sample::Counted(counted) = sample {
            new.push(counted);
        }
    }
    new.sort_by_key(|counted| counted.from);
    let mut worst = None;
    for counted in new {
        let from = gate.last_sample_at.unwrap_or(gate.started_at).max(gate.started_at);
        if counted.from >= from && counted.to > counted.from && counted.to <= evidence.now {
            gate.requests = gate.requests.saturating_add(counted.requests);
            gate.errors = gate.errors.saturating_add(counted.errors.min(counted.requests));
            gate.samples = gate.samples.saturating_add(1);
            gate.last_sample_at = Some(counted.to);
        }
        let bad = counted.worst.as_ref().filter(|worst| worst.errors > 0);
        worst = bad.map(|worst| worst.node.clone()).or(worst);
    }
    worst
}

fn error_rate(gate: &GateProgress, max: Ppm, min_requests: u64, worst: Option<String>, now: Time) -> (Verdict, String) {
    let rate = Ppm::of(gate.errors, gate.requests);
    let enough = gate.requests >= min_requests;
    // So many errors that even if all requests still to come were good, the rate would be too high.
    let hopeless = !enough && Ppm::of(gate.errors, min_requests) > max;
    if hopeless || (enough && rate > max) {
        let node = worst.map_or_else(String::new, |node| format!(" on {node}"));
        return (Verdict::Fail, format!("{rate} > {max}{node}"));
    }
    let last = gate.last_sample_at.unwrap_or(gate.started_at);
    if now.since(last) > COUNTERS_STALE {
        return (Verdict::Inconclusive, format!("no counters since {}", last.shown(now)));
    }
    if enough && gate.samples == 0 {
        return (Verdict::Inconclusive, format!("no counters since {}, when the clock went back", last.shown(now)));
    }
    if enough {
        (Verdict::Pass, format!("{rate} ≤ {max} of {} req", gate.requests))
    } else {
        (Verdict::Running, format!("{}/{min_requests} req", gate.requests))
    }
}

fn query(gate: &mut GateProgress, failure_limit: u32, min_samples: u32, evidence: &Evidence<'_>) {
    let mut new: Vec<&Queried> = Vec::new();
    for sample in evidence.samples {
        if let Sample::Queried(queried) = sample {
            new.push(queried);
        }
    }
    new.sort_by_key(|queried| queried.at);
    for queried in new {
        let known = gate.last_sample_at.is_some_and(|last| queried.at <= last);
        if known || queried.from < gate.started_at || queried.at > evidence.now || gate.verdict == Verdict::Fail {
            continue;
        }
        gate.last_sample_at = Some(queried.at);
        (gate.verdict, gate.message) = answer(gate, &queried.outcome, failure_limit, min_samples);
    }
}

fn answer(gate: &mut GateProgress, outcome: &QueryOutcome, failure_limit: u32, min_samples: u32) -> (Verdict, String) {
    let unknown = |why: &str| (Verdict::Inconclusive, why.to_owned());
    match outcome {
        QueryOutcome::Value { fails: true, shown } => {
            gate.samples = gate.samples.saturating_add(1);
            gate.consecutive_failures = gate.consecutive_failures.saturating_add(1);
            let failures = gate.consecutive_failures;
            if failures >= failure_limit {
                let times = if failures > 1 { format!(", {failures} times in a row") } else { String::new() };
                (Verdict::Fail, format!("{shown}{times}"))
            } else {
                (Verdict::Running, format!("{shown}, {failures} of {failure_limit} failures"))
            }
        }
        QueryOutcome::Value { fails: false, shown } => {
            gate.samples = gate.samples.saturating_add(1);
            gate.consecutive_failures = 0;
            if gate.samples >= min_samples {
                (Verdict::Pass, shown.clone())
            } else {
                (Verdict::Running, format!("{shown}, {}/{min_samples} samples", gate.samples))
            }
        }
        QueryOutcome::NotANumber => unknown("the query answers NaN"),
        QueryOutcome::Empty => unknown("the query finds no series"),
        QueryOutcome::Error(why) => unknown(&format!("the query failed: {why}")),
    }
}

/// A good answer that nobody has repeated for long is none.
fn stale_query(gate: &GateProgress, interval: Duration, now: Time) -> (Verdict, String) {
    let Some(last) = gate.last_sample_at else {
        return match gate.verdict {
            Verdict::Fail => (gate.verdict, gate.message.clone()),
            Verdict::Running | Verdict::Pass | Verdict::Inconclusive => (Verdict::Running, "no sample yet".to_owned()),
        };
    };
    let stale = now.since(last) > interval * 3 + COUNTERS_STALE;
    match gate.verdict {
        Verdict::Running | Verdict::Pass | Verdict::Inconclusive if stale => {
            (Verdict::Inconclusive, format!("no answer since {}", last.shown(now)))
        }
        Verdict::Running | Verdict::Pass | Verdict::Inconclusive | Verdict::Fail => {
            (gate.verdict, gate.message.clone())
        }
    }
}

fn job(gate: &mut GateProgress, evidence: &Evidence<'_>) -> (Verdict, String) {
    if gate.verdict == Verdict::Pass {
        // Its object may be cleaned up by now.
        return (gate.verdict, gate.message.clone());
    }
    let state = evidence.samples.iter().find_map(|sample| match sample {
        Sample::Job { name, state } if name == evidence.job => Some(state),
        Sample::Job { .. } | Sample::Counted(_) | Sample::Queried(_) => None,
    });
    match state {
        None => (Verdict::Running, "Job to start".to_owned()),
        Some(JobState::Running) => (Verdict::Running, "Job runs".to_owned()),
        Some(JobState::Succeeded) => {
            gate.samples = 1;
            (Verdict::Pass, "Job passed".to_owned())
        }
        Some(JobState::Failed(why)) => (Verdict::Fail, format!("Job failed: {why}")),
        Some(JobState::Error(why)) => {
            let failed_at = *gate.last_sample_at.get_or_insert(evidence.now);
            if evidence.now.since(failed_at) >= RERUN_AFTER {
                gate.reruns = gate.reruns.saturating_add(1);
                gate.last_sample_at = None;
                return (Verdict::Running, "Job to start again".to_owned());
            }
            (Verdict::Inconclusive, format!("Job could not be run: {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Time = Time(1_795_435_200_000);

    fn at(seconds: u64) -> Time {
        NOON.after(Duration::from_secs(seconds))
    }

    fn judged(gate: &mut GateProgress, check: &Check, seconds: u64, samples: &[Sample]) -> Verdict {
        let evidence = Evidence {
            now: at(seconds),
            watching_since: Time::default(),
            samples,
            live: true,
            counts: true,
            job: "job-1",
        };
        judge(gate, check, &evidence);
        gate.verdict
    }

    fn counted(from: u64, to: u64, requests: u64, errors: u64) -> Sample {
        Sample::Counted(Counted { from: at(from), to: at(to), requests, errors, worst: None })
    }

    fn queried(from: u64, seconds: u64, fails: bool) -> Sample {
        let outcome = QueryOutcome::Value { fails, shown: "x".into() };
        Sample::Queried(Queried { from: at(from), at: at(seconds), outcome })
    }

    const ERRORS: Check = Check::ErrorRate { max: Ppm(5_000), min_requests: 200 };
    const LATENCY: Check = Check::Prometheus {
        interval: Duration::from_secs(30),
        failure_limit: 2,
        min_samples: 2,
        range: Duration::from_secs(120),
        per_unit: true,
    };

    #[test]
    fn a_range_counts_once_and_only_if_all_of_it_lies_after_the_start() {
        let mut gate = start(at(10), 0);
        assert_eq!(judged(&mut gate, &ERRORS, 20, &[counted(5, 20, 900, 0)]), Verdict::Running);
        assert_eq!(judged(&mut gate, &ERRORS, 20, &[counted(10, 20, 150, 0)]), Verdict::Running);
        assert_eq!(judged(&mut gate, &ERRORS, 25, &[counted(10, 25, 300, 0)]), Verdict::Running);
        assert_eq!(judged(&mut gate, &ERRORS, 25, &[counted(20, 25, 50, 0)]), Verdict::Pass);
        assert_eq!(gate.requests, 200);
    }

    #[test]
    fn counters_that_stopped_say_nothing_but_errors_stay_errors() {
        let mut gate = start(at(0), 0);
        assert_eq!(judged(&mut gate, &ERRORS, 10, &[counted(0, 10, 500, 0)]), Verdict::Pass);
        assert_eq!(judged(&mut gate, &ERRORS, 41, &[]), Verdict::Inconclusive);
        assert_eq!(judged(&mut gate, &ERRORS, 42, &[counted(10, 42, 500, 6)]), Verdict::Fail);
        assert_eq!(judged(&mut gate, &ERRORS, 999, &[]), Verdict::Fail);
    }

    #[test]
    fn what_lies_ahead_is_not_fresh() {
        let mut gate = start(at(0), 0);
        assert_eq!(judged(&mut gate, &ERRORS, 600, &[counted(0, 600, 500, 1)]), Verdict::Pass);
        assert_eq!(judged(&mut gate, &ERRORS, 598, &[]), Verdict::Pass, "another operator's clock");
        assert_eq!(judged(&mut gate, &ERRORS, 100, &[]), Verdict::Inconclusive);
        assert_eq!(judged(&mut gate, &ERRORS, 101, &[]), Verdict::Inconclusive);
        assert_eq!(judged(&mut gate, &ERRORS, 105, &[counted(50, 105, 9, 0)]), Verdict::Inconclusive);
        assert_eq!(judged(&mut gate, &ERRORS, 105, &[counted(100, 105, 9, 0)]), Verdict::Pass);
        assert_eq!((gate.requests, gate.errors), (509, 1));
        assert_eq!(judged(&mut gate, &ERRORS, 0, &[]), Verdict::Inconclusive);
        assert_eq!(judged(&mut gate, &ERRORS, 5, &[counted(0, 5, 500, 50)]), Verdict::Fail);

        let mut gate = start(at(0), 0);
        let both = [queried(0, 120, false), queried(30, 150, false)];
        assert_eq!(judged(&mut gate, &LATENCY, 150, &both), Verdict::Pass);
        assert_eq!(judged(&mut gate, &LATENCY, 100, &[]), Verdict::Running);
        assert_eq!(judged(&mut gate, &LATENCY, 200, &[queried(80, 200, false)]), Verdict::Running);
        assert_eq!(
            judged(&mut gate, &LATENCY, 250, &[queried(100, 220, false), queried(130, 250, false)]),
            Verdict::Pass
        );
    }

    #[test]
    fn it_fails_early_only_when_no_good_request_could_save_it() {
        let mut gate = start(at(0), 0);
        assert_eq!(judged(&mut gate, &ERRORS, 10, &[counted(0, 10, 10, 1)]), Verdict::Running);
        assert_eq!(judged(&mut gate, &ERRORS, 11, &[counted(10, 11, 10, 1)]), Verdict::Fail);
    }

    #[test]
    fn a_query_passes_on_enough_fresh_answers_that_look_at_nothing_older_than_the_gate() {
        let mut gate = start(at(100), 0);
        assert_eq!(judged(&mut gate, &LATENCY, 130, &[queried(10, 130, true)]), Verdict::Running);
        assert_eq!(gate.samples, 0, "it looked back to before the start");
        assert_eq!(judged(&mut gate, &LATENCY, 220, &[queried(100, 220, false)]), Verdict::Running);
        let both = [queried(100, 220, false), queried(130, 250, false)];
        assert_eq!(judged(&mut gate, &LATENCY, 250, &both), Verdict::Pass);
        assert_eq!(gate.samples, 2, "the one that was known does not count again");
        assert_eq!(judged(&mut gate, &LATENCY, 371, &[]), Verdict::Inconclusive);
    }

    #[test]
    fn failures_count_in_a_row_and_no_answer_neither_adds_nor_forgives() {
        let mut gate = start(at(0), 0);
        let empty = Sample::Queried(Queried { from: at(60), at: at(180), outcome: QueryOutcome::Empty });
        assert_eq!(judged(&mut gate, &LATENCY, 150, &[queried(30, 150, true)]), Verdict::Running);
        assert_eq!(judged(&mut gate, &LATENCY, 180, &[empty]), Verdict::Inconclusive);
        assert_eq!(judged(&mut gate, &LATENCY, 210, &[queried(90, 210, false)]), Verdict::Pass);
        assert_eq!(gate.consecutive_failures, 0);
        assert_eq!(judged(&mut gate, &LATENCY, 240, &[queried(120, 240, true)]), Verdict::Running);
        assert_eq!(judged(&mut gate, &LATENCY, 270, &[queried(150, 270, true)]), Verdict::Fail);
    }

    #[test]
    fn a_soak_counts_only_time_that_somebody_watched() {
        let soak = Check::Soak { duration: Duration::from_secs(60), min_requests: None };
        let mut gate = start(at(0), 0);
        judged(&mut gate, &soak, 30, &[]);
        assert_eq!(gate.watched.as_secs(), 30);
        judged(&mut gate, &soak, 3600, &[]);
        assert_eq!(gate.watched.as_secs(), 30, "an hour that nobody saw, or a clock that jumped");
        judged(&mut gate, &soak, 10, &[]);
        assert_eq!(judged(&mut gate, &soak, 39, &[]), Verdict::Running);
        assert_eq!(judged(&mut gate, &soak, 40, &[]), Verdict::Pass);
    }

    #[test]
    fn operators_whose_clocks_differ_do_not_count_the_same_seconds_twice() {
        let soak = Check::Soak { duration: Duration::from_secs(60), min_requests: None };
        let mut gate = start(at(0), 0);
        judged(&mut gate, &soak, 10, &[]);
        // The other's clock is 4 s behind, and they take turns.
        for ahead in [11, 12, 13, 14] {
            judged(&mut gate, &soak, ahead - 4, &[]);
            judged(&mut gate, &soak, ahead, &[]);
        }
        assert_eq!(gate.watched.as_secs(), 14);
    }

    #[test]
    fn a_job_that_could_not_be_run_is_run_again() {
        let job = |state| [Sample::Job { name: "job-1".into(), state }];
        let mut gate = start(at(0), 0);
        assert_eq!(judged(&mut gate, &Check::Job, 1, &[]), Verdict::Running);
        assert_eq!(judged(&mut gate, &Check::Job, 5, &job(JobState::Error("pull".into()))), Verdict::Inconclusive);
        assert_eq!(judged(&mut gate, &Check::Job, 65, &job(JobState::Error("pull".into()))), Verdict::Running);
        assert_eq!(gate.reruns, 1);
        assert_eq!(judged(&mut gate, &Check::Job, 70, &job(JobState::Succeeded)), Verdict::Pass);
        assert_eq!(judged(&mut gate, &Check::Job, 90, &[]), Verdict::Pass, "its object may be gone");
    }
}
