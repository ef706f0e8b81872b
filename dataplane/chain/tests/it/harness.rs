//! A node in small: engine, guests, an upstream that tells what it got, a recorder that remembers.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::PathBuf,
    sync::{
        Arc, LazyLock, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use sluice_chain::{
    Body, CallRecord, Class, ClientInfo, Code, Loaded, LoadedRoutes, Origin, Plan, Recorder, RequestRecord, Runtime,
    RuntimeConfig, Snapshot, UnitRecorder,
};
use sluice_config::{
    ChainPosition, Digest, Instances, Limits, MatchRule, OnFailure, RouteRule, Routes, UnitKind, UnitRef, Upstream,
    Worker,
};
use sluice_egress::{Egress, EgressConfig};
use sluice_worker::{Compiled, Engine, EngineConfig, Outcome, Phase};
use tokio::net::TcpListener;

pub(crate) type TestBody = UnsyncBoxBody<Bytes, Infallible>;

/// The host of all tests' route.
pub(crate) const HOST: &str = "shop.example";

// === guests ===

pub(crate) fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(&EngineConfig::default()).unwrap())
}

fn guest_path(name: &str) -> PathBuf {
    let cache = std::env::var_os("SLUICE_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/sluice"), PathBuf::from);
    cache.join("guests").join(format!("{name}.wasm"))
}

