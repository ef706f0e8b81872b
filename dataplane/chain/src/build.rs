//! From what a group should run to a snapshot that requests run on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use sluice_config::{BindingKind, Digest, Limits, OnFailure, Routes, UnitRef, Upstream, Worker};
use sluice_egress::{Egress, IDLE_TIMEOUT, Origin, Policy, Target};
use sluice_worker::{Compiled, Identity, LogBudget, Phase};
use tokio::sync::{Semaphore, watch};

use crate::{
    Recorder, UnitRecorder,
    matching::{RouteRouter, WorkerRouter},
};

/// Settings of the node that every snapshot shares.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// The node's group; a label of logs.
    pub group: String,
    /// Requests inside the chain at once; what is above gets 503. The engine's `instances_max`
    /// should be this times the longest chain.
    pub requests_max: usize,
    /// Calls of one unit at once, over all its revisions; what is above is shed. Less than the engine has
    /// room for: a unit that waits for a slow upstream leaves the others theirs.
    pub unit_calls_max: usize,
    /// `next` calls a request may make, over all workers, beyond one for each worker of the chain.
    pub next_budget: u32,
    /// How long a client may send nothing in the middle of a request's body, and the chain nothing in that of a response.
    pub body_idle: Duration,
}

impl RuntimeConfig {
    /// The defaults for a node of this group.
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            requests_max: 10_000,
            unit_calls_max: 500,
            next_budget: 64,
            body_idle: IDLE_TIMEOUT,
        }
    }
}

/// What outlives snapshots: egress, admission, recorder. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) shared: Arc<Shared>,
}

/// A unit's calls at once, and what it may log; gone with the last snapshot and the last call that has it.
type Share = (Weak<Semaphore>, Weak<LogBudget>);

pub(crate) struct Shared {
    pub(crate) config: RuntimeConfig,
    pub(crate) egress: Egress,
    pub(crate) recorder: Arc<dyn Recorder>,
    pub(crate) admission: Arc<Semaphore>,
    /// What a unit may have, over all its revisions. Snapshots come and go; calls under way still count.
    shares: Mutex<BTreeMap<UnitRef, Share>>,
    /// For what is logged of upstreams.
    pub(crate) log: LogBudget,
}

impl Shared {
    /// A unit's calls at once, and what it may log.
    fn share(&self, unit: &UnitRef) -> (Arc<Semaphore>, Arc<LogBudget>) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, (calls, log)| calls.strong_count() + log.strong_count() > 0);
        let (calls, log) = shares.get(unit).map_or((None, None), |(calls, log)| (calls.upgrade(), log.upgrade()));
        let fresh = || Arc::new(Semaphore::new(self.config.unit_calls_max.min(Semaphore::MAX_PERMITS)));
        let (calls, log) = (calls.unwrap_or_else(fresh), log.unwrap_or_default());
        shares.insert(unit.clone(), (Arc::downgrade(&calls), Arc::downgrade(&log)));
        (calls, log)
    }
}

/// What a group should run, loaded.
#[derive(Default)]
pub struct Plan {
    /// Stages of the chain, in order.
    pub stages: Vec<String>,
    /// Workers, in any order.
    pub workers: Vec<Loaded>,
    /// Route tables, in any order.
    pub routes: Vec<LoadedRoutes>,
}

/// One worker of a plan.
pub struct Loaded {
    /// Which unit.
    pub unit: UnitRef,
    /// Which revision.
    pub revision: Digest,
    /// Its content in this environment.
    pub worker: Worker,
    /// Its code.
    pub code: Code,
}

/// Whether a worker can be called.
pub enum Code {
    /// It can.
    Ready(Compiled),
    /// It could not be loaded and there is no stable: its `onFailure` decides for each request.
    NotLoaded {
        /// For logs.
        why: String,
    },
}

/// One route table of a plan.
pub struct LoadedRoutes {
    /// Which unit.
    pub unit: UnitRef,
    /// Which revision.
    pub revision: Digest,
    /// Its content in this environment.
    pub routes: Routes,
}

/// What a plan holds that cannot take effect; the rest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Whose content it is.
    pub unit: UnitRef,
    /// What is ignored and why.
    pub message: String,
}

/// Routes, chain and workers, compiled: immutable, shared by the requests that began on it.
pub struct Snapshot {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stations: Vec<Station>,
    pub(crate) workers: WorkerRouter,
    pub(crate) routes: Vec<Route>,
    pub(crate) routing: RouteRouter,
    /// The origins of the routes.
    pub(crate) policy: Policy,
    /// Whether what is still streamed on it is to end.
    pub(crate) over: watch::Sender<bool>,
}

impl Snapshot {
    /// Breaks off the responses whose workers still run on this snapshot: for one that is long superseded.
    pub fn end_streams(&self) {
        self.over.send_replace(true);
    }

    /// Whether they have been.
    #[must_use]
    pub fn has_ended_streams(&self) -> bool {
        *self.over.borrow()
    }

    /// `next` calls that a request may make: passing on once is every worker's right, however many there are.
    pub(crate) fn next_budget(&self) -> u32 {
        let workers = u32::try_from(self.stations.len()).unwrap_or(u32::MAX);
        self.shared.config.next_budget.saturating_add(workers)
    }
}

/// A worker at its place in the chain.
pub(crate) struct Station {
    pub(crate) identity: Arc<Identity>,
    pub(crate) limits: Limits,
    pub(crate) on_failure: OnFailure,
    pub(crate) code: Code,
    /// Its unit's calls at once.
    pub(crate) share: Arc<Semaphore>,
    /// The origins of its `fetch` bindings.
    pub(crate) policy: Policy,
    pub(crate) counts: Arc<dyn UnitRecorder>,
}

