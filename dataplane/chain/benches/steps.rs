//! What a step of the chain costs: filters and workers of `wasi:http`, with a fresh instance a call or with one that has served
//! before, limits and counting on, no sockets. The last worker answers; the rows of no steps say what all but the steps cost.
//!
//!     make guests && cargo bench --profile dist --workspace --bench steps
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may panic; criterion makes what is undocumented")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::Request;
use http_body_util::Empty;
use sluice_chain::{
    CallRecord, ClientInfo, Code, Loaded, LoadedRoutes, Plan, Recorder, RequestRecord, Runtime, RuntimeConfig,
    Snapshot, UnitRecorder,
};
use sluice_config::{
    ChainPosition, Digest, HeaderMatch, Instances, Limits, MatchRule, OnFailure, RouteRule, Routes, UnitKind, UnitRef,
    Upstream, Worker,
};
use sluice_egress::{Egress, EgressConfig};
use sluice_worker::{Compiled, Engine, EngineConfig, Phase};
use tokio::runtime::{self, Runtime as Tokio};

/// As the dataplane has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As good as for ever.
const REUSED: Option<Instances> = Some(Instances { reuse: u32::MAX, max_age_ms: u64::MAX });

const LIMITS: Limits = Limits { cpu_ms: 10, wall_ms: 100, memory_bytes: 16 << 20 };

/// Counts as the dataplane does: atomics.
#[derive(Default)]
struct Counts([AtomicU64; 4]);

impl UnitRecorder for Counts {
    fn call(&self, record: CallRecord) {
        self.0[0].fetch_add(1, Relaxed);
        self.0[1].fetch_add(u64::try_from(record.own.as_nanos()).unwrap(), Relaxed);
    }

    fn request(&self, record: RequestRecord) {
        self.0[2].fetch_add(1, Relaxed);
        self.0[3].fetch_add(u64::try_from(record.duration.as_nanos()).unwrap(), Relaxed);
    }

    fn broke_off(&self) {}
}

struct Counting;

impl Recorder for Counting {
    fn unit(&self, _: &UnitRef, _: &Digest, _: &[Phase]) -> Arc<dyn UnitRecorder> {
        Arc::new(Counts::default())
    }
}

/// Compiles guests once.
struct Guests(Engine);

impl Guests {
    fn get(&self, name: &str) -> Compiled {
        let cache = std::env::var_os("SLUICE_CACHE")
            .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/sluice"), PathBuf::from);
        let path = cache.join("guests").join(format!("{name}.wasm"));
        self.0.compile(&std::fs::read(path).expect("run `make guests`")).unwrap()
    }
}

fn paths(paths: &[&str]) -> MatchRule {
    MatchRule { paths: paths.iter().map(ToString::to_string).collect(), ..MatchRule::default() }
}

fn worker(number: usize, code: Compiled, rule: MatchRule, stage: &str, instances: Option<Instances>) -> Loaded {
    let name = format!("worker-{number:04}");
    Loaded {
        unit: UnitRef::new(UnitKind::Worker, "team", &name),
        revision: Digest::of(name.as_bytes()),
        worker: Worker {
            chain: ChainPosition { stage: stage.into(), order: 0 },
            match_rules: vec![rule],
            bindings: vec![],
            limits: LIMITS,
            instances,
            on_failure: OnFailure::Closed,
        },
        code: Code::Ready(code),
    }
}

/// Workers, then the one that answers.
fn snapshot(mut workers: Vec<Loaded>, answers: Compiled) -> Arc<Snapshot> {
    workers.push(worker(9_999, answers, paths(&["/*"]), "route", None));
    let egress = Egress::new(EgressConfig::default());
    // Two threads are a busy node, and the worker that answers may be above its share.
    let config = RuntimeConfig { unit_cpu_percent: 100, ..RuntimeConfig::new("bench") };
    let runtime = Runtime::new(config, egress, Arc::new(Counting));
    let upstream = Upstream { url: "http://shop".into(), connect_timeout_ms: 1_000, response_timeout_ms: 1_000 };
    let rule = RouteRule { paths: vec!["/*".into()], upstream, fallback: None, alternatives: Default::default() };
    let routes = LoadedRoutes {
        unit: UnitRef::new(UnitKind::Routes, "team", "route"),
        revision: Digest::of(b"route"),
        routes: Routes { hosts: vec!["shop.example".into()], rules: vec![rule] },
    };
    let stages = sluice_config::DEFAULT_STAGES.map(String::from).to_vec();
    let (snapshot, warnings) = runtime.snapshot(Plan { stages, workers, routes: vec![routes] });
    assert_eq!(warnings, []);
    snapshot
}