pub(crate) fn wasm(name: &str) -> Vec<u8> {
    let path = guest_path(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `make guests`", path.display()))
}

/// A guest, compiled once for all tests.
pub(crate) fn guest(name: &str) -> Compiled {
    static COMPILED: Mutex<BTreeMap<String, Compiled>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap();
    compiled.entry(name.to_owned()).or_insert_with(|| engine().compile(&wasm(name)).unwrap()).clone()
}

// === the recorder ===

/// What was counted, by unit.
#[derive(Default)]
pub(crate) struct Counted {
    units: Mutex<BTreeMap<String, Arc<Unit>>>,
    pub(crate) unrouted: Mutex<Vec<Class>>,
}

#[derive(Default)]
pub(crate) struct Unit {
    calls: Mutex<Vec<CallRecord>>,
    requests: Mutex<Vec<RequestRecord>>,
    broke_off: AtomicUsize,
}

impl UnitRecorder for Unit {
    fn call(&self, record: CallRecord) {
        self.calls.lock().unwrap().push(record);
    }

    fn request(&self, record: RequestRecord) {
        self.requests.lock().unwrap().push(record);
    }

    fn broke_off(&self) {
        self.broke_off.fetch_add(1, SeqCst);
    }
}

impl Recorder for Counted {
    fn unit(&self, unit: &UnitRef, _revision: &Digest, _phases: &[Phase]) -> Arc<dyn UnitRecorder> {
        let mut units = self.units.lock().unwrap();
        units.entry(unit.name.clone()).or_default().clone()
    }

    fn unrouted(&self, class: Class) {
        self.unrouted.lock().unwrap().push(class);
    }
}

impl Counted {
    fn of(&self, unit: &str) -> Arc<Unit> {
        self.units.lock().unwrap()[unit].clone()
    }

    /// The outcomes of a worker's calls.
    pub(crate) fn calls(&self, unit: &str) -> Vec<Outcome> {
        self.of(unit).calls.lock().unwrap().iter().map(|c| c.outcome).collect()
    }

    /// The same, once a call is over: a guest may end after its response.
    pub(crate) async fn ended(&self, unit: &str) -> Vec<Outcome> {
        eventually(async || !self.calls(unit).is_empty()).await;
        self.calls(unit)
    }

    /// Phases and outcomes of a worker's calls.
    pub(crate) fn phases(&self, unit: &str) -> Vec<(Phase, Outcome)> {
        self.of(unit).calls.lock().unwrap().iter().map(|c| (c.phase, c.outcome)).collect()
    }

    /// How often its response broke off after the request was counted.
    pub(crate) fn broke_off(&self, unit: &str) -> usize {
        self.of(unit).broke_off.load(SeqCst)
    }

    pub(crate) fn own(&self, unit: &str) -> Duration {
        self.of(unit).calls.lock().unwrap().iter().map(|c| c.own).sum()
    }

    /// Class, origin and fault of a unit's requests.
    pub(crate) fn requests(&self, unit: &str) -> Vec<(Class, Origin, bool)> {
        self.of(unit).requests.lock().unwrap().iter().map(|r| (r.class, r.origin, r.fault)).collect()
    }
}

// === the upstream ===

/// Answers 200 (or what `x-status` asks) with the request's body, and tells what it got in headers.
pub(crate) struct TestUpstream {
    pub(crate) url: String,
    pub(crate) requests: Arc<AtomicUsize>,
}

impl TestUpstream {
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = count.clone();
                let service = service_fn(move |request| {
                    count.fetch_add(1, SeqCst);
                    async move { Ok::<_, Infallible>(answer(name, request)) }
                });
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { url, requests }
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

fn answer(name: &str, request: Request<Incoming>) -> Response<Incoming> {
    let joined = |header: &str| {
        let values = request.headers().get_all(header).iter();
        let values: Vec<_> = values.map(|v| v.to_str().unwrap()).collect();
        values.join(",")
    };
    let status = joined("x-status").parse().unwrap_or(200);
    let path = request.uri().path_and_query().unwrap().to_string();
    let mut response = Response::builder()
        .status(status)
        .header("x-upstream", name)
        .header("x-path", path)
        .header("x-method", request.method().as_str())
        .header("x-host", joined("host"))
        .header("x-got", joined("x-seen"))
        .header("x-got-user", joined("x-user"));
    for name in ["content-length", "content-type"] {
        if let Some(value) = request.headers().get(name) {
            response = response.header(name, value);
        }
    }
    response.body(request.into_body()).unwrap()
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

// === plans ===

pub(crate) fn upstream_of(url: &str) -> Upstream {
    Upstream { url: url.to_owned(), connect_timeout_ms: 2_000, response_timeout_ms: 20_000 }
}

/// A worker of the chain under test; the first letter of tests' names orders them.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) on_failure: OnFailure,
    pub(crate) rules: Vec<MatchRule>,
    pub(crate) limits: Limits,
    pub(crate) stage: &'static str,
    pub(crate) order: i32,
    pub(crate) code: Option<Code>,
    pub(crate) bindings: Vec<sluice_config::Binding>,
    pub(crate) instances: Option<Instances>,
}

pub(crate) const LIMITS: Limits = Limits { cpu_ms: 5_000, wall_ms: 20_000, memory_bytes: 32 << 20 };

impl Step {
    /// The guest that does what it is told.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            on_failure: OnFailure::Closed,
            rules: vec![],
            limits: LIMITS,
            stage: "transform",
            order: 0,
            code: None,
            bindings: vec![],
            instances: None,
        }
    }

    /// The filter that does what it is told.
    pub(crate) fn filter(name: &'static str) -> Self {
        Self::new(name).code(Code::Ready(guest("filter-faults")))
    }

    /// The same in `wasi:http` 0.3.
    pub(crate) fn handler(name: &'static str) -> Self {
        Self::new(name).code(Code::Ready(guest("handler-faults")))
    }

    pub(crate) fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    pub(crate) fn at(mut self, stage: &'static str, order: i32) -> Self {
        self.stage = stage;
        self.order = order;
        self
    }

    pub(crate) fn paths(self, paths: &[&str]) -> Self {
        self.rule(MatchRule { paths: paths.iter().map(ToString::to_string).collect(), ..MatchRule::default() })
    }

    pub(crate) fn rule(mut self, rule: MatchRule) -> Self {
        self.rules.push(rule);
        self
    }

    pub(crate) fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Instances of it serve so many calls.
    pub(crate) fn reuse(mut self, reuse: u32) -> Self {
        self.instances = Some(Instances { reuse, max_age_ms: 3_600_000 });
        self
    }

    pub(crate) fn code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn fetches(mut self, origin: &str) -> Self {
        self.bindings.push(sluice_config::Binding {
            name: "api".into(),
            kind: sluice_config::BindingKind::Fetch { origins: vec![origin.to_owned()] },
        });
        self
    }

    /// With a rate called `limit`.
    pub(crate) fn rate(mut self, requests: u32, per_ms: u64) -> Self {
        self.bindings.push(sluice_config::Binding {
            name: "limit".into(),
            kind: sluice_config::BindingKind::Rate { requests, per_ms },
        });
        self
    }

    fn loaded(self) -> Loaded {
        Loaded {
            unit: UnitRef::new(UnitKind::Worker, "team", self.name),
            revision: Digest::of(self.name.as_bytes()),
            worker: Worker {
                chain: ChainPosition { stage: self.stage.into(), order: self.order },
                match_rules: self.rules,
                bindings: self.bindings,
                limits: self.limits,
                instances: self.instances,
                on_failure: self.on_failure,
            },
            code: self.code.unwrap_or_else(|| Code::Ready(guest("faults"))),
        }
    }
}

