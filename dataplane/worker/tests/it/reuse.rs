//! Instances that serve more than one call: how long they live, and what of a call they keep.

use std::sync::Arc;

use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use sluice_config::{Instances, Limits};
use sluice_egress::{Body, BodyError, empty, full};
use sluice_worker::{Compiled, Decision, Engine, EngineConfig, Filter, Proxy, Stopped};
use tokio::sync::oneshot;

use crate::{
    call::{Chain, LIMITS, identity},
    filter::{exchange, nowhere},
    wasm,
};

const REUSE: Instances = Instances { reuse: 1_000, max_age_ms: 3_600_000 };

fn engine() -> Engine {
    Engine::new(&EngineConfig { instances_max: 16, ..EngineConfig::default() }).unwrap()
}

fn serving(guest: &str, instances: Option<Instances>) -> Compiled {
    engine().compile(&wasm(guest)).unwrap().serving(instances)
}

fn filter(instances: Instances) -> Filter {
    match serving("filter-faults", Some(instances)) {
        Compiled::Filter(filter) => filter,
        Compiled::Proxy(_) => panic!("it is a filter"),
    }
}

fn proxy(instances: Instances) -> Proxy {
    match serving("faults", Some(instances)) {
        Compiled::Proxy(proxy) => proxy,
        Compiled::Filter(_) => panic!("it is no filter"),
    }
}

fn request(script: &str, body: Body) -> Request<Body> {
    Request::post("http://shop.example/").header("x-do", script).body(body).unwrap()
}

async fn ask(filter: &Filter, script: &str, body: Body) -> Result<Decision, Stopped<Request<Body>>> {
    filter.on_request(&identity(), &LIMITS, &exchange(), nowhere(), request(script, body)).await.1
}

/// Which of its instance's calls this one is, or that it failed.
async fn told(filter: &Filter, script: &str) -> String {
    match ask(filter, script, empty()).await {
        Ok(Decision::Next { request, .. }) => {
            request.headers().get("x-seen").map_or("nothing", |v| v.to_str().unwrap()).to_owned()
        }
        Ok(Decision::Answer(_)) => "an answer".to_owned(),
        Err(stopped) => format!("{:?}", stopped.failure.outcome),
    }
}

async fn text(proxy: &Proxy, script: &str, body: Body) -> String {
    let chain = Arc::new(Chain::default());
    let text = match proxy.call(&identity(), &LIMITS, chain.clone(), request(script, body)).await {
        Ok(response) => match response.into_body().collect().await {
            Ok(body) => String::from_utf8(body.to_bytes().to_vec()).unwrap(),
            Err(error) => error.to_string(),
        },
        Err(failure) => format!("{:?}", failure.outcome),
    };
    chain.end().await;
    text
}

/// A body that waits for a word.
fn held() -> (oneshot::Sender<()>, Body) {
    let (release, released) = oneshot::channel::<()>();
    let frames = futures::stream::once(async {
        drop(released.await);
        Ok::<_, BodyError>(http_body::Frame::data(bytes::Bytes::from_static(b"late")))
    });
    (release, StreamBody::new(frames).boxed_unsync())
}

#[tokio::test]
async fn an_instance_serves_as_many_calls_as_it_may() {
    let filter = filter(Instances { reuse: 3, ..REUSE });
    let proxy = proxy(Instances { reuse: 3, ..REUSE });
    for expected in ["1", "2", "3", "1", "2", "3", "1"] {
        assert_eq!(told(&filter, "calls").await, expected);
        assert_eq!(text(&proxy, "calls", empty()).await, expected);
    }
}

#[tokio::test]
async fn without_a_word_of_the_manifest_each_call_has_its_own() {
    let Compiled::Filter(filter) = serving("filter-faults", None) else { panic!("it is a filter") };
    let Compiled::Proxy(proxy) = serving("faults", None) else { panic!("it is no filter") };
    for _ in 0..3 {
        assert_eq!(told(&filter, "calls").await, "1");
        assert_eq!(text(&proxy, "calls", empty()).await, "1");
    }
}

#[tokio::test]
async fn one_that_is_too_old_serves_no_more() {
    let instances = Instances { max_age_ms: 0, ..REUSE };
    let (filter, proxy) = (filter(instances), proxy(instances));
    for _ in 0..3 {
        assert_eq!(told(&filter, "calls").await, "1");
        assert_eq!(text(&proxy, "calls", empty()).await, "1");
    }
}

