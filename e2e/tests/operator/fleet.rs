//! Nodes that are not there: Node objects with a heartbeat, pods that the DaemonSet controller made and nobody
//! runs, and a dataplane that reports what it is told and counts requests that nobody sent.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use sluice_config::{Counters, Digest, Entry, Exception, ExceptionKind, FORMAT, NodeReport, UnitCounters, UnitRef};
use sluice_crds::{Assignment, DataplaneNode, Revision};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::world::SYSTEM;

pub(crate) const GROUP_LABEL: &str = "node-restriction.kubernetes.io/sluice-group";
/// How fast the dataplane notices things.
const TICK: Duration = Duration::from_millis(100);
const REQUESTS_A_SECOND: f64 = 200.0;

/// Nodes that end when this is dropped.
pub(crate) struct Fleet {
    _tasks: JoinSet<()>,
    refuse: Arc<AtomicBool>,
}

impl Fleet {
    pub(crate) async fn start(client: &Client, nodes: &[(&str, &str)]) -> Result<Self> {
        let mut tasks = JoinSet::new();
        let refuse = Arc::new(AtomicBool::new(false));
        for (name, group) in nodes {
            let node = FakeNode::join(client, name, group, refuse.clone()).await?;
            tasks.spawn(async move {
                loop {
                    if let Err(error) = node.tick().await {
                        eprintln!("{}: {error:#}", node.name);
                    }
                    tokio::time::sleep(TICK).await;
                }
            });
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
        tasks.spawn(async move {
            loop {
                if let Err(error) = run_checks(&pods).await {
                    eprintln!("checks: {error:#}");
                }
                tokio::time::sleep(TICK).await;
            }
        });
        Ok(Self { _tasks: tasks, refuse })
    }

    /// From now on nodes do not take up anything new.
    pub(crate) fn stop_applying(&self, stop: bool) {
        self.refuse.store(stop, Ordering::Relaxed);
    }
}

type Rows = Arc<Mutex<BTreeMap<(UnitRef, Digest), Row>>>;

#[derive(Clone, Copy)]
struct Row {
    since: Instant,
    bad: bool,
}

struct FakeNode {
    client: Client,
    name: String,
    group: String,
    boot: String,
    admin: String,
    rows: Rows,
    refuse: Arc<AtomicBool>,
    beat: Mutex<Option<Instant>>,
}

impl FakeNode {
    async fn join(client: &Client, name: &str, group: &str, refuse: Arc<AtomicBool>) -> Result<Self> {
        let nodes: Api<Node> = Api::all(client.clone());
        let node = json!({"metadata": {"name": name, "labels": {GROUP_LABEL: group}}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        let ready = json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "Fake", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&ready)).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let admin = listener.local_addr()?.to_string();
        let rows = Rows::default();
        let boot = format!("{name}-1");
        tokio::spawn(serve(listener, name.to_owned(), group.to_owned(), boot.clone(), rows.clone()));
        let (name, group, client) = (name.to_owned(), group.to_owned(), client.clone());
        Ok(Self { client, name, group, boot, admin, rows, refuse, beat: Mutex::default() })
    }

    async fn tick(&self) -> Result<()> {
        self.heartbeat().await?;
        let Some(pod) = self.run_pods().await? else { return Ok(()) };
        self.run_workers(&pod).await
    }

    async fn heartbeat(&self) -> Result<()> {
        let due = self.beat.lock().expect("lock").is_none_or(|at| at.elapsed() > Duration::from_secs(5));
        if due {
            *self.beat.lock().expect("lock") = Some(Instant::now());
            let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
            let now = MicroTime(jiff::Timestamp::now());
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": self.name},
                "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now}});
            leases.patch(&self.name, &PatchParams::apply("fake").force(), &Patch::Apply(&lease)).await?;
        }
        Ok(())
    }

