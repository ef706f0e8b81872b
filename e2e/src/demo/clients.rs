//! The clients of the demo: steady traffic to every group, and what its answers say of who was at work.

use std::{fmt, time::Duration};

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::{
    parts::traffic::{Outcome, Plan, Report, Sample, Traffic},
    stage::{HOST, Stage},
};

/// The header by which the worker says which version it is.
pub const WORKER_HEADER: &str = "x-sluice-worker";

/// Running traffic to all groups.
#[derive(Debug)]
pub struct Clients {
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    group: String,
    started: Timestamp,
    traffic: Traffic,
}

/// What the clients saw, when they have stopped or so far.
#[derive(Debug, Default)]
pub struct Seen {
    answers: Vec<Answer>,
}

/// One request and its end.
#[derive(Debug)]
pub struct Answer {
    /// Group that was asked.
    pub group: String,
    /// When it was sent.
    pub sent: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// The worker that marked it, if one did.
    pub worker: Option<String>,
    /// Of a failure, the beginning of its body.
    pub says: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.ended.duration_since(self.sent);
        write!(f, "{} of {}: {:?} after {} ms", self.group, self.sent, self.outcome, took.as_millis())?;
        match &self.worker {
            Some(worker) => write!(f, ", marked by {worker}")?,
            None => f.write_str(", marked by no worker")?,
        }
        if self.says.is_empty() { Ok(()) } else { write!(f, ": {}", self.says) }
    }
}

impl Clients {
    /// Starts traffic: staging and internal are looked at by tests and colleagues, the others by customers, some of
    /// whom go to the checkout.
    pub async fn start(stage: &Stage) -> Result<Self> {
        let mut streams = Vec::new();
        for group in &stage.groups {
            let target = stage.dataplane(group.name).await?;
            let of = |path: &str, rate: u32| -> Result<Stream> {
                let plan = Plan {
                    path: path.to_owned(),
                    rate_per_second: rate,
                    keep_headers: vec![WORKER_HEADER.to_owned()],
                    ..Plan::new(vec![target], HOST)
                };
                Ok(Stream { group: group.name.to_owned(), started: Timestamp::now(), traffic: Traffic::start(plan)? })
            };
            match group.name {
                "staging" | "internal" => streams.push(of("/", 20)?),
                _ => streams.extend([of("/", 40)?, of("/checkout", 5)?]),
            }
        }
        Ok(Self { streams })
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        let answers = self.streams.iter().flat_map(|s| answers(&s.group, s.started, s.traffic.report())).collect();
        Seen { answers }
    }

    /// Stops, and waits for what is under way.
    pub async fn stop(self) -> Result<Seen> {
        let mut all = Vec::new();
        for stream in self.streams {
            let report = stream.traffic.stop().await?;
            all.extend(answers(&stream.group, stream.started, report));
        }
        Ok(Seen { answers: all })
    }
}

fn answers(group: &str, started: Timestamp, report: Report) -> Vec<Answer> {
    let after = |span: Duration| started.checked_add(span).unwrap_or(started);
    let answer = |sample: Sample| Answer {
        group: group.to_owned(),
        sent: after(sample.at),
        ended: after(sample.at + sample.latency),
        outcome: sample.outcome,
        worker: sample.headers.get(WORKER_HEADER).cloned(),
        says: sample.says,
    };
    report.samples.into_iter().map(answer).collect()
}

impl Seen {
    /// All answers.
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// Those that a worker marked.
    pub fn by<'a>(&'a self, mark: &'a str) -> impl Iterator<Item = &'a Answer> {
        self.answers.iter().filter(move |answer| answer.worker.as_deref() == Some(mark))
    }

    /// When a group first answered with a worker.
    pub fn first(&self, group: &str, mark: &str) -> Result<Timestamp> {
        let ended = self.by(mark).filter(|answer| answer.group == group).map(|answer| answer.ended).min();
        ended.with_context(|| format!("{group} never answered with {mark}"))
    }

    /// The requests that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(|answer| answer.outcome.failed())
    }
}
