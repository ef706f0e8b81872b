//! The loop on a directory of route tables, without API server, sockets or wasm.

use std::{fs, path::PathBuf};

use serde_json::json;
use sluice_chain::RuntimeConfig;
use sluice_config::{Assignment, Entry, ExceptionKind, FORMAT, Revision, UnitKind};
use sluice_egress::{Egress, EgressConfig};
use sluice_worker::{
    Engine, EngineConfig,
    compiler::{CompileLimits, Compiler},
};

use super::*;
use crate::{
    code::Codes,
    fixture::{self, EMPTY},
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
        let (world, control, from_inputs) = Self::by_hand(dir);
        drop(tokio::spawn(control.run(from_inputs)));
        world
    }

    /// The loop, to be stepped by the test.
    fn by_hand(dir: tempfile::TempDir) -> (Self, Control, mpsc::Receiver<Input>) {
        Self::with_compiler(dir, None)
    }

    fn with_compiler(dir: tempfile::TempDir, program: Option<PathBuf>) -> (Self, Control, mpsc::Receiver<Input>) {
        let at = |name: &str| -> PathBuf { dir.path().join(name) };
        fs::create_dir_all(at("revisions")).unwrap();
        let cache = fixture::cache(&at("state"));
        let source = Source { directory: Some(Directory::new(at("revisions"))), api: None, operator: None };
        let engine = Engine::new(&EngineConfig { instances_max: 4, ..EngineConfig::default() }).unwrap();
        let limits = CompileLimits { memory_bytes: 1 << 30, cpu_seconds: 60, wall: Duration::from_secs(60) };
        let codes = Codes::new(engine, Compiler::new(limits, program), Arc::clone(&cache));
        let metrics = Arc::new(Metrics::new("node".into(), "canary".into(), "boot".into()));
        let egress = EgressConfig { allow_loopback: true, ..EgressConfig::default() };
        let recorder = Arc::new(metrics::Handle(Arc::clone(&metrics)));
        let (inputs, from_inputs) = mpsc::channel(16);
        let (ready, is_ready) = watch::channel(false);
        let (reports, reported) = watch::channel(NodeReport::default());
        let in_force = InForce::default();
        let parts = Parts {
            who: Identity { group: "canary".into(), boot: "boot".into(), pod: "pod".into(), admin: "a:1".into() },
            loader: Arc::new(Loader::new(Arc::clone(&cache), source, codes, "canary".into(), 1)),
            cache,
            runtime: Runtime::new(RuntimeConfig::new("canary"), Egress::new(egress), recorder),
            in_force: Arc::clone(&in_force),
            metrics,
            ready,
            reports,
        };
        let control = Control::new(parts, inputs.clone());
        (Self { dir, inputs, reports: reported, ready: is_ready, in_force }, control, from_inputs)
    }

    /// Writes a route table to the directory.
    fn routes(&self, name: &str, upstream: &str) -> Digest {
        let content = json!({"routes": {"hosts": [format!("{name}.example")], "rules": [{
            "paths": ["/*"],
            "upstream": {"url": upstream, "connectTimeoutMs": 1000, "responseTimeoutMs": 1000},
        }]}});
        self.write(json!({"format": FORMAT, "kind": "Routes", "name": name, "staging": content, "production": content}))
    }

    /// Writes the revision of a worker, closed, whose artifact is nowhere.
    fn worker(&self, name: &str, stage: &str) -> Digest {
        self.worker_of(name, stage, b"nowhere")
    }

    fn worker_of(&self, name: &str, stage: &str, artifact: &[u8]) -> Digest {
        let content = json!({"worker": {
            "chain": {"stage": stage, "order": 10},
            "limits": {"cpuMs": 1000, "wallMs": 10_000, "memoryBytes": 33_554_432},
            "onFailure": "closed",
        }});
        self.write(json!({
            "format": FORMAT, "kind": "Worker", "name": name,
            "artifact": {"digest": Digest::of(artifact), "size": artifact.len()},
            "staging": content, "production": content,
        }))
    }

    fn write(&self, revision: serde_json::Value) -> Digest {
        let revision: Revision = serde_json::from_value(revision).unwrap();
        let digest = revision.digest().unwrap();
        let path = self.dir.path().join("revisions").join(format!("{digest}.json"));
        fs::write(path, serde_json::to_vec(&revision).unwrap()).unwrap();
        digest
    }

    async fn status(&self, host: &str) -> http::StatusCode {
        let request = http::Request::get("/").header("host", host).body(sluice_egress::empty()).unwrap();
        let client = sluice_chain::ClientInfo::new("192.0.2.1:1".parse().unwrap(), false);
        self.in_force.load_full().unwrap().handle(request, &client).await.status()
    }

    async fn assign(&self, generation: u64, entries: Vec<Entry>) {
        self.inputs.send(assignment(generation, entries)).await.unwrap();
    }

    async fn until(&mut self, so: impl FnMut(&NodeReport) -> bool) -> NodeReport {
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, self.reports.wait_for(so)).await.unwrap().unwrap().clone()
    }
}

