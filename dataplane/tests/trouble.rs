//! What a node does with revisions that it cannot run, and whose fault it says that is.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod common;

use std::fs;

use common::{
    artifacts::{Artifacts, Conduct},
    client::get,
    content::{HOST, assignment, entry, routes, worker, worker_elsewhere},
    guest,
    node::{Home, Node},
    until,
    upstream::Upstream,
};
use sluice_config::{
    Digest, Entry, Exception, ExceptionKind,
    UnitKind::{Routes, Worker},
};

struct Scene {
    home: Home,
    artifacts: Artifacts,
    shop: Entry,
    v1: Digest,
}

impl Scene {
    /// A shop with a proven worker, v1, and an artifact server.
    async fn new() -> Self {
        let upstream = Upstream::start().await;
        let home = Home::new();
        let artifacts = Artifacts::start(home.dir.path()).await;
        let flags = artifacts.flags();
        let home = home.with_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        let shop = entry(Routes, "shop", &routes(&home.revisions(), "shop", upstream.address), None, 1);
        let v1 = worker(&home.revisions(), "security-headers", &guest("security-headers-v1"), "closed");
        Self { home, artifacts, shop, v1 }
    }

    async fn start(&self) -> Node {
        self.assign(1, &self.v1, vec![]);
        let node = self.home.start();
        node.applied(1).await;
        node
    }

    fn assign(&self, generation: u64, revision: &Digest, more: Vec<Entry>) {
        let mut entries =
            vec![entry(Worker, "security-headers", revision, Some(&self.v1), generation), self.shop.clone()];
        entries.extend(more);
        self.home.assign(&assignment(generation, entries));
    }

    /// The revision whose artifact only the artifact server has.
    fn v3(&self) -> (Digest, Vec<u8>) {
        let wasm = guest("security-headers-v3");
        let artifact = Digest::of(&wasm);
        (worker_elsewhere(&self.home.revisions(), "security-headers", &artifact, wasm.len(), "closed"), wasm)
    }
}

async fn mark(node: &Node) -> String {
    let answer = get(node.clients, HOST, "/").await.unwrap();
    assert_eq!(answer.status, 200);
    answer.header("x-sluice-worker").unwrap_or("none").to_owned()
}