/// A browser's request with so many headers; the first worker that looks for it is sent away from `/blog`.
fn request(headers: usize) -> Request<Empty<Bytes>> {
    let mut request = Request::get("/blog/42?x=1")
        .header("host", "shop.example")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
        .header("accept-encoding", "gzip, deflate, br")
        .header("accept-language", "en-GB,en;q=0.5")
        .header("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark")
        .header("x-real-ip", "203.0.113.7")
        .header("x-trace", "7f9c24e5-1b1b-4c6a-9a59-5b3d0a8c1f00");
    for n in 8..headers {
        request = request.header(format!("x-more-{n}"), "some-value-of-usual-length");
    }
    request.body(Empty::new()).unwrap()
}

fn tokio() -> Tokio {
    runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn measure(bencher: &mut criterion::Bencher<'_>, tokio: &Tokio, snapshot: &Arc<Snapshot>, headers: usize) {
    let client = &ClientInfo::new("192.0.2.1:4711".parse().unwrap(), false);
    bencher.iter_custom(|rounds| {
        tokio.block_on(async {
            let requests: Vec<_> = (0..rounds).map(|_| request(headers)).collect();
            let start = Instant::now();
            for request in requests {
                let response = snapshot.clone().handle(request, client).await;
                assert_eq!(response.status(), 308);
            }
            start.elapsed()
        })
    });
}

/// Distinct components, as distinct workers would be.
fn chain(guests: &Guests, guest: &str, steps: usize, instances: Option<Instances>) -> Vec<Loaded> {
    (0..steps).map(|n| worker(n, guests.get(guest), paths(&["/*"]), "transform", instances)).collect()
}

fn steps(criterion: &mut Criterion) {
    let guests = Guests(Engine::new(&EngineConfig::default()).unwrap());
    let (tokio, answers) = (tokio(), guests.get("filter-redirects"));
    for (kind, guest) in [("filter", "step-filter"), ("wasi-http", "step-proxy"), ("wasi-http-3", "step-handler")] {
        for (life, instances) in [("fresh", None), ("reused", REUSED)] {
            let mut group = criterion.benchmark_group(format!("{kind} {life}"));
            for steps in [0, 1, 5, 10] {
                let snapshot = snapshot(chain(&guests, guest, steps, instances), answers.clone());
                for headers in [8, 20, 50] {
                    let id = BenchmarkId::new(format!("{steps} steps"), format!("{headers} headers"));
                    group.bench_function(id, |bencher| measure(bencher, &tokio, &snapshot, headers));
                }
            }
            group.finish();
        }
    }
}

/// The same by one thread and by two at once, each with its own requests: the time until all of them are done.
fn threads(criterion: &mut Criterion) {
    let guests = Guests(Engine::new(&EngineConfig::default()).unwrap());
    for (life, instances) in [("fresh", None), ("reused", REUSED)] {
        let snapshot = snapshot(chain(&guests, "step-filter", 5, instances), guests.get("filter-redirects"));
        let mut group = criterion.benchmark_group(format!("threads {life}"));
        for threads in [1, 2] {
            group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
                bencher.iter_custom(|rounds| at_once(threads, rounds, &snapshot));
            });
        }
        group.finish();
    }
}

fn at_once(threads: usize, rounds: u64, snapshot: &Arc<Snapshot>) -> Duration {
    let client = &ClientInfo::new("192.0.2.1:4711".parse().unwrap(), false);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                tokio().block_on(async {
                    for _ in 0..rounds {
                        let response = snapshot.clone().handle(request(8), client).await;
                        assert_eq!(response.status(), 308);
                    }
                });
            });
        }
    });
    start.elapsed()
}

fn not_matching(criterion: &mut Criterion) {
    let guests = Guests(Engine::new(&EngineConfig::default()).unwrap());
    let (tokio, answers, code) = (tokio(), guests.get("filter-redirects"), guests.get("step-filter"));
    let mut group = criterion.benchmark_group("not matching");
    for workers in [0, 10, 100, 1_000] {
        let elsewhere = |n: usize| paths(&[&format!("/other-{n}/*")]);
        let of_a_header = |n: usize| {
            let header = HeaderMatch { name: format!("x-other-{n}"), value: "1".into() };
            MatchRule { headers: vec![header], ..paths(&["/*"]) }
        };
        let rules: [(&str, &dyn Fn(usize) -> MatchRule); 2] =
            [("workers", &elsewhere), ("workers of a header", &of_a_header)];
        for (name, rule) in rules {
            let others = (0..workers).map(|n| worker(n, code.clone(), rule(n), "transform", None)).collect();
            let snapshot = snapshot(others, answers.clone());
            let id = BenchmarkId::new(format!("{workers} {name}"), "8 headers");
            group.bench_function(id, |bencher| measure(bencher, &tokio, &snapshot, 8));
        }
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
}

criterion_group!(name = benches; config = short(); targets = steps, threads, not_matching);
criterion_main!(benches);
