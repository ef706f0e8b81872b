//! Workers of `wasi:http` 0.3: single calls, the chain's side played by the test.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use sluice_config::{Instances, Limits};
use sluice_egress::{Body, BodyError, EgressError, empty, full};
use sluice_worker::{
    Calls, Compiled, Ended, Engine, EngineConfig, Failure, NextFuture, Outcome, OwnCode, Phase, Proxy,
    imports::{self, Contract},
    precompile,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    call::{LIMITS, identity},
    wasm,
};

const REUSE: Instances = Instances { reuse: 1_000, max_age_ms: 3_600_000 };

/// Answers every `next` with what it got: the body, and the head in headers.
#[derive(Default)]
struct Mirror {
    ended: Mutex<Vec<Ended>>,
    fetched: Mutex<Vec<String>>,
}

impl Mirror {
    fn outcomes(&self) -> Vec<Outcome> {
        self.ended.lock().unwrap().iter().map(|ended| ended.outcome).collect()
    }
}

impl Calls for Mirror {
    fn next(&self, request: Request<Body>) -> NextFuture {
        Box::pin(async {
            let (parts, body) = request.into_parts();
            let mut response = Response::new(body);
            let headers = response.headers_mut();
            headers.insert("x-uri", parts.uri.to_string().parse().unwrap());
            headers.insert("x-method", parts.method.as_str().parse().unwrap());
            for name in ["host", "x-seen", "x-do", "x-request-id", "content-length"] {
                if let Some(value) = parts.headers.get(name) {
                    headers.insert(if name == "host" { "x-host" } else { name }, value.clone());
                }
            }
            Ok(response)
        })
    }

    fn fetch(&self, request: Request<Body>) -> NextFuture {
        self.fetched.lock().unwrap().push(request.uri().to_string());
        Box::pin(async { Err(EgressError::NotGranted { origin: "http://other.example".parse().unwrap() }) })
    }

    fn ended(&self, ended: Ended) {
        self.ended.lock().unwrap().push(ended);
    }
}

fn request(script: &str, body: Body) -> Request<Body> {
    let request = Request::post("http://shop.example/cart?x=1").header("x-do", script).header("host", "shop.example");
    request.body(body).unwrap()
}

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(&EngineConfig { instances_max: 64, ..EngineConfig::default() }).unwrap())
}

/// A guest, compiled once for all tests.
fn compiled(name: &str) -> Compiled {
    static COMPILED: Mutex<BTreeMap<String, Compiled>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap();
    compiled.entry(name.to_owned()).or_insert_with(|| engine().compile(&wasm(name)).unwrap()).clone()
}

fn serving(name: &str, instances: Option<Instances>) -> Proxy {
    match compiled(name).serving(instances) {
        Compiled::Proxy(proxy) => proxy,
        Compiled::Filter(_) => panic!("it is no filter"),
    }
}

fn faults() -> Proxy {
    serving("handler-faults", None)
}

fn reusing() -> Proxy {
    serving("handler-faults", Some(REUSE))
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Result<Bytes, BodyError>,
}

/// Until the chain was told of the end: a guest may go on when its response is complete.
async fn call(proxy: &Proxy, limits: &Limits, mirror: &Arc<Mirror>, request: Request<Body>) -> Result<Answer, Failure> {
    let (parts, body) = proxy.call(&identity(), limits, mirror.clone(), request).await?.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes);
    end_of(mirror).await;
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

/// What one step does: its answer, or the failure, and the end that the chain was told of.
async fn told(proxy: &Proxy, script: &str, body: Body) -> (Result<Answer, Failure>, Vec<Outcome>) {
    let mirror = Arc::new(Mirror::default());
    let answer = call(proxy, &LIMITS, &mirror, request(script, body)).await;
    (answer, mirror.outcomes())
}

async fn text(proxy: &Proxy, script: &str) -> String {
    match told(proxy, script, empty()).await.0 {
        Ok(Answer { body: Ok(body), .. }) => String::from_utf8(body.to_vec()).unwrap(),
        Ok(Answer { body: Err(error), .. }) => error.to_string(),
        Err(failure) => format!("{:?}", failure.outcome),
    }
}