/// A node under test.
pub(crate) struct Node {
    pub(crate) upstream: TestUpstream,
    pub(crate) fallback: TestUpstream,
    pub(crate) counted: Arc<Counted>,
    pub(crate) runtime: Runtime,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Node {
    /// A route with fallback behind these workers.
    pub(crate) async fn start(steps: Vec<Step>) -> Self {
        // All tests are one process, which is busy.
        let config = RuntimeConfig { unit_cpu_percent: 100, ..RuntimeConfig::new("canary") };
        Self::start_with(steps, config, None).await
    }

    pub(crate) async fn start_with(steps: Vec<Step>, config: RuntimeConfig, upstream_url: Option<String>) -> Self {
        let upstream = TestUpstream::start("main").await;
        let fallback = TestUpstream::start("fallback").await;
        let counted = Arc::new(Counted::default());
        let egress = Egress::new(EgressConfig { allow_loopback: true, ..EgressConfig::default() });
        let runtime = Runtime::new(config, egress, counted.clone());
        let url = upstream_url.unwrap_or_else(|| upstream.url.clone());
        let plan = plan(steps, &url, Some(&fallback.url));
        let (snapshot, warnings) = runtime.snapshot(plan);
        assert_eq!(warnings, []);
        Self { upstream, fallback, counted, runtime, snapshot }
    }

    pub(crate) async fn send(&self, request: Request<TestBody>) -> Answer {
        let response = self.snapshot.clone().handle(request, client()).await;
        Answer::of(response).await
    }

    /// A GET of `/`, with this script for the workers.
    pub(crate) async fn get(&self, script: &str) -> Answer {
        self.send(get("/", script)).await
    }

    pub(crate) async fn post(&self, script: &str, body: impl Into<Bytes>) -> Answer {
        self.send(post("/", script, body)).await
    }
}

pub(crate) fn plan(steps: Vec<Step>, upstream: &str, fallback: Option<&str>) -> Plan {
    Plan {
        stages: sluice_config::DEFAULT_STAGES.map(String::from).to_vec(),
        workers: steps.into_iter().map(Step::loaded).collect(),
        routes: vec![LoadedRoutes {
            unit: UnitRef::new(UnitKind::Routes, "team", "route"),
            revision: Digest::of(b"route"),
            routes: Routes {
                hosts: vec![HOST.into(), "*.shop.example".into()],
                rules: vec![RouteRule {
                    paths: vec!["/*".into()],
                    upstream: upstream_of(upstream),
                    fallback: fallback.map(upstream_of),
                    // The same application, by another name.
                    alternatives: fallback.map(|url| ("blue".to_owned(), upstream_of(url))).into_iter().collect(),
                }],
            },
        }],
    }
}

/// Waits until it is so: what has to happen goes with the runtime's next turns.
pub(crate) async fn eventually(mut is_so: impl AsyncFnMut() -> bool) {
    let waits = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waits).await.expect("it is so within 30 s");
}

pub(crate) fn client() -> &'static ClientInfo {
    static CLIENT: LazyLock<ClientInfo> = LazyLock::new(|| ClientInfo::new("192.0.2.1:4711".parse().unwrap(), false));
    &CLIENT
}

pub(crate) fn request(method: &str, path: &str, script: &str, body: TestBody) -> Request<TestBody> {
    Request::builder().method(method).uri(path).header("host", HOST).header("x-do", script).body(body).unwrap()
}

pub(crate) fn get(path: &str, script: &str) -> Request<TestBody> {
    request("GET", path, script, http_body_util::Empty::new().boxed_unsync())
}

pub(crate) fn post(path: &str, script: &str, body: impl Into<Bytes>) -> Request<TestBody> {
    request("POST", path, script, http_body_util::Full::new(body.into()).boxed_unsync())
}

/// A response, read to its end or to where it broke off.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Result<Bytes, String>,
}

impl Answer {
    pub(crate) async fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.map(|b| b.to_bytes()).map_err(|e| e.to_string()),
        }
    }

    /// All values of a header, joined.
    pub(crate) fn header(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter();
        values.map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }
}
