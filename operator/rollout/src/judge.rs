//! The gates of one group for one attempt: looked at, waited for, measured.

use std::time::Duration;

use crate::{
    Cause, Check, GateProgress, GateRef, Group, GroupPhase, OnGateFailure, Reason, Severity, Target, Time, Verdict,
    Waiting, Wanted,
    gates::{self, Gate},
    group::GroupStep,
    nodes::Nodes,
    together,
    verdict::{self, Evidence},
};

/// A soak is looked at this often at least; see the longest gap that counts, in `verdict`.
const WATCH_EVERY: Duration = Duration::from_secs(15);

impl GroupStep<'_> {
    /// Looks at every gate of a group whose nodes all have it.
    pub(crate) fn verify(&mut self, group: &Group, nodes: &Nodes) {
        let now = self.view.now;
        let started_at = self.progress.gates_started_at.unwrap_or(now);
        let gates = gates::of(self.view, group, self.rollout);
        let before = std::mem::take(&mut self.progress.gates);
        let mut longest = Duration::ZERO;
        let known_good = self.known_good(group, started_at);
        let mut failed: Option<(&Gate<'_>, String)> = None;
        for gate in &gates {
            let known = before.get(&gate.key).cloned();
            let mut progress = known.unwrap_or_else(|| verdict::start(now, 0));
            match (gate.check, &known_good) {
                (Check::Soak { .. }, Some(why)) => (progress.verdict, progress.message) = (Verdict::Pass, why.clone()),
                (Check::Soak { .. } | Check::ErrorRate { .. } | Check::Prometheus { .. } | Check::Job, _) => {
                    self.judge(gate, &mut progress, nodes);
                }
            }
            if let Check::Soak { duration, .. } = gate.check {
                longest = longest.max(*duration);
            }
            if progress.verdict == Verdict::Fail && failed.is_none() {
                failed = Some((gate, format!("{}: {}", gate.key, progress.message)));
            }
            self.progress.gates.insert(gate.key.clone(), progress);
        }
        let unreadable = self.content();
        if unreadable.is_some() {
            // Its own gates go on from where they are, once their text is back.
            for (key, progress) in before {
                self.progress.gates.entry(key).or_insert(progress);
            }
        }
        if let Some((gate, message)) = failed {
            return self.fail(gate, message, group, started_at);
        }
        let passed = unreadable.is_none() && self.progress.gates.values().all(|gate| gate.verdict == Verdict::Pass);
        if nodes.live == 0 {
            // Whatever else it waits for, nobody is there to show it.
            self.waiting = vec![Waiting::NoLiveNodes { group: self.progress.name.clone() }];
        } else if passed {
            self.progress.phase = GroupPhase::Passed;
            self.waiting.clear();
            self.observe.clear();
            let note = format!("group {} passed", self.progress.name);
            return self.say(Severity::Normal, Reason::GroupPassed, note);
        }
        self.waiting.extend(unreadable);
        self.hold(started_at.after(longest).after(group.hold_limit), group);
    }

    /// Why no soak is needed, if so: each unit goes back to what succeeded here not long before the gates started.
    /// One that succeeded later than that did so by a clock that is wrong.
    fn known_good(&self, group: &Group, started_at: Time) -> Option<String> {
        let (window, environment) = (group.rollback_window?, self.rollout.spec.environment);
        let mut oldest: Option<(Time, &Target)> = None;
        for change in &self.rollout.spec.units {
            let passed = &self.view.memory(&change.unit, environment).passed;
            let at = passed.get(change.target.digest()?).copied().filter(|at| *at <= started_at)?;
            if started_at.since(at) > window {
                return None;
            }
            oldest = oldest.filter(|(oldest, _)| *oldest <= at).or(Some((at, &change.target)));
        }
        let (at, target) = oldest?;
        let at = at.shown(started_at);
        Some(format!("none: {} succeeded here at {at}, within the group's rollback window", target.short()))
    }

    /// Judges one gate, and says what it waits for and what is to be measured.
    fn judge(&mut self, gate: &Gate<'_>, progress: &mut GateProgress, nodes: &Nodes) {
        let at = GateRef {
            rollout: self.id.clone(),
            group: self.progress.name.clone(),
            gate: gate.key.clone(),
            since: self.progress.since.get(&gate.change.unit).copied().unwrap_or(0),
        };
        let now = self.view.now;
        let evidence = Evidence {
            now,
            watching_since: self.view.snapshot.watching_since,
            samples: self.view.snapshot.samples.get(&at).map_or(&[], Vec::as_slice),
            live: nodes.live > 0,
            counts: gates::counts_requests(gate.change),
            job: &gates::job_name(&at, progress.reruns),
        };
        let stored = progress.clone();
        verdict::judge(progress, gate.check, &evidence);
        match gate.check {
            Check::Soak { duration, min_requests } => {
                let left = duration.saturating_sub(progress.watched);
                let until = (!left.is_zero()).then(|| now.after(left));
                self.wake.extend(until);
                self.wake.extend(until.map(|_| now.after(WATCH_EVERY)));
                let requests = min_requests.filter(|_| evidence.counts).map(|min| (progress.requests, min));
                if progress.verdict != Verdict::Pass {
                    self.waiting.push(Waiting::Soak { until, requests });
                }
            }
            Check::ErrorRate { .. } | Check::Prometheus { .. } | Check::Job => {
                if let (Check::Job, Some(failed_at)) = (gate.check, progress.last_sample_at) {
                    self.wake.push(failed_at.after(verdict::RERUN_AFTER));
                }
                if progress.verdict != Verdict::Pass {
                    let message = progress.message.clone();
                    self.waiting.push(Waiting::Gate { gate: gate.key.clone(), message });
                }
            }
        }
        self.observe.extend(wanted(gate, &stored, progress, at, evidence.counts));
    }

    /// A gate failed. One that cannot tell units apart accuses all attempts that were there since it began.
    fn fail(&mut self, gate: &Gate<'_>, message: String, group: &Group, started_at: Time) {
        let with = together::there_since(self.view, self.id, self.rollout, &self.progress.name, started_at);
        let cause = match group.on_gate_failure {
            OnGateFailure::Revert if gate.is_shared() && !with.is_empty() => Cause::Shared { with },
            OnGateFailure::Revert | OnGateFailure::Pause => Cause::GateFailed,
        };
        self.stop(cause, message, group.on_gate_failure);
    }
}

