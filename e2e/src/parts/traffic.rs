//! Steady client traffic: a fixed rate whatever the answers, each request's outcome kept, so that failures are counted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::watch, task::JoinHandle, time::MissedTickBehavior};

/// What is kept of the body of a failure.
const SAYS_BYTES_MAX: usize = 200;

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to, in turn.
    pub targets: Vec<SocketAddr>,
    /// The Host header.
    pub host: String,
    /// The path with its query.
    pub path: String,
    /// Further request headers.
    pub headers: Vec<(String, String)>,
    /// Requests a second over all targets; none waits for an earlier one.
    pub rate_per_second: u32,
    /// When a request counts as failed.
    pub timeout: Duration,
    /// Response headers to keep, in lower case.
    pub keep_headers: Vec<String>,
}

impl Plan {
    /// 20 requests a second for `/`, each with five seconds.
    pub fn new(targets: Vec<SocketAddr>, host: &str) -> Self {
        Self {
            targets,
            host: host.to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            rate_per_second: 20,
            timeout: Duration::from_secs(5),
            keep_headers: Vec::new(),
        }
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A whole response with this status.
    Status(u16),
    /// No whole response within the time.
    TimedOut,
    /// No connection, or one that broke.
    Broken(String),
}

impl Outcome {
    /// Whether a client would call it a failure: no response, or one that blames the server.
    pub fn failed(&self) -> bool {
        !matches!(self, Self::Status(status) if *status < 500)
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was sent, since the start of the traffic.
    pub at: Duration,
    /// How long it took.
    pub latency: Duration,
    /// Where it went.
    pub target: SocketAddr,
    /// How it ended.
    pub outcome: Outcome,
    /// The response headers that the plan keeps.
    pub headers: BTreeMap<String, String>,
    /// Of a response that is a failure, the beginning of its body.
    pub says: String,
}

/// The requests that have ended, in the order of their ends.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All of them.
    pub samples: Vec<Sample>,
}

/// How often and when an outcome was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How often.
    pub count: usize,
    /// When the first such request was sent.
    pub first: Duration,
    /// When the last one was.
    pub last: Duration,
}

impl Report {
    /// Counts by outcome.
    pub fn outcomes(&self) -> BTreeMap<Outcome, Seen> {
        self.seen_by(|sample| Some(sample.outcome.clone()))
    }

    /// Counts by the value of a kept header, of the responses that have it.
    pub fn values_of(&self, header: &str) -> BTreeMap<String, Seen> {
        self.seen_by(|sample| sample.headers.get(header).cloned())
    }

    fn seen_by<K: Ord>(&self, key: impl Fn(&Sample) -> Option<K>) -> BTreeMap<K, Seen> {
        let mut seen: BTreeMap<K, Seen> = BTreeMap::new();
        for sample in &self.samples {
            let Some(key) = key(sample) else { continue };
            let entry = seen.entry(key).or_insert(Seen { count: 0, first: sample.at, last: sample.at });
            entry.count += 1;
            entry.first = entry.first.min(sample.at);
            entry.last = entry.last.max(sample.at);
        }
        seen
    }

    /// The requests that failed.
    pub fn failures(&self) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.outcome.failed()).collect()
    }

    /// The requests of one target.
    pub fn of_target(&self, target: SocketAddr) -> Self {
        Self { samples: self.samples.iter().filter(|sample| sample.target == target).cloned().collect() }
    }

    /// The latency that this share of the requests stayed within.
    pub fn latency_quantile(&self, share: f64) -> Option<Duration> {
        let mut latencies: Vec<Duration> = self.samples.iter().map(|sample| sample.latency).collect();
        latencies.sort();
        let last = latencies.len().checked_sub(1)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index among samples that fit into memory"
        )]
        let index = (last as f64 * share.clamp(0.0, 1.0)).round() as usize;
        latencies.get(index).copied()
    }

    /// Fails, listing what was seen, if any request failed or none was sent.
    pub fn expect_no_failure(&self) -> Result<()> {
        if self.samples.is_empty() {
            bail!("no request was sent");
        }
        if !self.failures().is_empty() {
            bail!("{} of {} requests failed: {:#?}", self.failures().len(), self.samples.len(), self.outcomes());
        }
        Ok(())
    }
}

/// Running traffic. It ends when this value is dropped.
#[derive(Debug)]
pub struct Traffic {
    report: Arc<Mutex<Report>>,
    stop: watch::Sender<bool>,
    sender: JoinHandle<()>,
}

impl Traffic {
    /// Starts to send.
    pub fn start(plan: Plan) -> Result<Self> {
        if plan.targets.is_empty() || plan.rate_per_second == 0 {
            bail!("traffic needs a target and a rate");
        }
        let requests = plan.targets.iter().map(|target| request(&plan, *target)).collect::<Result<Vec<_>>>()?;
        let report = Arc::new(Mutex::new(Report::default()));
        let (stop, stopped) = watch::channel(false);
        let sender = tokio::spawn(send(plan, requests, Arc::clone(&report), stopped));
        Ok(Self { report, stop, sender })
    }

