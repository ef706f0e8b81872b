//! Killed at any moment, a node comes back from its disk alone.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod common;

use std::{fs, sync::Arc};

use common::{
    artifacts::{Artifacts, Conduct},
    client::get,
    content::{HOST, assignment, entry, routes, worker_elsewhere},
    guest,
    node::{Home, Node},
    until,
    upstream::Upstream,
};
use sluice_config::{
    Digest,
    UnitKind::{Routes, Worker},
};

async fn mark(node: &Node) -> String {
    let answer = get(node.clients, HOST, "/").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("x-sluice-worker").unwrap_or("none").to_owned()
}

struct Scene {
    home: Home,
    artifacts: Artifacts,
    shop: Digest,
    v1: Digest,
    v3: Digest,
}

impl Scene {
    async fn new() -> Self {
        let upstream = Upstream::start().await;
        let home = Home::new();
        let artifacts = Artifacts::start(home.dir.path()).await;
        let flags = artifacts.flags();
        let home = home.with_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        let shop = routes(&home.revisions(), "shop", upstream.address);
        let published = |name: &str| {
            let wasm = guest(name);
            let artifact = Digest::of(&wasm);
            artifacts.set(&artifact, Conduct::Whole(wasm.clone()));
            worker_elsewhere(&home.revisions(), "security-headers", &artifact, wasm.len(), "closed")
        };
        let (v1, v3) = (published("security-headers-v1"), published("security-headers-v3"));
        Self { home, artifacts, shop, v1, v3 }
    }

    fn assign(&self, generation: u64, revision: &Digest) {
        self.home.assign(&assignment(
            generation,
            vec![
                entry(Worker, "security-headers", revision, Some(&self.v1), generation),
                entry(Routes, "shop", &self.shop, None, 1),
            ],
        ));
    }

    /// Takes everything away but the node's own directory.
    fn leave_alone(&self) {
        for file in fs::read_dir(self.home.revisions()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        let _may_be_gone = fs::remove_file(self.home.assignment_file());
        for wasm in ["security-headers-v1", "security-headers-v3"] {
            self.artifacts.set(&Digest::of(&guest(wasm)), Conduct::Status(503));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_needs_nothing_but_the_disk() {
    let scene = Scene::new().await;
    scene.assign(1, &scene.v3);
    let mut node = scene.home.start();
    node.applied(1).await;
    let boot = node.report().await.boot;
    node.kill();
    scene.leave_alone();
    let node = scene.home.start();
    node.ready().await;
    assert_eq!(mark(&node).await, "security-headers/v3");
    node.applied(1).await;
    let report = node.report().await;
    assert_ne!(report.boot, boot);
    assert!(report.exceptions.is_empty(), "the way back is on disk too: {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_of_a_swap_it_comes_back_with_one_of_the_two() {
    let scene = Arc::new(Scene::new().await);
    scene.assign(1, &scene.v1);
    let mut node = scene.home.start();
    node.applied(1).await;
    node.kill();
    let whole = copy_of(&scene.home);
    // Each round is killed at the next step of the swap, as the log shows it.
    for step in ["assignment accepted", "loaded", "snapshot in force", "generation is applied"] {
        restore(&scene.home, &whole);
        scene.assign(1, &scene.v1);
        let mut node = scene.home.start();
        node.applied(1).await;
        scene.assign(2, &scene.v3);
        let v3 = scene.v3.short().to_owned();
        until(step, async || {
            let reached = match step {
                "loaded" => node.logged_both("\"loaded\"", &v3),
                "generation is applied" => node.report().await.applied_generation == 2,
                _ => node.logged_both(step, "\"generation\":2"),
            };
            reached.then_some(())
        })
        .await;
        node.kill();
        let taken = fs::read(scene.home.assignment_file()).unwrap();
        fs::remove_file(scene.home.assignment_file()).unwrap();
        let node = scene.home.start();
        node.ready().await;
        let mark = mark(&node).await;
        let applied = node.report().await.applied_generation;
        let expected = if applied == 2 { "security-headers/v3" } else { "security-headers/v1" };
        assert!(mark == "security-headers/v1" || mark == "security-headers/v3", "{step}: {mark}");
        if applied > 0 {
            assert_eq!(mark, expected, "{step}");
        }
        // And it goes on from there.
        scene.home.assign_bytes(&taken);
        node.applied(2).await;
        assert_eq!(self::mark(&node).await, "security-headers/v3", "{step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_disk_is_repaired_not_served() {
    let scene = Scene::new().await;
    scene.assign(1, &scene.v1);
    let mut node = scene.home.start();
    node.applied(1).await;
    node.kill();
    for dir in ["artifacts", "revisions", "compiled"] {
        for file in fs::read_dir(scene.home.state.join(dir)).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x20;
            fs::write(&path, bytes).unwrap();
        }
    }
    let node = scene.home.start();
    node.applied(1).await;
    assert_eq!(mark(&node).await, "security-headers/v1");
    assert!(node.logged("removing a damaged file"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_holds_no_more_than_what_is_needed() {
    let scene = Scene::new().await;
    scene.assign(1, &scene.v1);
    let node = scene.home.start();
    node.applied(1).await;
    scene.assign(2, &scene.v3);
    node.applied(2).await;
    let files = |dir: &str| fs::read_dir(scene.home.state.join(dir)).unwrap().count();
    assert_eq!((files("artifacts"), files("compiled"), files("revisions")), (2, 2, 3));
    scene.assign(3, &scene.v1);
    node.applied(3).await;
    let left = || (files("artifacts"), files("compiled"), files("revisions"));
    until("v3 is removed", async || (left() == (1, 1, 2)).then_some(())).await;
}

fn copy_of(home: &Home) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = vec![];
    for dir in ["", "artifacts", "revisions", "compiled"] {
        for file in fs::read_dir(home.state.join(dir)).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                files.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
    }
    files
}

fn restore(home: &Home, files: &[(std::path::PathBuf, Vec<u8>)]) {
    fs::remove_dir_all(&home.state).unwrap();
    for (path, bytes) in files {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