/// What is to be measured for a gate. Counters and Jobs go on from what is stored: what is only in this
/// plan is forgotten with it. Answers of queries are offered again until they are stored.
fn wanted(gate: &Gate<'_>, stored: &GateProgress, now: &GateProgress, at: GateRef, counts: bool) -> Option<Wanted> {
    let unit = gate.change.unit.clone();
    let target = gate.change.target.clone();
    match gate.check {
        Check::Soak { min_requests: None, .. } => None,
        Check::Soak { min_requests: Some(_), .. } | Check::ErrorRate { .. } => {
            let revision = target.digest().cloned().filter(|_| counts)?;
            let from = stored.last_sample_at.unwrap_or(stored.started_at);
            Some(Wanted::Counters { gate: at, unit, revision, from })
        }
        Check::Prometheus { interval, range, .. } => {
            let first = now.started_at.after(*range);
            let due = now.last_sample_at.map_or(first, |last| last.after(*interval).max(first));
            Some(Wanted::Query { gate: at, spec: gate.origin.clone(), unit, target, due })
        }
        Check::Job => match stored.verdict {
            Verdict::Running | Verdict::Inconclusive => {
                let name = gates::job_name(&at, now.reruns);
                Some(Wanted::Job { gate: at, spec: gate.origin.clone(), name, unit, target })
            }
            Verdict::Pass | Verdict::Fail => None,
        },
    }
}