    /// What has ended so far.
    pub fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends nothing more, waits for what is under way, and returns all.
    pub async fn stop(self) -> Result<Report> {
        self.stop.send_replace(true);
        self.sender.await.context("the traffic's task failed")?;
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(report.clone())
    }
}

fn request(plan: &Plan, target: SocketAddr) -> Result<Request<Empty<Bytes>>> {
    let mut builder = Request::get(format!("http://{target}{}", plan.path)).header(http::header::HOST, &plan.host);
    for (name, value) in &plan.headers {
        builder = builder.header(name, value);
    }
    Ok(builder.body(Empty::new())?)
}

async fn send(
    plan: Plan,
    requests: Vec<Request<Empty<Bytes>>>,
    report: Arc<Mutex<Report>>,
    mut stopped: watch::Receiver<bool>,
) {
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let start = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / plan.rate_per_second);
    // Late ticks are made up for: the rate is what counts, not the distance.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = tokio::task::JoinSet::new();
    let mut turn = requests.iter().zip(plan.targets.iter().copied()).cycle();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => break,
        }
        let Some((request, target)) = turn.next() else { break };
        let (client, request, report) = (client.clone(), request.clone(), Arc::clone(&report));
        let (timeout, keep) = (plan.timeout, plan.keep_headers.clone());
        under_way.spawn(async move {
            let sent = Instant::now();
            let (outcome, headers, body) = match tokio::time::timeout(timeout, exchange(&client, request)).await {
                Ok(Ok((status, headers, body))) => (Outcome::Status(status), kept(&headers, &keep), body),
                Ok(Err(error)) => (Outcome::Broken(format!("{error:#}")), BTreeMap::new(), Bytes::new()),
                Err(_) => (Outcome::TimedOut, BTreeMap::new(), Bytes::new()),
            };
            let says = if outcome.failed() { &body[..body.len().min(SAYS_BYTES_MAX)] } else { &[] };
            let says = String::from_utf8_lossy(says).trim().to_owned();
            let sample = Sample { at: sent - start, latency: sent.elapsed(), target, outcome, headers, says };
            report.lock().unwrap_or_else(PoisonError::into_inner).samples.push(sample);
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

/// A response whose body breaks off is no response.
async fn exchange(
    client: &Client<HttpConnector, Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> Result<(u16, HeaderMap, Bytes)> {
    let (parts, body) = client.request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((parts.status.as_u16(), parts.headers, body))
}

fn kept(headers: &HeaderMap, keep: &[String]) -> BTreeMap<String, String> {
    let value = |name: &String| Some((name.clone(), headers.get(name)?.to_str().ok()?.to_owned()));
    keep.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, outcome: Outcome) -> Sample {
        Sample {
            at: Duration::from_millis(at_ms),
            latency: Duration::from_millis(at_ms),
            target: SocketAddr::from(([127, 0, 0, 1], 80)),
            outcome,
            headers: BTreeMap::new(),
            says: String::new(),
        }
    }

    #[test]
    fn a_report_tells_when_a_status_was_first_and_last_seen() {
        let samples =
            vec![sample(30, Outcome::Status(200)), sample(10, Outcome::Status(200)), sample(20, Outcome::TimedOut)];
        let report = Report { samples };
        let seen = Seen { count: 2, first: Duration::from_millis(10), last: Duration::from_millis(30) };
        assert_eq!(report.outcomes().get(&Outcome::Status(200)), Some(&seen));
        assert_eq!(report.failures().len(), 1);
        assert!(report.expect_no_failure().is_err());
        assert_eq!(report.latency_quantile(0.5), Some(Duration::from_millis(20)));
    }

    #[test]
    fn refusals_of_the_client_are_not_failures_of_the_server() {
        assert!(!Outcome::Status(404).failed());
        assert!(Outcome::Status(502).failed());
        assert!(Outcome::Broken("reset".to_owned()).failed());
    }

    #[tokio::test]
    async fn an_absent_server_is_counted_not_waited_for() {
        let mut plan = Plan::new(vec![SocketAddr::from(([127, 0, 0, 1], 9))], "example.com");
        plan.rate_per_second = 100;
        let traffic = Traffic::start(plan).expect("started");
        let seen = crate::wait::until("ten failures", Duration::from_secs(10), || async {
            let failures = traffic.report().failures().len();
            Ok(if failures >= 10 {
                crate::wait::Look::Done(())
            } else {
                crate::wait::Look::NotYet(failures.to_string())
            })
        });
        seen.await.expect("failures");
        assert!(traffic.stop().await.expect("stopped").expect_no_failure().is_err());
    }
}