/// A rule of a route table.
pub(crate) struct Route {
    pub(crate) upstream: Target,
    pub(crate) fallback: Option<Target>,
    pub(crate) counts: Arc<dyn UnitRecorder>,
}

impl Runtime {
    /// Once per process.
    #[must_use]
    pub fn new(config: RuntimeConfig, egress: Egress, recorder: Arc<dyn Recorder>) -> Self {
        let admission = Arc::new(Semaphore::new(config.requests_max.min(Semaphore::MAX_PERMITS)));
        let (shares, log) = (Mutex::default(), LogBudget::default());
        Self { shared: Arc::new(Shared { config, egress, recorder, admission, shares, log }) }
    }

    /// Compiles a plan. Never fails as a whole: what cannot take effect is a warning (a worker in
    /// a stage that the assignment does not have counts as not loaded).
    #[must_use]
    pub fn snapshot(&self, plan: Plan) -> (Arc<Snapshot>, Vec<Warning>) {
        let mut warnings = Vec::new();
        let (stations, workers) = self.chain(&plan.stages, plan.workers, &mut warnings);
        let mut snapshot = Snapshot {
            shared: self.shared.clone(),
            stations,
            workers,
            routes: Vec::new(),
            routing: RouteRouter::default(),
            policy: Policy::default(),
            over: watch::Sender::new(false),
        };
        let mut tables = plan.routes;
        tables.sort_by(|a, b| a.unit.cmp(&b.unit));
        let mut origins = Vec::new();
        for table in tables {
            self.route(&mut snapshot, table, &mut origins, &mut warnings);
        }
        snapshot.policy = Policy::new(origins);
        (Arc::new(snapshot), warnings)
    }

    fn chain(
        &self,
        stages: &[String],
        mut loaded: Vec<Loaded>,
        warnings: &mut Vec<Warning>,
    ) -> (Vec<Station>, WorkerRouter) {
        let stages: BTreeMap<&str, usize> =
            stages.iter().enumerate().map(|(place, stage)| (stage.as_str(), place)).collect();
        // A worker in no stage comes last, where it fails as its policy says.
        let stage = |w: &Loaded| stages.get(w.worker.chain.stage.as_str()).copied();
        loaded.sort_by(|a, b| {
            let key = |w| stage(w).unwrap_or(usize::MAX);
            (key(a), a.worker.chain.order, &a.unit).cmp(&(key(b), b.worker.chain.order, &b.unit))
        });
        let mut router = WorkerRouter::new(loaded.len());
        let mut stations = Vec::with_capacity(loaded.len());
        for (place, mut worker) in loaded.into_iter().enumerate() {
            if stage(&worker).is_none() {
                let message = format!(
                    "its stage `{}` is none of this group's stages: it counts as not loaded",
                    worker.worker.chain.stage
                );
                worker.code = Code::NotLoaded { why: message.clone() };
                warnings.push(Warning { unit: worker.unit.clone(), message });
            }
            router.add(place, &worker.unit, &worker.worker.match_rules);
            stations.push(self.station(worker));
        }
        (stations, router)
    }

    fn station(&self, loaded: Loaded) -> Station {
        let phases = match &loaded.code {
            Code::Ready(compiled) => compiled.phases(),
            Code::NotLoaded { .. } => &[Phase::Handle],
        };
        let counts = self.shared.recorder.unit(&loaded.unit, &loaded.revision, phases);
        let origins = loaded.worker.bindings.iter().flat_map(|b| match &b.kind {
            BindingKind::Fetch { origins } => origins,
        });
        let (share, log) = self.shared.share(&loaded.unit);
        Station {
            share,
            policy: Policy::new(origins.filter_map(|o| o.parse::<Origin>().ok())),
            identity: Arc::new(Identity {
                unit: loaded.unit,
                revision: loaded.revision,
                group: self.shared.config.group.clone(),
                log,
            }),
            limits: loaded.worker.limits,
            on_failure: loaded.worker.on_failure,
            code: loaded.code,
            counts,
        }
    }

    fn route(
        &self,
        snapshot: &mut Snapshot,
        table: LoadedRoutes,
        origins: &mut Vec<Origin>,
        warnings: &mut Vec<Warning>,
    ) {
        let counts = self.shared.recorder.unit(&table.unit, &table.revision, &[]);
        let mut warn = |message| {
            warnings.push(Warning { unit: table.unit.clone(), message });
        };
        for rule in &table.routes.rules {
            let target = |upstream: &Upstream| self.shared.egress.target(upstream);
            let fallback = rule.fallback.as_ref().map(target).transpose();
            let (upstream, fallback) = match (target(&rule.upstream), fallback) {
                (Ok(upstream), Ok(fallback)) => (upstream, fallback),
                (Err(error), _) | (_, Err(error)) => {
                    warn(format!("a rule is ignored: {error}"));
                    continue;
                }
            };
            origins.push(upstream.origin().clone());
            origins.extend(fallback.iter().map(|f| f.origin().clone()));
            let number = snapshot.routes.len();
            snapshot.routes.push(Route { upstream, fallback, counts: counts.clone() });
            for (host, path) in
                table.routes.hosts.iter().flat_map(|host| rule.paths.iter().map(move |path| (host, path)))
            {
                if !snapshot.routing.add(host, path, number) {
                    warn(format!("{host}{path} is ignored: an earlier rule has it"));
                }
            }
        }
    }
}
