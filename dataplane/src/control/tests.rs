//! The loop on a directory of route tables, without API server, sockets or wasm.

use std::{fs, path::PathBuf};

use serde_json::json;
use sluice_chain::RuntimeConfig;
use sluice_config::{Assignment, Entry, ExceptionKind, FORMAT, Revision, UnitKind};
use sluice_egress::{Egress, EgressConfig};
use sluice_worker::{Engine, EngineConfig};

use super::*;
use crate::{
    metrics,
    source::{Directory, Source},
};

struct World {
    dir: tempfile::TempDir,
    inputs: mpsc::Sender<Input>,
    reports: watch::Receiver<NodeReport>,
    ready: watch::Receiver<bool>,
    in_force: InForce,
}

impl World {
    fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    /// A process on a directory that an earlier one may have left.
    fn on(dir: tempfile::TempDir) -> Self {
        let at = |name: &str| -> PathBuf { dir.path().join(name) };
        fs::create_dir_all(at("revisions")).unwrap();
        let cache = Arc::new(Cache::new(at("state")));
        cache.prepare().unwrap();
        let source = Source { directory: Some(Directory::new(at("revisions"))), api: None, operator: None };
        let engine = Engine::new(&EngineConfig { instances_max: 4, ..EngineConfig::default() }).unwrap();
        let metrics = Arc::new(Metrics::new("node".into(), "canary".into(), "boot".into()));
        let egress =
            EgressConfig { allow_loopback: true, idle_per_origin_max: 1, idle_timeout: Duration::from_secs(1) };
        let recorder = Arc::new(metrics::Handle(Arc::clone(&metrics)));
        let (inputs, from_inputs) = mpsc::channel(16);
        let (ready, is_ready) = watch::channel(false);
        let (reports, reported) = watch::channel(NodeReport::default());
        let in_force = InForce::default();
        let parts = Parts {
            who: Identity { group: "canary".into(), boot: "boot".into(), pod: "pod".into(), admin: "a:1".into() },
            loader: Arc::new(Loader::new(Arc::clone(&cache), source, engine, "canary".into(), 1)),
            cache,
            runtime: Runtime::new(RuntimeConfig::new("canary"), Egress::new(egress), recorder),
            in_force: Arc::clone(&in_force),
            metrics,
            ready,
            reports,
        };
        drop(tokio::spawn(Control::new(parts, inputs.clone()).run(from_inputs)));
        Self { dir, inputs, reports: reported, ready: is_ready, in_force }
    }

    /// Writes a route table to the directory.
    fn routes(&self, name: &str, upstream: &str) -> Digest {
        let content = json!({"routes": {"hosts": [format!("{name}.example")], "rules": [{
            "paths": ["/*"],
            "upstream": {"url": upstream, "connectTimeoutMs": 1000, "responseTimeoutMs": 1000},
        }]}});
        let revision: Revision = serde_json::from_value(
            json!({"format": FORMAT, "kind": "Routes", "name": name, "staging": content, "production": content}),
        )
        .unwrap();
        let digest = revision.digest().unwrap();
        let path = self.dir.path().join("revisions").join(format!("{digest}.json"));
        fs::write(path, serde_json::to_vec(&revision).unwrap()).unwrap();
        digest
    }

    async fn assign(&self, generation: u64, entries: Vec<Entry>) {
        let assignment = Assignment {
            format: FORMAT,
            environment: Environment::Production,
            generation,
            stages: vec!["edge".into()],
            entries,
        };
        let accepted = Accepted { group: "canary".into(), uid: Some("1".into()), assignment };
        self.inputs.send(Input::Assignment(accepted)).await.unwrap();
    }

    async fn until(&mut self, so: impl FnMut(&NodeReport) -> bool) -> NodeReport {
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, self.reports.wait_for(so)).await.unwrap().unwrap().clone()
    }
}