async fn exception(node: &Node) -> Exception {
    until("there is an exception", async || node.report().await.exceptions.first().cloned()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_not_the_artifact_are_never_run_and_the_right_ones_are_run_when_they_come() {
    let scene = Scene::new().await;
    let node = scene.start().await;
    let (v3, wasm) = scene.v3();
    let artifact = Digest::of(&wasm);
    let truncated = wasm[..wasm.len() / 2].to_vec();
    let mut flipped = wasm.clone();
    flipped[100] ^= 1;
    let mut longer = wasm.clone();
    longer.push(0);
    let conducts = [
        (Conduct::Instead(truncated), "bytes instead of"),
        (Conduct::Instead(flipped), "have digest"),
        (Conduct::Instead(longer), "more than"),
        (Conduct::Status(500), "500"),
    ];
    scene.artifacts.set(&artifact, Conduct::Status(404));
    scene.assign(2, &v3, vec![]);
    for (conduct, message) in conducts {
        scene.artifacts.set(&artifact, conduct);
        let told = async || exception(&node).await.message.contains(message).then_some(());
        until(&format!("the exception says `{message}`"), told).await;
        assert_eq!(exception(&node).await.reason, ExceptionKind::LocalTrouble);
        assert_eq!(mark(&node).await, "security-headers/v1");
    }
    scene.artifacts.set(&artifact, Conduct::Whole(wasm));
    until("the exception ends", async || node.report().await.exceptions.is_empty().then_some(())).await;
    assert_eq!(mark(&node).await, "security-headers/v3");
    assert_eq!(node.report().await.applied_generation, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_node_could_run_is_refused_in_words_and_delays_nobody() {
    let scene = Scene::new().await;
    let node = scene.start().await;
    let dir = scene.home.revisions();
    let garbage = worker(&dir, "security-headers", b"\0asm this is no component", "closed");
    let ungranted = worker(&dir, "ungranted", &guest("ungranted"), "closed");
    let fine = worker(&dir, "request-id", &guest("request-id"), "closed");
    let module = worker(&dir, "module", b"\0asm\x01\0\0\0", "closed");
    let more = [("ungranted", &ungranted), ("request-id", &fine), ("module", &module)];
    scene.assign(2, &garbage, more.map(|(name, digest)| entry(Worker, name, digest, None, 2)).to_vec());
    node.applied(2).await;
    let report = node.report().await;
    let refused: Vec<_> = report.exceptions.iter().map(|e| (e.name.as_str(), e.reason)).collect();
    let all = ["module", "security-headers", "ungranted"].map(|name| (name, ExceptionKind::Refused));
    assert_eq!(refused, all, "{:?}", report.exceptions);
    assert!(report.exceptions.iter().all(|e| !e.message.is_empty()));
    assert_eq!(report.exceptions_total, 3);
    // The refused one keeps its last good revision; the fine one runs.
    assert_eq!(mark(&node).await, "security-headers/v1");
    let counters = node.counters().await;
    assert!(counters.units.iter().any(|row| row.unit.name == "request-id" && row.requests == 1), "{counters:?}");
    let asked = scene.artifacts.asked();
    scene.assign(3, &garbage, vec![]);
    node.applied(3).await;
    assert_eq!(scene.artifacts.asked(), asked, "what was refused is not fetched again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_the_group_does_not_have_is_a_refusal() {
    let scene = Scene::new().await;
    let node = scene.start().await;
    let v3 = worker(&scene.home.revisions(), "security-headers", &guest("security-headers-v3"), "closed");
    let mut changed = assignment(2, vec![entry(Worker, "security-headers", &v3, Some(&v3), 2), scene.shop.clone()]);
    changed.stages = vec!["edge".into()];
    scene.home.assign(&changed);
    node.applied(2).await;
    let exception = exception(&node).await;
    assert_eq!(exception.reason, ExceptionKind::Refused);
    assert!(exception.message.contains("stage `security` is not one of this group's: edge"), "{exception:?}");
    let answer = get(node.clients, HOST, "/").await.unwrap();
    assert_eq!(answer.status, 503, "closed, and not simply gone from the chain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_local_trouble_and_what_runs_keeps_running() {
    let scene = Scene::new().await;
    // Without privileges or a tmpfs: a directory that cannot take files, because it is one.
    let node = scene.start().await;
    let artifacts = scene.home.state.join("artifacts");
    until("the cache is written", async || artifacts.exists().then_some(())).await;
    let saved = scene.home.state.join("artifacts.saved");
    fs::rename(&artifacts, &saved).unwrap();
    fs::write(&artifacts, b"").unwrap();
    let v3 = worker(&scene.home.revisions(), "security-headers", &guest("security-headers-v3"), "closed");
    scene.assign(2, &v3, vec![]);
    let exception = exception(&node).await;
    assert_eq!((exception.reason, exception.revision), (ExceptionKind::LocalTrouble, v3));
    assert!(exception.message.contains("disk cache"), "{}", exception.message);
    assert_eq!(mark(&node).await, "security-headers/v1");

    fs::remove_file(&artifacts).unwrap();
    fs::rename(&saved, &artifacts).unwrap();
    until("the exception ends", async || node.report().await.exceptions.is_empty().then_some(())).await;
    assert_eq!(mark(&node).await, "security-headers/v3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_disk_a_new_node_serves_and_says_so() {
    let scene = Scene::new().await;
    fs::write(&scene.home.state, b"a file where the directory should be").unwrap();
    scene.assign(1, &scene.v1, vec![]);
    let node = scene.home.start();
    until("it serves", async || {
        let answer = get(node.clients, HOST, "/").await.unwrap();
        (answer.header("x-sluice-worker") == Some("security-headers/v1")).then_some(())
    })
    .await;
    let report = node.report().await;
    assert_eq!(report.applied_generation, 0, "what a restart would lose is not applied");
    assert!(report.exceptions.iter().all(|e| e.reason == ExceptionKind::LocalTrouble));
    let told = async || node.report().await.last_error.filter(|e| e.contains("disk cache"));
    until("the report says why", told).await;
}

/// A tmpfs of the state directory's own; gone with the test.
struct Tiny(std::path::PathBuf);

impl Tiny {
    /// None where this user may not mount.
    fn mount(at: &std::path::Path, kib: u64) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(at)
            .status();
        mount.is_ok_and(|s| s.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _best_effort = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_space_is_local_trouble_until_there_is_space() {
    let scene = Scene::new().await;
    let sizes = guest("security-headers-v1").len() + guest("security-headers-v3").len();
    let kib = sizes as u64 / 1024;
    let Some(_tiny) = Tiny::mount(&scene.home.state, kib) else {
        eprintln!("not run: mounting a tmpfs needs root; the tests beside it do without");
        return;
    };
    let node = scene.start().await;
    let v3 = worker(&scene.home.revisions(), "security-headers", &guest("security-headers-v3"), "closed");
    scene.assign(2, &v3, vec![]);
    let exception = exception(&node).await;
    assert_eq!((exception.reason, exception.revision), (ExceptionKind::LocalTrouble, v3));
    assert!(exception.message.contains("No space left"), "{}", exception.message);
    assert_eq!(mark(&node).await, "security-headers/v1");
    let left = fs::read_dir(scene.home.state.join("artifacts")).unwrap().count();
    assert_eq!(left, 1, "what could not be written whole is gone");

    let grown = format!("remount,size={}k", 2 * kib);
    let remounted = std::process::Command::new("mount").args(["-o", &grown]).arg(&scene.home.state).status();
    assert!(remounted.unwrap().success());
    until("the exception ends", async || node.report().await.exceptions.is_empty().then_some(())).await;
    assert_eq!(mark(&node).await, "security-headers/v3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compiled_code_gives_way_to_what_a_restart_cannot_do_without() {
    let scene = Scene::new().await;
    let v1 = guest("security-headers-v1");
    // Both of v1 fit, and a few small files, but no second artifact.
    let kib = (v1.len() + sluice_worker::precompile(&v1).unwrap().size()) / 1024 + 48;
    let Some(_tiny) = Tiny::mount(&scene.home.state, kib as u64) else {
        eprintln!("not run: mounting a tmpfs needs root");
        return;
    };
    let node = scene.start().await;
    let compiled = || fs::read_dir(scene.home.state.join("compiled")).unwrap().count();
    assert_eq!(compiled(), 1);
    let v3 = worker(&scene.home.revisions(), "security-headers", &guest("security-headers-v3"), "closed");
    scene.assign(2, &v3, vec![]);
    node.applied(2).await;
    assert_eq!(mark(&node).await, "security-headers/v3");
    assert!(node.report().await.exceptions.is_empty());
    assert_eq!(fs::read_dir(scene.home.state.join("artifacts")).unwrap().count(), 2, "the way back is on disk, too");
    assert!(node.logged("compiled code is removed"));
}
