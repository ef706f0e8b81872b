//! Turns what a plan wants measured into work, and what was measured into samples.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use kube::{ResourceExt, runtime::reflector::ObjectRef};
use sluice_crds as crd;
use sluice_rollout::{GateOrigin, GateRef, Sample, Wanted};
use tokio::{sync::watch, task::JoinSet};

use super::{
    counters, jobs,
    prometheus::{self, Prometheus},
    promql::{self, Variables},
};
use crate::{
    clock::Clock,
    convert::ids,
    observe::live_pod,
    stores::Stores,
    writer::{WriteError, Writer},
};

/// All that measures. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Gates {
    counter_wants: watch::Sender<counters::Wants>,
    counts: watch::Receiver<counters::Counts>,
    query_wants: watch::Sender<Vec<prometheus::Want>>,
    answers: watch::Receiver<prometheus::Answers>,
    jobs: jobs::Jobs,
    job_wants: Vec<jobs::Want>,
    _tasks: JoinSet<()>,
}

impl Gates {
    /// Starts the tasks that measure.
    #[must_use]
    pub fn start(http: reqwest::Client, prometheus: Option<Prometheus>, namespace: &str, clock: &Clock) -> Self {
        let (counter_wants, wanted_counters) = watch::channel(counters::Wants::default());
        let (counted, counts) = watch::channel(counters::Counts::new());
        let (query_wants, wanted_queries) = watch::channel(Vec::new());
        let (answered, answers) = watch::channel(prometheus::Answers::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(counters::run(http, clock.clone(), wanted_counters, counted));
        tasks.spawn(prometheus::run(prometheus, clock.clone(), wanted_queries, answered));
        let jobs = jobs::Jobs::new(namespace);
        Self { counter_wants, counts, query_wants, answers, jobs, job_wants: Vec::new(), _tasks: tasks }
    }

    /// Resolves when something new was measured.
    pub async fn changed(&mut self) {
        tokio::select! {
            _ = self.counts.changed() => {}
            _ = self.answers.changed() => {}
        }
    }

    /// All that is known of what was wanted last.
    pub fn samples(&mut self, stores: &Stores) -> BTreeMap<GateRef, Vec<Sample>> {
        let mut samples: BTreeMap<GateRef, Vec<Sample>> = BTreeMap::new();
        for (gate, counted) in &*self.counts.borrow_and_update() {
            samples.entry(gate.clone()).or_default().push(Sample::Counted(counted.clone()));
        }
        for (gate, answers) in &*self.answers.borrow_and_update() {
            samples.entry(gate.clone()).or_default().extend(answers.iter().cloned().map(Sample::Queried));
        }
        for (gate, (name, state)) in self.jobs.states(stores, &self.job_wants) {
            samples.entry(gate).or_default().push(Sample::Job { name, state });
        }
        samples
    }

    /// Measures this from now on, and nothing else. Whether something of it is known already: nothing else would tell.
    ///
    /// # Errors
    /// When a Job cannot be written.
    pub async fn want(&mut self, wanted: &[Wanted], writer: &Writer, stores: &Stores) -> Result<bool, WriteError> {
        let mut counted = counters::Wants::default();
        let (mut queried, mut jobs) = (Vec::new(), Vec::new());
        for want in wanted {
            match want {
                Wanted::Counters { gate, unit, revision, from } => {
                    let (unit, revision) = (ids::wire_unit(unit), ids::wire_digest(revision));
                    counted.nodes.entry(gate.group.clone()).or_insert_with(|| admins(stores, &gate.group));
                    counted.gates.push(counters::Want { gate: gate.clone(), unit, revision, from: *from });
                }
                Wanted::Query { .. } => queried.extend(query(stores, want)),
                Wanted::Job { .. } => jobs.extend(job(stores, want)),
                // No gate's.
                Wanted::Evidence { .. } => {}
            }
        }
        let put = |old: &mut counters::Wants| (*old != counted).then(|| *old = counted).is_some();
        self.counter_wants.send_if_modified(put);
        let put = |old: &mut Vec<prometheus::Want>| (*old != queried).then(|| *old = queried).is_some();
        self.query_wants.send_if_modified(put);
        // One that another operator began may be over: no watch will tell of it.
        let before: BTreeSet<&str> = self.job_wants.iter().map(|want| want.name.as_str()).collect();
        let mut new = jobs.iter().filter(|want| !before.contains(want.name.as_str()));
        let is_known = new.any(|want| self.jobs.is_there(stores, want));
        self.job_wants = jobs;
        self.jobs.ensure(writer, stores, &self.job_wants).await.map(|()| is_known)
    }
}

/// Where the counters of a group's live nodes are. The port is the node's word; the address is the pod's, so
/// that a node cannot make the operator ask elsewhere.
fn admins(stores: &Stores, group: &str) -> BTreeMap<String, SocketAddr> {
    let nodes = stores.dataplane_nodes.state_filter(|node| node.spec.group == group);
    let address = |node: &crd::DataplaneNode| -> Option<SocketAddr> {
        let pod = live_pod(stores, node)?;
        let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()?;
        let port = node.status.as_ref()?.report.admin.rsplit_once(':')?.1.parse().ok()?;
        Some(SocketAddr::new(ip, port))
    };
    nodes.iter().filter_map(|node| Some((node.name_any(), address(node)?))).collect()
}

/// The gate as it is written down.
fn written(stores: &Stores, gate: &GateRef, origin: &GateOrigin) -> Option<crd::Gate> {
    match origin {
        GateOrigin::Group(name) => {
            let group = stores.groups.get(&ObjectRef::new(&gate.group))?;
            group.spec.gates.iter().find(|g| g.name == *name).cloned()
        }
        GateOrigin::Revision(digest, name) => {
            let digest = ids::wire_digest(digest);
            let revision = stores.revisions.find(|r| r.spec.digest == digest)?;
            let gates = revision.spec.content.gates.iter();
            let mut gates = gates.filter_map(|g| serde_json::from_value::<crd::Gate>(g.clone()).ok());
            gates.find(|g| g.name == *name)
        }
    }
}

fn environment_of(stores: &Stores, group: &str) -> Option<sluice_config::Environment> {
    Some(stores.groups.get(&ObjectRef::new(group))?.spec.environment)
}

fn query(stores: &Stores, want: &Wanted) -> Option<prometheus::Want> {
    let Wanted::Query { gate, spec, unit, target, due } = want else { return None };
    let written = written(stores, gate, spec)?.prometheus?;
    let variables = Variables {
        unit: &ids::wire_unit(unit).to_string(),
        namespace: &unit.namespace,
        group: &gate.group,
        revision: target.short(),
        environment: environment_of(stores, &gate.group)?.as_str(),
    };
    Some(prometheus::Want {
        gate: gate.clone(),
        query: promql::substitute(&written.query, &variables),
        fail_when: written.fail_when.parse().ok()?,
        due: *due,
        reach: promql::reach(&written.query),
    })
}

fn job(stores: &Stores, want: &Wanted) -> Option<jobs::Want> {
    let Wanted::Job { gate, spec, name, unit, target } = want else { return None };
    Some(jobs::Want {
        gate: gate.clone(),
        name: name.clone(),
        spec: written(stores, gate, spec)?.job?,
        environment: environment_of(stores, &gate.group)?,
        unit: unit.clone(),
        target: target.clone(),
    })
}