#[tokio::test]
async fn one_that_failed_serves_no_more() {
    let (filter, proxy) = (filter(REUSE), proxy(REUSE));
    // What is wrong with the last two is seen when they have returned.
    for script in ["trap", "exit", "exit:0", "crlf", "answer-crlf", "answer-framed"] {
        assert_eq!(told(&filter, "calls").await, "1", "before {script}");
        assert_eq!(told(&filter, "calls").await, "2");
        told(&filter, script).await;
    }
    for script in ["trap", "exit", "exit-body", "leak-body", "head-trap", "silent", "error"] {
        assert_eq!(text(&proxy, "calls", empty()).await, "1", "before {script}");
        assert_eq!(text(&proxy, "calls", empty()).await, "2");
        text(&proxy, script, empty()).await;
    }
}

#[tokio::test]
async fn the_limits_are_each_calls_own() {
    let filter = filter(REUSE);
    let limits = Limits { cpu_ms: 20, ..LIMITS };
    let ask = async |script: &str| {
        let (ended, decided) =
            filter.on_request(&identity(), &limits, &exchange(), nowhere(), request(script, empty())).await;
        decided.map_or_else(|s| format!("{:?}", s.failure.outcome), |_| format!("{:?}", ended.outcome))
    };
    assert_eq!(ask("pass").await, "Next");
    assert_eq!(ask("spin").await, "Cpu");
    // All of them together use more than one of them may.
    for _ in 0..2_000 {
        assert_eq!(ask("pass").await, "Next");
    }
}

#[tokio::test]
async fn one_that_holds_more_than_half_of_its_memory_serves_no_more() {
    let (filter, proxy) = (filter(REUSE), proxy(REUSE));
    let leak = format!("leak:{}", LIMITS.memory_bytes / 2);
    assert_eq!(told(&filter, "calls").await, "1");
    assert_eq!(told(&filter, &leak).await, "nothing");
    assert_eq!(told(&filter, "calls").await, "1");
    assert_eq!(text(&proxy, "calls", empty()).await, "1");
    assert_eq!(text(&proxy, &leak, empty()).await, "leaked\n");
    assert_eq!(text(&proxy, "calls", empty()).await, "1");
}

#[tokio::test]
async fn a_guest_that_frees_what_it_took_serves_on_and_on() {
    let (filter, proxy) = (filter(REUSE), proxy(REUSE));
    // Six times what all of its memory holds.
    for n in 1..=100 {
        let body = || full(vec![b'x'; 1_000_000]);
        let Ok(Decision::Next { request, .. }) = ask(&filter, "body:1000000", body()).await else {
            panic!("call {n} failed")
        };
        assert_eq!(request.headers()["x-seen"], "1000000 bytes");
        assert_eq!(text(&proxy, "echo", body()).await.len(), 1_000_000, "call {n}");
    }
    assert_eq!(told(&filter, "calls").await, "101");
    assert_eq!(text(&proxy, "calls", empty()).await, "101");
}

#[tokio::test]
async fn nothing_of_a_call_stays_but_in_the_guests_own_memory() {
    let filter = filter(REUSE);
    assert_eq!(told(&filter, "tag:a").await, "a");
    assert_eq!(told(&filter, "note:mine").await, "nothing");
    // The same instance, another request: no state, no notes, no edits.
    assert_eq!(told(&filter, "read-note:team/noisy/mine").await, "none");
    let (identity, exchange) = (identity(), exchange());
    let call =
        filter.on_response(&identity, &LIMITS, &exchange, nowhere(), bytes::Bytes::new(), Response::new(empty()));
    let response = call.await.1.unwrap_or_else(|s| panic!("{}", s.failure));
    assert!(response.headers().is_empty(), "{:?}", response.headers());
    assert_eq!(told(&filter, "calls").await, "5", "it is the same instance");
}

#[tokio::test]
async fn a_request_that_a_guest_keeps_goes_with_the_instance() {
    let proxy = proxy(REUSE);
    let (release, body) = held();
    assert_eq!(text(&proxy, "keep-request", body).await, "kept\n");
    assert!(release.is_closed(), "the client's body is let go");
    assert_eq!(text(&proxy, "calls", empty()).await, "1");
}

