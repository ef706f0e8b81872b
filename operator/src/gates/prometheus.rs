//! Queries to Prometheus: each at the instant at which it is due. Whatever is no plain number is said so.

mod answer;
mod compare;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use sluice_rollout::{GateRef, Queried, QueryOutcome, Time};
use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
};

use crate::{clock::Clock, config::Config};

pub use self::compare::{Comparison, ComparisonError};

/// Prometheus itself gives up after this, too.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A query that is due for longer than this is evaluated for now.
const LATE: Duration = Duration::from_secs(10);
/// Queries at once; Prometheus has other users.
const AT_ONCE: usize = 8;
/// Answers kept for a gate: until its status shows them, which takes 15 s at most.
const KEPT: usize = 32;

/// Why Prometheus cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file that a flag names.
    #[error("{path}: {source}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// The client.
    #[error("the HTTP client cannot be made: {0}")]
    Client(#[from] reqwest::Error),
    /// The URL.
    #[error("--prometheus-url: {0}")]
    Url(String),
}

/// One evaluation that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Want {
    /// For this gate.
    pub gate: GateRef,
    /// The query, variables replaced.
    pub query: String,
    /// What makes the sample fail.
    pub fail_when: Comparison,
    /// For this instant.
    pub due: Time,
    /// How far back the query looks.
    pub reach: Duration,
}

/// What was answered, by gate, oldest first.
pub type Answers = BTreeMap<GateRef, VecDeque<Queried>>;

/// Asks Prometheus.
#[derive(Clone)]
pub struct Prometheus {
    client: prometheus_http_query::Client,
    token: Option<PathBuf>,
}

impl Prometheus {
    /// As flags say; none where they name no Prometheus.
    ///
    /// # Errors
    /// When a flag is wrong.
    pub fn new(config: &Config) -> Result<Option<Self>, SetupError> {
        let Some(url) = &config.prometheus_url else { return Ok(None) };
        let mut builder = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &config.prometheus_ca {
            let pem = std::fs::read(path).map_err(|source| SetupError::File { path: path.clone(), source })?;
            for authority in reqwest::Certificate::from_pem_bundle(&pem)? {
                builder = builder.add_root_certificate(authority);
            }
        }
        let client = prometheus_http_query::Client::from(builder.build()?, url);
        let client = client.map_err(|error| SetupError::Url(error.to_string()))?;
        Ok(Some(Self { client, token: config.prometheus_token.clone() }))
    }

    /// The outcome of a query at an instant, in whole seconds.
    async fn ask(&self, want: &Want, second: i64) -> QueryOutcome {
        let seconds = i64::try_from(TIMEOUT.as_secs()).unwrap_or(10);
        let mut query = self.client.query(&want.query).at(second).timeout(seconds);
        if let Some(path) = &self.token {
            // Read each time: such tokens are replaced while we run.
            let token = match tokio::fs::read_to_string(path).await {
                Ok(token) => token,
                Err(error) => return QueryOutcome::Error(format!("{}: {error}", path.display())),
            };
            let Ok(value) = http::HeaderValue::try_from(format!("Bearer {}", token.trim())) else {
                return QueryOutcome::Error(format!("{} holds no token", path.display()));
            };
            query = query.header(http::header::AUTHORIZATION, value);
        }
        let read = async {
            let response = query.post_raw().await.map_err(|error| answer::without_url(&error))?;
            answer::read(response).await
        };
        match read.await {
            Ok(value) => answer::outcome(value, &want.fail_when),
            Err(error) => QueryOutcome::Error(error),
        }
    }
}

/// Asks as long as anybody listens: each query at the instant at which it is due, whatever the others wait for.
pub async fn run(
    prometheus: Option<Prometheus>,
    clock: Clock,
    mut wants: watch::Receiver<Vec<Want>>,
    answers: watch::Sender<Answers>,
) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked: Vec<(Want, AbortHandle)> = Vec::new();
    let mut asks = JoinSet::new();
    loop {
        let wanted = wants.borrow_and_update().clone();
        answers.send_if_modified(|all| {
            let before = all.len();
            all.retain(|gate, _| wanted.iter().any(|want| want.gate == *gate));
            all.len() != before
        });
        asked.retain(|(want, ask)| {
            let stays = wanted.contains(want);
            if !stays {
                ask.abort();
            }
            stays
        });
        for want in wanted {
            let known = asked.iter().any(|(known, _)| *known == want) || answered(&answers.borrow(), &want);
            if !known {
                let ask = ask_when_due(prometheus.clone(), clock.clone(), turns.clone(), want.clone());
                asked.push((want, asks.spawn(ask)));
            }
        }
        tokio::select! {
            changed = wants.changed() => if changed.is_err() { return },
            // One that was called off is an error, and no answer.
            Some(asked) = asks.join_next() => if let Ok((gate, queried)) = asked {
                answers.send_modify(|all| {
                    let kept = all.entry(gate).or_default();
                    kept.push_back(queried);
                    if kept.len() > KEPT { kept.pop_front(); }
                });
            },
        }
    }
}

async fn ask_when_due(
    prometheus: Option<Prometheus>,
    clock: Clock,
    turns: Arc<Semaphore>,
    want: Want,
) -> (GateRef, Queried) {
    let second = second_for(want.due, clock.now());
    let at = Time(second.saturating_mul(1000));
    tokio::time::sleep(clock.until(at)).await;
    let _turn = turns.acquire().await;
    let outcome = match prometheus {
        Some(prometheus) => prometheus.ask(&want, second).await,
        None => QueryOutcome::Error("the operator knows no Prometheus: set prometheus.url".to_owned()),
    };
    let reach_ms = i64::try_from(want.reach.as_millis()).unwrap_or(i64::MAX);
    (want.gate, Queried { from: Time(at.0.saturating_sub(reach_ms)), at, outcome })
}

fn answered(answers: &Answers, want: &Want) -> bool {
    answers.get(&want.gate).is_some_and(|kept| kept.iter().any(|queried| queried.at >= want.due))
}

/// The first whole second that is not before what is due: an earlier one would reach back too far.
fn second_for(due: Time, now: Time) -> i64 {
    let instant = if now.since(due) > LATE { now } else { due };
    instant.0.div_euclid(1000) + i64::from(instant.0.rem_euclid(1000) != 0)
}