/// A body that is sent as the test goes.
fn live() -> (mpsc::Sender<Result<Bytes, BodyError>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = futures::stream::unfold(receiver, |mut receiver| async {
        let bytes: Result<Bytes, BodyError> = receiver.recv().await?;
        Some((bytes.map(Frame::data), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

fn megabyte() -> Vec<u8> {
    (0..1 << 20_u32).map(|n| (n % 251) as u8).collect()
}

#[test]
fn they_are_known_by_what_they_export() {
    for (name, imports_next) in [("handler-hello", false), ("handler-request-id", true), ("handler-faults", true)] {
        let surface = imports::surface(&wasm(name)).unwrap();
        assert_eq!(surface.check(), Ok(Contract::Handler), "{name}");
        let next = surface.imports.iter().any(|import| import.starts_with("wasi:http/handler@0.3."));
        assert_eq!(next, imports_next, "{name}");
        assert_eq!(compiled(name).phases(), [Phase::Handle], "{name}");
    }
}

#[test]
fn their_code_is_for_their_engine_alone() {
    let engine = engine();
    let code: OwnCode = precompile(&wasm("handler-hello")).unwrap();
    assert!(engine.can_run(Contract::Handler, &code));
    assert!(!engine.can_run(Contract::Proxy, &code));
    assert!(engine.load(Contract::Proxy, &code).is_err());
    assert!(engine.load(Contract::Handler, &code).is_ok());
}

#[tokio::test]
async fn a_service_answers() {
    let (answer, ended) = told(&serving("handler-hello", None), "", empty()).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.body.unwrap().as_ref()), (200, &b"hello\n"[..]));
    assert_eq!(ended, [Outcome::Answered]);
}

#[tokio::test]
async fn a_middleware_changes_both_heads() {
    let (answer, ended) = told(&faults(), "tag:a,rest", full("body")).await;
    let answer = answer.unwrap();
    for (name, value) in [("x-seen", "a"), ("x-back", "a"), ("x-do", "rest"), ("x-method", "POST")] {
        assert_eq!(answer.headers[name], value, "{name}");
    }
    assert_eq!(answer.body.unwrap(), "body");
    assert_eq!(ended, [Outcome::Next]);

    let answer = told(&serving("handler-request-id", None), "", empty()).await.0.unwrap();
    assert_eq!(answer.headers["x-request-id"].len(), 32);
}

#[tokio::test]
async fn each_way_on_is_the_rest_of_the_chain() {
    for step in ["as-it-came", "pass", "client"] {
        let (answer, ended) = told(&faults(), step, full("body")).await;
        let answer = answer.unwrap();
        assert_eq!(answer.headers["x-uri"], "http://next.sluice/cart?x=1", "{step}");
        assert_eq!(answer.headers["x-host"], "shop.example", "{step}");
        assert_eq!(answer.body.unwrap(), "body", "{step}");
        assert_eq!(ended, [Outcome::Next], "{step}");
    }
}

#[tokio::test]
async fn a_worker_names_another_host_by_the_header_or_by_the_authority() {
    for (step, host) in
        [("rehost:a.example", "a.example"), ("authority:b.example", "b.example"), ("pass", "shop.example")]
    {
        let answer = told(&faults(), step, empty()).await.0.unwrap();
        assert_eq!(answer.headers["x-host"], host, "{step}");
    }
    let answer = told(&faults(), "rewrite:/other?y=2", empty()).await.0.unwrap();
    assert_eq!(answer.headers["x-uri"], "http://next.sluice/other?y=2");
}

#[tokio::test]
async fn a_megabyte_goes_both_ways() {
    for step in ["as-it-came", "pass", "client", "copy", "echo"] {
        let (answer, _) = told(&faults(), step, full(megabyte())).await;
        assert!(answer.unwrap().body.unwrap() == megabyte(), "{step}");
    }
}

#[tokio::test]
async fn each_chunk_comes_back_before_the_next_is_sent() {
    for step in ["pass", "copy", "echo"] {
        let (sender, body) = live();
        sender.send(Ok("one".into())).await.unwrap();
        let mirror = Arc::new(Mirror::default());
        let response = faults().call(&identity(), &LIMITS, mirror.clone(), request(step, body)).await.unwrap();
        let mut body = response.into_body();
        for next in ["two", "three", ""] {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(!frame.is_empty(), "{step}");
            if !next.is_empty() {
                sender.send(Ok(next.into())).await.unwrap();
            }
        }
        drop(sender);
        assert!(body.collect().await.unwrap().to_bytes().is_empty(), "{step}");
        assert!(!end_of(&mirror).await.is_fault(), "{step}");
    }
}

#[tokio::test]
async fn what_fails_before_the_head_is_a_failure_of_its_kind() {
    for (step, outcome, why) in [
        ("trap", Outcome::Trap, "unreachable"),
        ("next-trap", Outcome::Trap, "unreachable"),
        ("exit", Outcome::Trap, "status 1"),
        ("exit-ok", Outcome::Invalid, "without an answer"),
        ("error", Outcome::Invalid, "InternalError"),
        ("answer:103", Outcome::Invalid, "103"),
        ("spin", Outcome::Cpu, "cpu"),
        ("next-spin", Outcome::Cpu, "cpu"),
        ("sleep", Outcome::Wall, "wall"),
        ("alloc", Outcome::Memory, "memory"),
        ("streams", Outcome::Memory, "streams"),
    ] {
        let mirror = Arc::new(Mirror::default());
        let wall_ms = if outcome == Outcome::Wall { 100 } else { LIMITS.wall_ms };
        let limits = Limits { cpu_ms: 50, wall_ms, memory_bytes: 8 << 20 };
        let failure = call(&faults(), &limits, &mirror, request(step, empty())).await.err();
        let failure = failure.unwrap_or_else(|| panic!("{step}: it answered"));
        assert_eq!(failure.outcome, outcome, "{step}: {failure}");
        assert!(failure.why.contains(why), "{step}: {failure}");
        assert_eq!(mirror.outcomes(), [outcome], "{step}");
    }
}

#[tokio::test]
async fn headers_are_bounded_and_it_is_told() {
    assert_eq!(told(&faults(), "headers:20", empty()).await.0.unwrap().headers.len(), 20);
    let refused = told(&faults(), "headers:1000", empty()).await.0.unwrap();
    assert_eq!((refused.status, refused.body.unwrap().as_ref()), (507, &b"HeaderError::SizeExceeded\n"[..]));
}

#[tokio::test]
async fn what_fails_after_the_head_breaks_the_body_off() {
    let limits = Limits { cpu_ms: 50, memory_bytes: 8 << 20, ..LIMITS };
    for step in ["head-trap", "head-spin", "head-alloc", "too-short", "leak-body", "exit-body"] {
        let mirror = Arc::new(Mirror::default());
        let answer = call(&faults(), &limits, &mirror, request(step, empty())).await.unwrap();
        assert_eq!(answer.status, 200, "{step}");
        assert!(answer.body.is_err(), "{step}");
        assert_eq!(mirror.outcomes(), [Outcome::Aborted], "{step}");
    }
}

/// Waits until the chain was told of the end.
async fn end_of(mirror: &Mirror) -> Outcome {
    loop {
        if let Some(outcome) = mirror.outcomes().first() {
            return *outcome;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_it_does_after_its_response_is_limited_too() {
    let limits = Limits { cpu_ms: 50, ..LIMITS };
    for (step, outcome) in [("tail-spin", Outcome::Cpu), ("tail", Outcome::Answered)] {
        let mirror = Arc::new(Mirror::default());
        let answer = call(&faults(), &limits, &mirror, request(step, empty())).await.unwrap();
        assert!(answer.body.is_ok(), "{step}");
        assert_eq!(end_of(&mirror).await, outcome, "{step}");
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_ends_the_call_all_the_same() {
    let proxy = reusing();
    for (calls, (method, step)) in [
        (Method::HEAD, "answer:200"),
        (Method::GET, "answer:204"),
        (Method::GET, "answer:304"),
        (Method::GET, "empty:0"),
    ]
    .into_iter()
    .enumerate()
    {
        let mirror = Arc::new(Mirror::default());
        let mut request = request(step, empty());
        *request.method_mut() = method;
        let answer = call(&proxy, &LIMITS, &mirror, request).await.unwrap();
        assert!(answer.body.unwrap().is_empty(), "{step}");
        assert_eq!(end_of(&mirror).await, Outcome::Answered, "{step}");
        assert_eq!(text(&proxy, "calls").await, (2 * calls + 2).to_string(), "{step}: the instance lives");
    }
}

#[tokio::test]
async fn an_origin_that_is_not_granted_is_denied() {
    let mirror = Arc::new(Mirror::default());
    let answer = call(&faults(), &LIMITS, &mirror, request("fetch:other.example", empty())).await.unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.body.unwrap().starts_with(b"ErrorCode::HttpRequestDenied"));
    assert_eq!(*mirror.fetched.lock().unwrap(), ["http://other.example/fetched"]);
    assert_eq!(mirror.outcomes(), [Outcome::Answered]);
}

#[tokio::test]
async fn a_body_that_breaks_off_on_its_way_through_is_not_the_workers_fault() {
    for step in ["echo", "pass"] {
        let (sender, body) = live();
        sender.send(Ok("one".into())).await.unwrap();
        let mirror = Arc::new(Mirror::default());
        let response = faults().call(&identity(), &LIMITS, mirror.clone(), request(step, body)).await.unwrap();
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok(), "{step}");
        sender.send(Err(BodyError::Client("it left".into()))).await.unwrap();
        assert!(body.frame().await.unwrap().is_err(), "{step}");
        assert!(
            matches!(mirror.outcomes()[..], [Outcome::Answered | Outcome::Next]),
            "{step}: {:?}",
            mirror.outcomes()
        );
    }
}

#[tokio::test]
async fn each_call_has_its_own_instance_unless_it_is_told_to_reuse() {
    let (fresh, reusing) = (faults(), reusing());
    for n in 1..=5 {
        assert_eq!(text(&fresh, "calls").await, "1");
        assert_eq!(text(&reusing, "calls").await, n.to_string());
    }
}

#[tokio::test]
async fn an_instance_passes_on_again_and_again() {
    let proxy = reusing();
    for n in 1..=50 {
        for step in ["pass", "copy", "client"] {
            let answer = told(&proxy, step, full(vec![b'x'; 100_000])).await.0.unwrap();
            assert_eq!(answer.body.unwrap().len(), 100_000, "{step} in round {n}");
        }
    }
    assert_eq!(text(&proxy, "calls").await, "151");
}

#[tokio::test]
async fn an_instance_that_failed_or_keeps_something_serves_no_more() {
    let proxy = reusing();
    for step in ["trap", "exit", "exit-ok", "head-trap", "leak-body", "exit-body", "keep-request", "keep-body"] {
        assert_eq!(text(&proxy, "calls").await, "1", "before {step}");
        assert_eq!(text(&proxy, "calls").await, "2", "before {step}");
        text(&proxy, step).await;
    }
    let leak = format!("leak:{}", LIMITS.memory_bytes / 2);
    assert_eq!(text(&proxy, "calls").await, "1");
    assert_eq!(text(&proxy, &leak).await, "leaked\n");
    assert_eq!(text(&proxy, "calls").await, "1");
}

#[tokio::test]
async fn a_body_that_a_guest_keeps_goes_with_the_instance() {
    for step in ["keep-request", "keep-body"] {
        let proxy = reusing();
        let (release, released) = oneshot::channel::<()>();
        let frames = futures::stream::once(async {
            drop(released.await);
            Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"late")))
        });
        let mirror = Arc::new(Mirror::default());
        let asked = request(step, StreamBody::new(frames).boxed_unsync());
        assert_eq!(call(&proxy, &LIMITS, &mirror, asked).await.unwrap().body.unwrap(), "kept\n");
        assert!(release.is_closed(), "{step}: the client's body is let go");
        assert_eq!(Arc::strong_count(&mirror), 1, "{step}: and so is the chain's side");
        assert_eq!(text(&proxy, "calls").await, "1", "{step}");
    }
}

#[tokio::test]
async fn what_the_chain_gave_is_let_go_at_the_end_of_each_call() {
    let proxy = reusing();
    for step in ["calls", "pass", "copy"] {
        let mirror = Arc::new(Mirror::default());
        call(&proxy, &LIMITS, &mirror, request(step, full("body"))).await.unwrap();
        assert_eq!(Arc::strong_count(&mirror), 1, "{step}");
    }
    assert_eq!(text(&proxy, "calls").await, "4");
}

#[tokio::test]
async fn one_that_is_given_up_gives_its_place_back() {
    // More than the pool has.
    let proxy = faults();
    for _ in 0..100 {
        let mirror = Arc::new(Mirror::default());
        let mut waits = Box::pin(call(&proxy, &LIMITS, &mirror, request("sleep", empty())));
        assert!(futures::poll!(&mut waits).is_pending());
        drop(waits);
        assert_eq!(mirror.outcomes(), [Outcome::Answered]);
    }
    assert_eq!(text(&proxy, "calls").await, "1");
}

#[tokio::test]
async fn a_dry_start_finds_what_cannot_start() {
    let compiled = compiled("handler-faults");
    assert_eq!(compiled.warm(&identity(), &LIMITS).await, Ok(()));
    let failure = compiled.warm(&identity(), &Limits { memory_bytes: 1 << 10, ..LIMITS }).await.unwrap_err();
    assert_eq!(failure.outcome, Outcome::Memory, "{failure}");
}

#[tokio::test]
async fn waiting_for_others_is_not_its_wall_time() {
    let limits = Limits { wall_ms: 300, ..LIMITS };
    for step in ["pass", "copy"] {
        let (sender, body) = live();
        let mirror = Arc::new(Mirror::default());
        let proxy = faults();
        let called = call(&proxy, &limits, &mirror, request(step, body));
        let slow = async {
            tokio::time::sleep(std::time::Duration::from_millis(900)).await;
            sender.send(Ok("late".into())).await.unwrap();
            drop(sender);
        };
        let (answer, ()) = tokio::join!(called, slow);
        assert_eq!(answer.unwrap().body.unwrap(), "late", "{step}");
        assert!(mirror.ended.lock().unwrap()[0].own.as_millis() < 300, "{step}");
    }
}
