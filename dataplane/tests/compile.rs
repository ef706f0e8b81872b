//! The compiler's process: what it makes, what ends it, and what a disk keeps of it.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod common;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    bomb,
    client::get,
    content::{HOST, assignment, entry, routes, worker},
    guest,
    node::{Home, Node},
    until,
    upstream::Upstream,
};
use sluice_config::{
    Digest, Exception, ExceptionKind,
    UnitKind::{Routes, Worker},
};
use sluice_worker::{
    CompileError, Engine, EngineConfig,
    compiler::{CompileLimits, Compiler},
    imports,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sluice-dataplane");
const LIMITS: CompileLimits =
    CompileLimits { memory_bytes: 512 << 20, cpu_seconds: 60, wall: Duration::from_secs(600) };

fn compiler(limits: CompileLimits) -> Compiler {
    Compiler::new(limits, Some(PROGRAM.into()))
}

fn engine() -> Engine {
    Engine::new(&EngineConfig { instances_max: 4, ..EngineConfig::default() }).unwrap()
}

#[tokio::test]
async fn what_the_child_makes_loads_in_an_engine_with_a_pool() {
    let (compiler, engine) = (compiler(LIMITS), engine());
    for name in ["security-headers-v1", "filter-redirects", "faults", "handler-hello"] {
        let wasm = guest(name);
        let contract = imports::surface(&wasm).unwrap().check().unwrap();
        let code = compiler.compile(&wasm).await.unwrap();
        engine.load(contract, &code).map(drop).unwrap();
    }
}

#[tokio::test]
async fn a_refusal_has_the_words_that_it_would_have_in_process() {
    let mut changed = guest("request-id");
    let middle = changed.len() / 3;
    changed[middle..middle + 64].fill(0xff);
    for wasm in [&changed, &guest("ungranted")] {
        let in_process = engine().compile(wasm).map(drop).unwrap_err().to_string();
        let in_process: String =
            in_process.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
        let error = compiler(LIMITS).compile(wasm).await.err().unwrap();
        assert!(matches!(error, CompileError::Ended(_)), "{error}");
        assert_eq!(error.to_string(), in_process);
    }
}

#[tokio::test]
async fn what_takes_too_much_cpu_or_memory_is_refused_in_words() {
    let wasm = guest("request-id");
    for (bomb, limits, says) in [
        (bomb::many_functions(&wasm), CompileLimits { cpu_seconds: 1, ..LIMITS }, "more than 1 s of CPU"),
        (bomb::one_function(&wasm), CompileLimits { memory_bytes: 128 << 20, ..LIMITS }, "more than 128 MiB of memory"),
    ] {
        let error = compiler(limits).compile(&bomb).await.err().unwrap();
        assert!(matches!(error, CompileError::Ended(_)), "{says}: {error}");
        assert!(error.to_string().contains(says), "{error}");
        // The same limits are enough for a worker.
        compiler(limits).compile(&wasm).await.map(drop).unwrap();
    }
}

#[tokio::test]
async fn the_child_limits_itself_before_it_reads() {
    let mut child = Command::new(PROGRAM)
        .args(["compile", "--memory-bytes=104857600", "--cpu-seconds=7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let soft = |name: &str| {
        let limits = fs::read_to_string(proc.join("limits")).unwrap();
        let row = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        row.split_whitespace().next().unwrap().to_owned()
    };
    // The last of them is set when all are.
    until("its limits are set", async || (soft("Max processes") == "0").then_some(())).await;
    let expected = [
        ("Max cpu time", "7"),
        ("Max data size", "104857600"),
        ("Max stack size", "8388608"),
        ("Max core file size", "0"),
        ("Max file size", "0"),
        ("Max open files", "16"),
    ];
    for (name, value) in expected {
        assert_eq!(soft(name), value, "{name}");
    }
    assert_ne!(soft("Max address space"), "unlimited");
    assert_eq!(fs::read_to_string(proc.join("oom_score_adj")).unwrap().trim(), "1000");
    // What it reads is no component, and it says so.
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert!(String::from_utf8_lossy(&output.stdout).contains("not a WebAssembly component"), "{output:?}");
}

struct Scene {
    home: Home,
    shop: Digest,
    v1: Digest,
}

impl Scene {
    async fn new(flags: &[&str]) -> Self {
        let upstream = Upstream::start().await;
        let home = Home::new().with_flags(flags);
        let shop = routes(&home.revisions(), "shop", upstream.address);
        let v1 = worker(&home.revisions(), "security-headers", &guest("security-headers-v1"), "closed");
        Self { home, shop, v1 }
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

    async fn start(&self) -> Node {
        self.assign(1, &self.v1);
        let node = self.home.start();
        node.applied(1).await;
        node
    }

    /// The same node, for all later starts, with a compiler that fails when it is called.
    fn without_compiler(self) -> Self {
        Self { home: self.home.with_flags(&["--compiler", "/bin/false"]), ..self }
    }

    /// Where the code of v1 is kept.
    fn compiled(&self) -> PathBuf {
        let artifact = Digest::of(&guest("security-headers-v1"));
        self.home.state.join("compiled").join(artifact.as_str())
    }
}

async fn mark(node: &Node) -> String {
    let answer = get(node.clients, HOST, "/").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("x-sluice-worker").unwrap_or("none").to_owned()
}

/// The first exception; requests are answered until then.
async fn exception(node: &Node) -> Exception {
    until("there is an exception", async || {
        assert_eq!(mark(node).await, "security-headers/v1");
        node.report().await.exceptions.first().cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_would_compile_for_ever_is_refused_while_the_node_serves() {
    let scene = Scene::new(&["--compile-cpu-seconds", "2"]).await;
    let node = scene.start().await;
    let wasm = bomb::many_functions(&guest("security-headers-v3"));
    let bomb = worker(&scene.home.revisions(), "security-headers", &wasm, "closed");
    scene.assign(2, &bomb);
    let exception = exception(&node).await;
    assert_eq!((exception.reason, exception.revision), (ExceptionKind::Refused, bomb));
    assert!(exception.message.contains("more than 2 s of CPU: build it smaller"), "{}", exception.message);
    node.applied(2).await;
    assert_eq!(mark(&node).await, "security-headers/v1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_of_our_own_is_refused_when_it_comes_as_an_artifact() {
    let scene = Scene::new(&[]).await;
    let node = scene.start().await;
    let kept = fs::read(scene.compiled()).unwrap();
    let begin = kept.windows(4).position(|four| four == b"\x7fELF").unwrap();
    let foreign = worker(&scene.home.revisions(), "security-headers", &kept[begin..], "closed");
    scene.assign(2, &foreign);
    let exception = exception(&node).await;
    assert_eq!((exception.reason, exception.revision), (ExceptionKind::Refused, foreign));
    assert!(exception.message.contains("precompiled code is always refused"), "{}", exception.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_compiles_nothing_that_was_compiled_before() {
    let scene = Scene::new(&[]).await;
    scene.start().await.kill();
    let scene = scene.without_compiler();
    let mut node = scene.start().await;
    assert_eq!(mark(&node).await, "security-headers/v1");
    let report = node.report().await;
    assert!(report.exceptions.is_empty(), "{report:?}");
    node.kill();
    // That the compiler would have failed.
    fs::remove_file(scene.compiled()).unwrap();
    let node = scene.home.start();
    let told = async || node.report().await.exceptions.first().cloned();
    let exception = until("it cannot compile", told).await;
    assert_eq!(exception.reason, ExceptionKind::LocalTrouble, "{exception:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_on_disk_that_is_not_ours_is_compiled_anew() {
    let scene = Scene::new(&[]).await;
    let request_id = worker(&scene.home.revisions(), "request-id", &guest("request-id"), "closed");
    scene.home.assign(&assignment(
        1,
        vec![
            entry(Worker, "security-headers", &scene.v1, Some(&scene.v1), 1),
            entry(Worker, "request-id", &request_id, Some(&request_id), 1),
            entry(Routes, "shop", &scene.shop, None, 1),
        ],
    ));
    let mut node = scene.home.start();
    node.applied(1).await;
    node.kill();
    let own = fs::read(scene.compiled()).unwrap();
    let others = scene.compiled().with_file_name(Digest::of(&guest("request-id")).as_str());
    let mut flipped = own.clone();
    flipped[own.len() / 2] ^= 1;
    for (what, bytes) in [
        ("cut", own[..own.len() / 2].to_vec()),
        ("flipped", flipped),
        ("of another artifact", fs::read(others).unwrap()),
        ("without a seal", own[own.windows(4).position(|four| four == b"\x7fELF").unwrap()..].to_vec()),
    ] {
        fs::write(scene.compiled(), &bytes).unwrap();
        let mut node = scene.home.start();
        node.applied(1).await;
        assert_eq!(mark(&node).await, "security-headers/v1", "{what}");
        assert!(node.logged_both("removing a damaged file", "compiled"), "{what}");
        assert!(fs::read(scene.compiled()).unwrap() != bytes, "{what}");
        node.kill();
    }
    // With another key, nothing on this disk is ours.
    fs::write(scene.home.state.join("seal.key"), [7_u8; 32]).unwrap();
    let mut node = scene.home.start();
    node.applied(1).await;
    assert_eq!(mark(&node).await, "security-headers/v1");
    assert!(fs::read(scene.compiled()).unwrap() != own, "another seal");
    node.kill();
    let scene = scene.without_compiler();
    let node = scene.home.start();
    node.applied(1).await;
    assert_eq!(mark(&node).await, "security-headers/v1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compiler_ends_with_its_node() {
    let scene = Scene::new(&["--compile-cpu-seconds", "600"]).await;
    let mut node = scene.start().await;
    let wasm = bomb::many_functions(&guest("security-headers-v3"));
    scene.assign(2, &worker(&scene.home.revisions(), "security-headers", &wasm, "closed"));
    let children = PathBuf::from(format!("/proc/{0}/task/{0}/children", node.pid()));
    let child = until("it compiles", async || {
        let children = fs::read_to_string(&children).unwrap();
        children.split_whitespace().next().map(str::to_owned)
    })
    .await;
    node.kill();
    let stat = PathBuf::from(format!("/proc/{child}/stat"));
    // Nobody may have asked yet how it ended.
    let gone = async || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")).then_some(());
    until("the compiler is gone", gone).await;
}
