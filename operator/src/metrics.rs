//! What the operator tells Prometheus about itself.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WriteLabels {
    kind: String,
    verb: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabels {
    environment: &'static str,
    phase: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerdictLabels {
    group: String,
    verdict: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PollLabels {
    namespace: String,
    repository: String,
    result: &'static str,
}

/// All metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconcile_seconds: Histogram,
    conflicts: Counter,
    leader: Gauge,
    writes: Family<WriteLabels, Counter>,
    rollouts: Family<PhaseLabels, Gauge>,
    verdicts: Family<VerdictLabels, Counter>,
    polls: Family<PollLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sluice_operator");
        let buckets = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        let reconcile_seconds = Histogram::new(buckets);
        let (conflicts, leader) = (Counter::default(), Gauge::default());
        let (writes, rollouts) = (Family::default(), Family::default());
        let (verdicts, polls) = (Family::default(), Family::default());
        registry.register("reconcile_seconds", "Duration of one reconciliation", reconcile_seconds.clone());
        registry.register("conflicts", "Writes that came too late", conflicts.clone());
        registry.register("leader", "1 on the replica that decides", leader.clone());
        registry.register("writes", "Writes to the API server, but for Leases", writes.clone());
        registry.register("rollouts", "Rollouts by phase", rollouts.clone());
        registry.register("verdicts", "Changes of gates' verdicts", verdicts.clone());
        registry.register("polls", "Polls of git repositories", polls.clone());
        let registry = Arc::new(registry);
        Self { registry, reconcile_seconds, conflicts, leader, writes, rollouts, verdicts, polls }
    }
}

impl Metrics {
    /// All of it in OpenMetrics' text format.
    ///
    /// # Errors
    /// Never: text can always be written to memory.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// One object was written.
    pub fn wrote(&self, kind: &str, verb: &'static str) {
        self.writes.get_or_create(&WriteLabels { kind: kind.to_owned(), verb }).inc();
    }

    /// One reconciliation took so long.
    pub fn reconciled(&self, seconds: f64) {
        self.reconcile_seconds.observe(seconds);
    }

    /// One write came too late.
    pub fn conflict(&self) {
        self.conflicts.inc();
    }

    /// Whether this replica leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// How many rollouts of an environment are in each phase.
    pub fn rollouts(&self, counts: impl IntoIterator<Item = (&'static str, String, i64)>) {
        self.rollouts.clear();
        for (environment, phase, count) in counts {
            self.rollouts.get_or_create(&PhaseLabels { environment, phase }).set(count);
        }
    }

    /// A gate's verdict changed.
    pub fn verdict(&self, group: &str, verdict: String) {
        self.verdicts.get_or_create(&VerdictLabels { group: group.to_owned(), verdict }).inc();
    }

    /// A poll ended.
    pub fn polled(&self, namespace: &str, repository: &str, result: &'static str) {
        let labels = PollLabels { namespace: namespace.to_owned(), repository: repository.to_owned(), result };
        self.polls.get_or_create(&labels).inc();
    }
}