fn entry(name: &str, revision: &Digest, stable: Option<&Digest>, since: u64) -> Entry {
    Entry {
        kind: UnitKind::Routes,
        namespace: "team".into(),
        name: name.into(),
        revision: Some(revision.clone()),
        stable: stable.cloned(),
        since,
    }
}

#[tokio::test]
async fn an_assignment_is_loaded_put_in_force_saved_and_reported() {
    let mut world = World::new();
    let shop = world.routes("shop", "http://127.0.0.1:1");
    assert!(world.in_force.load().is_none());
    world.assign(3, vec![entry("shop", &shop, None, 1)]).await;
    let report = world.until(|r| r.applied_generation == 3).await;
    assert!(report.exceptions.is_empty() && report.last_error.is_none());
    assert!(*world.ready.borrow() && world.in_force.load().is_some());
    assert!(world.dir.path().join("state/state.json").exists());
}

#[tokio::test]
async fn what_cannot_be_had_is_an_exception_until_it_can() {
    let mut world = World::new();
    let shop = world.routes("shop", "http://127.0.0.1:1");
    let lost = Digest::of(b"nowhere yet");
    world.assign(1, vec![entry("shop", &shop, None, 1), entry("blog", &lost, None, 1)]).await;
    let report = world.until(|r| r.applied_generation == 1).await;
    assert_eq!(report.exceptions.len(), 1);
    assert_eq!(report.exceptions[0].reason, ExceptionKind::LocalTrouble);
    assert_eq!((report.exceptions[0].name.as_str(), &report.exceptions[0].revision), ("blog", &lost));
    let blog = world.routes("blog", "http://127.0.0.1:2");
    world.assign(2, vec![entry("shop", &shop, None, 1), entry("blog", &blog, None, 2)]).await;
    let report = world.until(|r| r.applied_generation == 2).await;
    assert!(report.exceptions.is_empty());
}

#[tokio::test]
async fn a_unit_kept_on_stable_runs_stable_and_changes_over_when_told() {
    let mut world = World::new();
    let (old, new) = (world.routes("shop", "http://127.0.0.1:1"), world.routes("shop", "http://127.0.0.1:2"));
    let unit = UnitRef::new(UnitKind::Routes, "team", "shop");
    world.inputs.send(Input::KeepStable([unit.clone()].into())).await.unwrap();
    world.assign(1, vec![entry("shop", &new, Some(&old), 1)]).await;
    world.until(|r| r.applied_generation == 1).await;
    let saved = || Cache::new(world.dir.path().join("state")).state().unwrap();
    assert_eq!(saved().running, [(unit.clone(), old)]);
    world.inputs.send(Input::KeepStable(BTreeSet::new())).await.unwrap();
    while saved().running != [(unit.clone(), new.clone())] {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_new_process_starts_from_the_disk_alone() {
    let mut first = World::new();
    let shop = first.routes("shop", "http://127.0.0.1:1");
    first.assign(4, vec![entry("shop", &shop, Some(&shop), 1)]).await;
    first.until(|r| r.applied_generation == 4).await;
    fs::remove_dir_all(first.dir.path().join("revisions")).unwrap();
    let mut second = World::on(first.dir);
    let report = second.until(|r| r.applied_generation == 4).await;
    assert!(report.exceptions.is_empty());
    assert!(*second.ready.borrow());
    second.assign(3, vec![]).await;
    let report = second.until(|r| r.last_error.is_some()).await;
    assert!(report.last_error.unwrap().contains("older"), "what is on disk counts as what runs");
}

#[tokio::test]
async fn news_that_cannot_be_read_changes_nothing_and_is_told() {
    let mut world = World::new();
    world.assign(1, vec![]).await;
    world.until(|r| r.applied_generation == 1).await;
    world.inputs.send(Input::AssignmentTrouble("no such field".into())).await.unwrap();
    let report = world.until(|r| r.last_error.is_some()).await;
    assert_eq!(report.applied_generation, 1);
    world.assign(2, vec![]).await;
    let report = world.until(|r| r.applied_generation == 2).await;
    assert_eq!(report.last_error, None);
}
