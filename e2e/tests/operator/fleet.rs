//! Nodes that are not there: played kubelets, and a dataplane that reports what it is told and counts requests that
//! nobody sent.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use sluice_config::{Counters, Digest, Entry, Exception, ExceptionKind, FORMAT, NodeReport, UnitCounters, UnitRef};
use sluice_crds::{Assignment, DataplaneNode, Revision};
use sluice_e2e::kubelet::{self, Kubelet};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

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
                        eprintln!("{}: {error:#}", node.kubelet.name());
                    }
                    tokio::time::sleep(TICK).await;
                }
            });
        }
        let client = client.clone();
        tasks.spawn(async move {
            loop {
                // `true` succeeds, `false` fails.
                if let Err(error) = kubelet::run_checks(&client, is_good).await {
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
    kubelet: Kubelet,
    boot: String,
    admin: String,
    rows: Rows,
    refuse: Arc<AtomicBool>,
}

impl FakeNode {
    async fn join(client: &Client, name: &str, group: &str, refuse: Arc<AtomicBool>) -> Result<Self> {
        let kubelet = Kubelet::join(client, name, group).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let admin = listener.local_addr()?.to_string();
        let rows = Rows::default();
        let boot = format!("{name}-1");
        tokio::spawn(serve(listener, name.to_owned(), group.to_owned(), boot.clone(), rows.clone()));
        Ok(Self { client: client.clone(), kubelet, boot, admin, rows, refuse })
    }

    async fn tick(&self) -> Result<()> {
        self.kubelet.heartbeat().await?;
        let Some(pod) = self.kubelet.run_pods().await? else { return Ok(()) };
        self.run_workers(&pod).await
    }

    /// What the dataplane does.
    async fn run_workers(&self, pod: &str) -> Result<()> {
        let assignments: Api<Assignment> = Api::all(self.client.clone());
        let nodes: Api<DataplaneNode> = Api::all(self.client.clone());
        let (name, group) = (self.kubelet.name(), self.kubelet.group());
        let Some(node) = nodes.get_opt(name).await? else { return Ok(()) };
        let report = node.status.map(|s| s.report).unwrap_or_default();
        let assigned = assignments.get_opt(group).await?;
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
            group: group.to_owned(),
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
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
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

fn is_good(pod: &Pod) -> bool {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    container.and_then(|container| container.command.as_deref()).is_some_and(|command| command == ["true"])
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