#[tokio::test]
async fn what_the_chain_gave_is_let_go_at_the_end_of_each_call() {
    let proxy = proxy(REUSE);
    let chain = Arc::new(Chain::default());
    let called = proxy.call(&identity(), &LIMITS, chain.clone(), request("calls", empty())).await;
    drop(called.unwrap().into_body().collect().await.unwrap());
    assert_eq!(Arc::strong_count(&chain), 1);
    let exchange = exchange();
    let filter = filter(REUSE);
    drop(filter.on_request(&identity(), &LIMITS, &exchange, nowhere(), request("pass", empty())).await);
    assert_eq!(Arc::strong_count(&exchange), 1);
}

#[tokio::test]
async fn two_calls_at_once_have_two_instances() {
    let filter = filter(REUSE);
    assert_eq!(told(&filter, "calls").await, "1");
    let (release, body) = held();
    let mut waiting = Box::pin(ask(&filter, "body:100", body));
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(told(&filter, "calls").await, "1", "the other one is busy");
    release.send(()).unwrap();
    assert!(waiting.await.is_ok());
    let calls = [told(&filter, "calls").await, told(&filter, "calls").await];
    assert_eq!(calls, ["3", "4"], "the last that came back is the first to go");
    // Given up in the middle, it does not come back.
    let (_release, body) = held();
    let mut waiting = Box::pin(ask(&filter, "body:100", body));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(waiting);
    assert_eq!(told(&filter, "calls").await, "2", "the other one");
}

#[tokio::test]
async fn those_that_wait_leave_the_others_their_room() {
    // Of sixteen places four may be held by instances that wait.
    let engine = engine();
    let Compiled::Filter(filter) = engine.compile(&wasm("filter-faults")).unwrap().serving(Some(REUSE)) else {
        panic!("it is a filter")
    };
    let (releases, bodies): (Vec<_>, Vec<_>) = (0..16).map(|_| held()).unzip();
    let mut calls: Vec<_> = bodies.into_iter().map(|body| Box::pin(ask(&filter, "body:100", body))).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    assert_eq!(told(&filter, "calls").await, "Shed");
    releases.into_iter().for_each(|release| release.send(()).unwrap());
    for call in calls {
        assert!(call.await.is_ok());
    }
    let Compiled::Filter(fresh) = engine.compile(&wasm("filter-faults")).unwrap() else { panic!("it is a filter") };
    let (_releases, bodies): (Vec<_>, Vec<_>) = (0..12).map(|_| held()).unzip();
    let mut calls: Vec<_> = bodies.into_iter().map(|body| Box::pin(ask(&fresh, "body:100", body))).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending(), "there is room for twelve more");
    }
}

#[tokio::test]
async fn a_worker_that_is_superseded_keeps_none() {
    let compiled = serving("filter-faults", Some(REUSE));
    let Compiled::Filter(filter) = &compiled else { panic!("it is a filter") };
    let (release, body) = held();
    let mut waiting = Box::pin(ask(filter, "body:100", body));
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(told(filter, "calls").await, "1");
    assert_eq!(told(filter, "calls").await, "2");
    compiled.retire();
    assert_eq!(told(filter, "calls").await, "1");
    release.send(()).unwrap();
    assert!(waiting.await.is_ok());
    assert_eq!(told(filter, "calls").await, "1", "nor does it take one back");
}

#[tokio::test]
async fn workers_that_wait_leave_filters_their_room() {
    let engine = Engine::new(&EngineConfig { instances_max: 2, ..EngineConfig::default() }).unwrap();
    let Compiled::Proxy(proxy) = engine.compile(&wasm("faults")).unwrap() else { panic!("it is no filter") };
    let Compiled::Filter(filter) = engine.compile(&wasm("filter-faults")).unwrap() else { panic!("it is a filter") };
    let sleep = || text(&proxy, "sleep", empty());
    let (mut one, mut two) = (Box::pin(sleep()), Box::pin(sleep()));
    assert!(futures::poll!(&mut one).is_pending() && futures::poll!(&mut two).is_pending());
    assert_eq!(sleep().await, "Shed");
    assert_eq!(told(&filter, "calls").await, "1");
}
