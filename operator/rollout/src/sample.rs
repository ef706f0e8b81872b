//! What the operator measured for gates, as it hands it to the planner.

use crate::Time;

/// One thing measured for one gate. Offer answers of queries until the stored status shows them (its
/// `last_sample_at` is not before theirs): status is written every 15 s, plans remember nothing between.
/// What is known already, or reaches back before the gate's start, is ignored here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// From the nodes' counters.
    Counted(Counted),
    /// From Prometheus.
    Queried(Queried),
    /// From a Job.
    Job {
        /// Its name, as it was wanted.
        name: String,
        /// How it stands.
        state: JobState,
    },
}

/// Requests and errors of one revision on a group's nodes between two instants, added up over nodes and
/// boots. `from` must not lie before the `from` that was last asked for: offer one range from there to now, or,
/// after a restart, from as early as counters are at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Start of the range.
    pub from: Time,
    /// End of the range.
    pub to: Time,
    /// Requests that passed through the revision.
    pub requests: u64,
    /// Those that count as its errors: own faults, and 5xx with origin self.
    pub errors: u64,
    /// The node with the highest share of errors, for the evidence.
    pub worst: Option<WorstNode>,
}

/// The node with the highest share of errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorstNode {
    /// Its name.
    pub node: String,
    /// Requests there.
    pub requests: u64,
    /// Errors there.
    pub errors: u64,
}

/// One evaluation of a Prometheus query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queried {
    /// Start of what it looks at: `at` less the longest range in the query.
    pub from: Time,
    /// The instant it was evaluated for.
    pub at: Time,
    /// What came back.
    pub outcome: QueryOutcome,
}

/// What a query answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryOutcome {
    /// A number, already compared.
    Value {
        /// Whether `failWhen` holds.
        fails: bool,
        /// The comparison as people read it, e.g. `0.31 > 0.25`.
        shown: String,
    },
    /// Not a number.
    NotANumber,
    /// No series.
    Empty,
    /// No answer, or one that could not be read.
    Error(String),
}

/// How a gate's Job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Exists, not finished.
    Running,
    /// Its check passed.
    Succeeded,
    /// Its check failed; last lines of the log.
    Failed(String),
    /// It could not be run (image, quota, eviction): says nothing about the revision.
    Error(String),
}