fn assignment(generation: u64, entries: Vec<Entry>) -> Input {
    let assignment = Assignment {
        format: FORMAT,
        environment: Environment::Production,
        generation,
        stages: vec!["edge".into()],
        entries,
    };
    Input::Assignment(Accepted { group: "canary".into(), uid: Some("1".into()), assignment })
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

/// Hands the loop what its loads tell until all of them have ended, but for what `keep_back` names.
async fn take_loads(control: &mut Control, inputs: &mut mpsc::Receiver<Input>, loads: usize, keep_back: UnitKind) {
    let mut ended = 0;
    while ended < loads {
        let input = inputs.recv().await.unwrap();
        let kind = if let Input::Loaded(key, _) = &input { Some(key.0.kind) } else { None };
        ended += usize::from(kind.is_some());
        if kind != Some(keep_back) {
            control.take(input);
        }
    }
}

#[tokio::test]
async fn a_worker_that_still_loads_when_patience_ends_is_not_skipped() {
    let (world, mut control, mut inputs) = World::by_hand(tempfile::tempdir().unwrap());
    let (shop, auth) = (world.routes("shop", "http://127.0.0.1:1"), world.worker("auth", "edge"));
    let auth = Entry { kind: UnitKind::Worker, ..entry("auth", &auth, Some(&auth), 1) };
    control.take(assignment(1, vec![entry("shop", &shop, None, 1), auth]));
    let start = control.started_at;
    control.step(start);
    take_loads(&mut control, &mut inputs, 2, UnitKind::Worker).await;
    control.step(start + PATIENCE - Duration::from_secs(1));
    assert!(!*world.ready.borrow());
    control.step(start + PATIENCE);
    assert!(*world.ready.borrow());
    assert_eq!(world.status("shop.example").await, 503, "closed, and not there yet");
    let reported = |control: &mut Control, at| {
        control.step(at);
        control.applied_generation
    };
    assert_eq!(reported(&mut control, start + PATIENCE), 0);
    // It holds up the news of others no longer than so.
    let slow = start + Duration::from_secs(120);
    control.step(slow);
    let saved = loop {
        if let input @ Input::Saved(_) = inputs.recv().await.unwrap() {
            break input;
        }
    };
    control.take(saved);
    assert_eq!(reported(&mut control, slow), 1);
    assert_eq!(world.reports.borrow().exceptions[0].reason, ExceptionKind::LocalTrouble);
    assert_eq!(world.status("shop.example").await, 503);
}

#[tokio::test]
async fn nobody_is_served_while_it_is_unknown_what_a_proven_worker_guards() {
    let (world, mut control, mut inputs) = World::by_hand(tempfile::tempdir().unwrap());
    let (shop, lost) = (world.routes("shop", "http://127.0.0.1:1"), Digest::of(b"nowhere yet"));
    let auth = Entry { kind: UnitKind::Worker, ..entry("auth", &lost, Some(&lost), 1) };
    control.take(assignment(1, vec![entry("shop", &shop, None, 1), auth]));
    let start = control.started_at;
    control.step(start);
    take_loads(&mut control, &mut inputs, 2, UnitKind::Config).await;
    control.step(start + 2 * PATIENCE);
    assert!(!*world.ready.borrow());
}

#[tokio::test]
async fn a_worker_new_to_a_node_that_serves_is_absent_until_it_is_loaded() {
    let (world, mut control, mut inputs) = World::by_hand(tempfile::tempdir().unwrap());
    let (shop, auth) = (world.routes("shop", "http://127.0.0.1:1"), world.worker("auth", "edge"));
    control.take(assignment(1, vec![entry("shop", &shop, None, 1)]));
    let start = control.started_at;
    control.step(start);
    take_loads(&mut control, &mut inputs, 1, UnitKind::Config).await;
    control.step(start);
    assert_eq!(world.status("shop.example").await, 502, "nobody listens there");
    let auth = Entry { kind: UnitKind::Worker, ..entry("auth", &auth, Some(&auth), 2) };
    control.take(assignment(2, vec![entry("shop", &shop, None, 1), auth]));
    control.step(start);
    take_loads(&mut control, &mut inputs, 1, UnitKind::Worker).await;
    control.step(start + decide::GRACE);
    assert_eq!(world.status("shop.example").await, 502);
}

#[tokio::test]
async fn a_write_that_became_moot_leaves_nothing_to_be_tried_again() {
    let (world, mut control, mut inputs) = World::by_hand(tempfile::tempdir().unwrap());
    let shop = world.routes("shop", "http://127.0.0.1:1");
    control.take(assignment(1, vec![entry("shop", &shop, None, 1)]));
    let now = control.started_at;
    control.step(now);
    take_loads(&mut control, &mut inputs, 1, UnitKind::Config).await;
    control.step(now);
    loop {
        let input = inputs.recv().await.unwrap();
        let is_saved = matches!(input, Input::Saved(_));
        control.take(input);
        if is_saved {
            break;
        }
    }
    // A change that cannot be written, and is taken back.
    control.take(Input::KeepStable([UnitRef::new(UnitKind::Routes, "team", "other")].into()));
    control.step(now);
    control.take(Input::Saved(Err("disk full".into())));
    control.take(Input::KeepStable(BTreeSet::new()));
    control.step(now);
    assert_eq!(control.saver.next_retry(), None);
    assert_eq!(control.saver.error(), None);
}

#[tokio::test]
async fn streams_of_what_was_replaced_end_after_an_hour_and_of_what_was_reverted_after_a_minute() {
    let (world, mut control, mut inputs) = World::by_hand(tempfile::tempdir().unwrap());
    let revisions = [1, 2, 3].map(|n| world.routes("shop", &format!("http://127.0.0.1:{n}")));
    let [stable, v2, v3] = &revisions;
    let start = control.started_at;
    let mut swap = async |control: &mut Control, generation, revision, loads| {
        control.take(assignment(generation, vec![entry("shop", revision, Some(stable), generation)]));
        control.step(start);
        take_loads(control, &mut inputs, loads, UnitKind::Config).await;
        control.step(start + decide::GRACE);
        world.in_force.load_full().unwrap()
    };
    // Each is held, as a stream would.
    let first = swap(&mut control, 1, v2, 2).await;
    let second = swap(&mut control, 2, v3, 1).await;
    control.step(start + Duration::from_secs(3_000));
    assert!(!first.has_ended_streams());
    control.step(start + Duration::from_secs(3_700));
    assert!(first.has_ended_streams() && !second.has_ended_streams());
    let third = swap(&mut control, 3, stable, 0).await;
    control.step(start + Duration::from_secs(70));
    assert!(second.has_ended_streams() && !third.has_ended_streams());
}

#[tokio::test]
async fn what_loads_one_by_one_goes_in_together_and_the_way_back_waits_for_nothing() {
    let (world, mut control, mut inputs) = World::by_hand(tempfile::tempdir().unwrap());
    let [old, new] = [1, 2].map(|n| world.routes("shop", &format!("http://127.0.0.1:{n}")));
    let others = ["blog", "news"].map(|name| (name, world.routes(name, "http://127.0.0.1:3")));
    let assigned = |generation, shop: &Digest| {
        let shop = entry("shop", shop, Some(&old), generation);
        let others = others.iter().map(|(name, revision)| entry(name, revision, None, 2));
        assignment(generation, others.chain([shop]).collect())
    };
    let start = control.started_at;
    let later = start + 2 * decide::GRACE;
    control.take(assignment(1, vec![entry("shop", &new, Some(&old), 1)]));
    control.step(start);
    take_loads(&mut control, &mut inputs, 2, UnitKind::Config).await;
    control.step(start + decide::GRACE);
    let served = async || {
        let all = [world.status("blog.example").await, world.status("news.example").await];
        all.iter().filter(|status| **status == 502).count()
    };
    // As if that had taken long.
    control.swap_after = start + Duration::from_secs(3600);
    control.take(assigned(2, &new));
    control.step(later);
    take_loads(&mut control, &mut inputs, 1, UnitKind::Config).await;
    control.step(later);
    assert_eq!(served().await, 0, "the other one is still being loaded");
    assert_eq!(control.applied_generation, 0);
    control.take(assigned(3, &old));
    control.step(later);
    assert_eq!(control.current[&UnitRef::new(UnitKind::Routes, "team", "shop")], old);
    assert_eq!(served().await, 1, "what is there goes in with it");
    control.swap_after = start + Duration::from_secs(3600);
    take_loads(&mut control, &mut inputs, 1, UnitKind::Config).await;
    control.step(later);
    assert_eq!(served().await, 2, "nothing more comes");
}

#[tokio::test]
async fn a_load_that_is_due_during_a_sweep_waits_for_its_end() {
    let (world, mut control, mut inputs) = World::by_hand(tempfile::tempdir().unwrap());
    let lost = Digest::of(b"nowhere yet");
    control.take(assignment(1, vec![entry("shop", &lost, None, 1)]));
    control.step(control.started_at);
    take_loads(&mut control, &mut inputs, 1, UnitKind::Config).await;
    control.step(control.started_at);
    let saved = inputs.recv().await.unwrap();
    assert!(matches!(saved, Input::Saved(Ok(()))));
    control.take(saved);
    control.step(control.started_at);
    assert!(control.saver.is_sweeping() && control.loads.next_retry().is_some());
    let soon = Instant::now() + Duration::from_millis(900);
    assert!(control.next_wake() > soon, "nothing can be done before");
    let swept = inputs.recv().await.unwrap();
    assert!(matches!(swept, Input::Swept(Ok(()))));
    control.take(swept);
    assert!(control.next_wake() < soon);
    drop(world);
}

#[tokio::test]
async fn what_nobody_wants_any_more_is_not_compiled_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (program, pid) = (dir.path().join("compiler"), dir.path().join("pid"));
    let script = dir.path().join("script");
    fs::write(&script, "#!/bin/sh\necho $$ >${0%/*}/pid\nexec sleep 1000\n").unwrap();
    // By another process: what this one writes, a child of another test may hold open, and then it cannot be executed.
    let installed = std::process::Command::new("install").arg("-m700").args([&script, &program]).status();
    assert!(installed.unwrap().success());
    let (world, mut control, mut inputs) = World::with_compiler(dir, Some(program));
    fs::write(world.dir.path().join("revisions/a.wasm"), EMPTY).unwrap();
    let auth = world.worker_of("auth", "edge", EMPTY);
    control.take(assignment(1, vec![Entry { kind: UnitKind::Worker, ..entry("auth", &auth, None, 1) }]));
    control.step(control.started_at);
    let began = Instant::now();
    let pid = loop {
        let written = fs::read_to_string(&pid).unwrap_or_default();
        if written.ends_with('\n') {
            break written.trim().to_owned();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no compiler was started");
        tokio::task::yield_now().await;
    };
    assert!(!control.loads.none_in_flight());
    control.take(assignment(2, vec![]));
    control.step(control.started_at);
    while !control.loads.none_in_flight() {
        let input = inputs.recv().await.unwrap();
        assert!(!matches!(input, Input::Loaded(..)), "it went on");
        control.take(input);
    }
    // Nobody may have asked yet how it ended.
    let stat = PathBuf::from(format!("/proc/{pid}/stat"));
    while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(began.elapsed() < Duration::from_secs(60), "the compiler runs on");
        tokio::task::yield_now().await;
    }
}