    /// What scheduler and kubelet do. The name of the pod that runs here.
    async fn run_pods(&self) -> Result<Option<String>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
        let labels = format!("app.kubernetes.io/component=dataplane,sluice.dev/group={}", self.group);
        for pod in pods.list(&ListParams::default().labels(&labels)).await? {
            let name = pod.name_any();
            if !wants_node(&pod, &self.name) {
                continue;
            }
            if pod.metadata.deletion_timestamp.is_some() {
                // A kubelet would end it now.
                let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                pods.delete(&name, &at_once).await?;
                continue;
            }
            if pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_none() {
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": self.name}});
                let params = PostParams::default();
                pods.create_subresource::<Value, Value>("binding", &name, &params, &binding).await?;
            }
            let ready = |pod: &Pod| pod.status.as_ref().is_some_and(|s| s.pod_ip.is_some());
            if !ready(&pod) {
                let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
                    "conditions": [{"type": "Ready", "status": "True"}]}});
                pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
            }
            return Ok(Some(name));
        }
        Ok(None)
    }

    /// What the dataplane does.
    async fn run_workers(&self, pod: &str) -> Result<()> {
        let assignments: Api<Assignment> = Api::all(self.client.clone());
        let nodes: Api<DataplaneNode> = Api::all(self.client.clone());
        let Some(node) = nodes.get_opt(&self.name).await? else { return Ok(()) };
        let report = node.status.map(|s| s.report).unwrap_or_default();
        let assigned = assignments.get_opt(&self.group).await?;
        let generation = assigned.as_ref().map_or(0, |a| a.spec.wire.generation);
        let held = self.refuse.load(Ordering::Relaxed) && report.pod == pod;
        if report.pod == pod && (report.applied_generation == generation || held) {
            return Ok(());
        }
        let mut exceptions = Vec::new();
        if let Some(assigned) = &assigned {
            assigned.spec.wire.validate().context("an invalid assignment")?;
            for entry in &assigned.spec.wire.entries {
                if let Some(digest) = &entry.revision
                    && let Err(error) = self.load(&entry.unit(), digest).await
                {
                    exceptions.push(exception(entry, digest, &error));
                }
            }
        }
        let report = NodeReport {
            group: self.group.clone(),
            boot: self.boot.clone(),
            pod: pod.to_owned(),
            admin: self.admin.clone(),
            applied_generation: generation,
            exceptions_total: u32::try_from(exceptions.len())?,
            exceptions,
            formats: vec![FORMAT],
            ..NodeReport::default()
        };
        let status = json!({"status": report});
        nodes.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    async fn load(&self, unit: &UnitRef, digest: &Digest) -> Result<()> {
        let key = (unit.clone(), digest.clone());
        if self.rows.lock().expect("lock").contains_key(&key) {
            return Ok(());
        }
        let revisions: Api<Revision> = Api::namespaced(self.client.clone(), &unit.namespace);
        let revision = revisions.get(&sluice_crds::RevisionSpec::object_name(unit, digest)).await?;
        let bad = serde_json::to_string(&revision.spec.content)?.contains("http://bad.");
        self.rows.lock().expect("lock").insert(key, Row { since: Instant::now(), bad });
        Ok(())
    }
}

/// One unit cannot be had; the others can.
fn exception(entry: &Entry, digest: &Digest, error: &anyhow::Error) -> Exception {
    Exception {
        kind: entry.kind,
        namespace: entry.namespace.clone(),
        name: entry.name.clone(),
        revision: digest.clone(),
        reason: ExceptionKind::LocalTrouble,
        message: format!("{error:#}"),
    }
}

/// Gates' Jobs: `true` succeeds, `false` fails and says why.
async fn run_checks(pods: &Api<Pod>) -> Result<()> {
    for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/component=gate")).await? {
        let over = pod.status.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
        let container = pod.spec.as_ref().and_then(|s| s.containers.first()).context("a container")?;
        if over {
            continue;
        }
        let good = container.command.as_deref().is_some_and(|c| c == ["true"]);
        let terminated = json!({"exitCode": i32::from(!good), "reason": if good { "Completed" } else { "Error" },
            "message": if good { "" } else { "one\ncheckout answers 500" }});
        let status = json!({"status": {"phase": if good { "Succeeded" } else { "Failed" }, "containerStatuses": [{
            "name": container.name, "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": terminated}}]}});
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await?;
    }
    Ok(())
}

fn wants_node(pod: &Pod, node: &str) -> bool {
    let text = serde_json::to_string(&pod.spec.as_ref().and_then(|s| s.affinity.as_ref())).unwrap_or_default();
    text.contains(&format!("\"{node}\""))
}

async fn serve(listener: TcpListener, node: String, group: String, boot: String, rows: Rows) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => head.extend_from_slice(&buffer[..read]),
            }
        }
        let units = rows.lock().expect("lock").iter().map(|(key, row)| counted(key, *row)).collect();
        let (node, group, boot) = (node.clone(), group.clone(), boot.clone());
        let counters = Counters { format: FORMAT, node, boot, group, generation: 1, units };
        let body = serde_json::to_string(&counters).unwrap_or_default();
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let _gone = stream.write_all(answer.as_bytes()).await;
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers of a test")]
fn counted((unit, revision): &(UnitRef, Digest), row: Row) -> UnitCounters {
    let requests = (row.since.elapsed().as_secs_f64() * REQUESTS_A_SECOND) as u64;
    UnitCounters {
        unit: unit.clone(),
        revision: revision.clone(),
        requests,
        faults: if row.bad { requests / 10 } else { 0 },
        errors_self: 0,
        errors_other: 0,
        latency: Vec::new(),
    }
}
