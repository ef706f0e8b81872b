//! From what a group should run to a snapshot that requests run on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use sluice_config::{BindingKind, Digest, FALLBACK, Limits, OnFailure, RouteRule, Routes, UnitRef, Upstream, Worker};
use sluice_egress::{Egress, IDLE_TIMEOUT, Origin, OriginError, Policy, Target};
use sluice_worker::{Chosen, Compiled, Identity, LogBudget, Phase};
use tokio::sync::{Semaphore, watch};

use crate::{
    Recorder, UnitRecorder,
    cpu::NodeCpu,
    matching::{RouteRouter, WorkerRouter},
    rate::Rate,
    share::Share,
    trace::{Trace, Traces},
};

/// Settings of the node that every snapshot shares.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// The node's group; a label of logs.
    pub group: String,
    /// Requests inside the chain at once; what is above gets 503.
    pub requests_max: usize,
    /// Calls of one unit at once, over all its revisions; what is above is shed. Less than the engine has
    /// room for: a unit that waits for a slow upstream leaves the others theirs.
    pub unit_calls_max: usize,
    /// Of so many requests, one is traced; 0: none.
    pub trace_every: u64,
    /// Threads that serve.
    pub threads: usize,
    /// Of what these can do, how much one unit of several may always have while the node is busy, in percent (an equal part
    /// where that is more); what is above, and not left by the others, is shed. 100: nothing is.
    pub unit_cpu_percent: u64,
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
            trace_every: 0,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            unit_cpu_percent: 25,
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

pub(crate) struct Shared {
    pub(crate) config: RuntimeConfig,
    pub(crate) egress: Egress,
    pub(crate) recorder: Arc<dyn Recorder>,
    pub(crate) admission: Arc<Semaphore>,
    pub(crate) cpu: NodeCpu,
    pub(crate) traces: Traces,
    /// What a unit may have, over all its revisions; gone with the last snapshot that has it.
    shares: Mutex<BTreeMap<UnitRef, Weak<Share>>>,
    /// For what is logged of upstreams.
    pub(crate) log: LogBudget,
}

impl Shared {
    fn share(&self, unit: &UnitRef) -> Arc<Share> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| share.strong_count() > 0);
        let known = shares.get(unit).and_then(Weak::upgrade);
        let share = known.unwrap_or_else(|| Arc::new(Share::new(self.config.unit_calls_max)));
        shares.insert(unit.clone(), Arc::downgrade(&share));
        share
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
    /// Lets go of the instances that wait for another call: for a snapshot that no request will begin on any more.
    pub fn retire(&self) {
        for station in &self.stations {
            if let Code::Ready(compiled) = &station.code {
                compiled.retire();
            }
        }
    }

    /// Lets go of the instances that are too old for another call.
    pub fn sweep(&self, now: Instant) {
        for station in &self.stations {
            if let Code::Ready(compiled) = &station.code {
                compiled.sweep(now);
            }
        }
    }

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
    /// What its unit may have.
    pub(crate) share: Arc<Share>,
    /// Its `rate` bindings, by name.
    pub(crate) rates: BTreeMap<String, Arc<Rate>>,
    /// The origins of its `fetch` bindings.
    pub(crate) policy: Policy,
    pub(crate) counts: Arc<dyn UnitRecorder>,
}

/// A rule of a route table.
pub(crate) struct Route {
    pub(crate) upstream: Target,
    /// What workers may choose instead, and by which names.
    pub(crate) others: Vec<Target>,
    pub(crate) names: Arc<[String]>,
    /// The one of the others that serves where the upstream cannot be reached.
    pub(crate) fallback: Option<usize>,
    pub(crate) counts: Arc<dyn UnitRecorder>,
}

impl Route {
    pub(crate) fn fallback(&self) -> Option<&Target> {
        self.others.get(self.fallback?)
    }

    /// Where a request goes for which this was chosen.
    pub(crate) fn target(&self, chosen: Option<Chosen>) -> &Target {
        chosen.and_then(|Chosen(other)| self.others.get(other)).unwrap_or(&self.upstream)
    }
}

impl Runtime {
    /// Once per process.
    #[must_use]
    pub fn new(config: RuntimeConfig, egress: Egress, recorder: Arc<dyn Recorder>) -> Self {
        let admission = Arc::new(Semaphore::new(config.requests_max.min(Semaphore::MAX_PERMITS)));
        let cpu = NodeCpu::new(config.threads, config.unit_cpu_percent);
        let traces = Traces::new(config.trace_every);
        let (shares, log) = (Mutex::default(), LogBudget::default());
        Self { shared: Arc::new(Shared { config, egress, recorder, admission, cpu, traces, shares, log }) }
    }

    /// What happened to the last of those requests that are traced, the newest first.
    #[must_use]
    pub fn traces(&self) -> Vec<Arc<Trace>> {
        self.shared.traces.list()
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
        let share = self.shared.share(&loaded.unit);
        let (mut origins, mut rates) = (Vec::new(), BTreeMap::new());
        for binding in &loaded.worker.bindings {
            match &binding.kind {
                BindingKind::Fetch { origins: granted } => {
                    origins.extend(granted.iter().filter_map(|o| o.parse::<Origin>().ok()));
                }
                BindingKind::Rate { requests, per_ms } => {
                    let rate = share.rate(&binding.name, *requests, Duration::from_millis(*per_ms));
                    rates.insert(binding.name.clone(), rate);
                }
            }
        }
        let (log, cpu_ns) = (share.log.clone(), share.cpu_ns());
        let code = match loaded.code {
            // Its instances are those of this worker in this snapshot.
            Code::Ready(compiled) => Code::Ready(compiled.serving(loaded.worker.instances)),
            not_loaded @ Code::NotLoaded { .. } => not_loaded,
        };
        Station {
            share,
            policy: Policy::new(origins),
            rates,
            identity: Arc::new(Identity {
                unit: loaded.unit,
                revision: loaded.revision,
                group: self.shared.config.group.clone(),
                log,
                cpu_ns,
            }),
            limits: loaded.worker.limits,
            on_failure: loaded.worker.on_failure,
            code,
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
            let route = match self.rule(rule, counts.clone()) {
                Ok(route) => route,
                Err(error) => {
                    warn(format!("a rule is ignored: {error}"));
                    continue;
                }
            };
            origins.push(route.upstream.origin().clone());
            origins.extend(route.others.iter().map(|other| other.origin().clone()));
            let number = snapshot.routes.len();
            snapshot.routes.push(route);
            for (host, path) in
                table.routes.hosts.iter().flat_map(|host| rule.paths.iter().map(move |path| (host, path)))
            {
                if !snapshot.routing.add(host, path, number) {
                    warn(format!("{host}{path} is ignored: an earlier rule has it"));
                }
            }
        }
    }

    fn rule(&self, rule: &RouteRule, counts: Arc<dyn UnitRecorder>) -> Result<Route, OriginError> {
        let target = |upstream: &Upstream| self.shared.egress.target(upstream);
        let mut names: Vec<String> = rule.alternatives.keys().cloned().collect();
        let mut others = rule.alternatives.values().map(target).collect::<Result<Vec<_>, _>>()?;
        let fallback = rule.fallback.as_ref().map(target).transpose()?.map(|fallback| {
            names.push(FALLBACK.to_owned());
            others.push(fallback);
            others.len() - 1
        });
        Ok(Route { upstream: target(&rule.upstream)?, others, names: names.into(), fallback, counts })
    }
}
