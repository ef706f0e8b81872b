//! Single calls of filters: what they see, what they may change, and how they end.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use sluice_config::Limits;
use sluice_egress::{Body, EgressError, full};
use sluice_worker::{
    Bindings, Decision, Ended, Exchange, Grants, NextFuture, NoBinding, Outcome, Phase, Spelling, Stopped,
};

use crate::{
    call::{LIMITS, identity},
    filter,
};

pub(crate) fn exchange() -> Arc<Exchange> {
    let spelling = Spelling {
        authority: |authority| if authority == "reserved" { Err("reserved".into()) } else { Ok(()) },
        path: |path| if path.path().contains("..") { Err("it has a segment ..".into()) } else { Ok(()) },
    };
    let (authority, path) = ("shop.example:8080".parse().unwrap(), "/cart?item=1".parse().unwrap());
    let client: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
    Arc::new(Exchange::new(http::Method::POST, authority, path, client, true, spelling, ["blue".to_owned()].into()))
}

/// Of a worker that may reach nothing.
pub(crate) fn nowhere() -> Bindings {
    struct Nowhere;

    impl Grants for Nowhere {
        fn fetch(self: Arc<Self>, _: usize, _: Request<Body>) -> NextFuture {
            Box::pin(async { Err(EgressError::Budget) })
        }

        fn take(&self, _: usize, _: &str, _: &str) -> Result<Option<Duration>, NoBinding> {
            Err(NoBinding)
        }
    }

    Bindings { chain: Arc::new(Nowhere), worker: 0 }
}

fn request(script: &str) -> Request<Body> {
    let request = Request::post("http://shop.example:8080/cart?item=1").header("x-do", script);
    request.header("host", "shop.example:8080").body(full("the body")).unwrap()
}

fn response() -> Response<Body> {
    Response::builder().header("x-a", "1").header("content-length", "8").body(full("the body")).unwrap()
}

async fn text(body: Body) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A call with one step.
async fn ask(script: &str) -> (Ended, Result<Decision, Stopped<Request<Body>>>) {
    ask_with(script, &LIMITS, &exchange()).await
}

async fn ask_with(
    script: &str,
    limits: &Limits,
    exchange: &Arc<Exchange>,
) -> (Ended, Result<Decision, Stopped<Request<Body>>>) {
    filter("filter-faults").on_request(&identity(), limits, exchange, nowhere(), request(script)).await
}

/// The request that goes on, whether it goes elsewhere, and what is kept.
async fn onward(script: &str) -> (Request<Body>, bool, Bytes) {
    let (ended, decided) = ask(script).await;
    assert_eq!(ended.outcome, Outcome::Next, "{script}");
    match decided {
        Ok(Decision::Next { request, is_rewritten, state }) => (request, is_rewritten, state),
        Ok(Decision::Answer(_)) => panic!("{script}: it answered"),
        Err(Stopped { failure, .. }) => panic!("{script}: {failure}"),
    }
}

async fn back(step: &str) -> (Ended, Result<Response<Body>, Stopped<Response<Body>>>) {
    let state = Bytes::copy_from_slice(step.as_bytes());
    filter("filter-faults").on_response(&identity(), &LIMITS, &exchange(), nowhere(), state, response()).await
}

#[test]
fn the_phases_are_what_is_exported() {
    assert_eq!(filter("filter-faults").phases(), [Phase::OnRequest, Phase::OnResponse]);
    assert_eq!(filter("filter-redirects").phases(), [Phase::OnRequest]);
    assert_eq!(filter("filter-security-headers").phases(), [Phase::OnResponse]);
}

#[tokio::test]
async fn a_filter_sees_and_changes_the_head_and_the_body_goes_on() {
    let (request, is_rewritten, state) = onward("tag:a").await;
    assert_eq!(request.headers()["x-seen"], "a");
    assert!(!is_rewritten);
    assert_eq!(state, "back:a");
    assert_eq!(text(request.into_body()).await, "the body");

    let (request, ..) = onward("client").await;
    assert_eq!(request.headers()["x-seen"], "https 192.0.2.7");
    let (request, ..) = onward("count").await;
    assert_eq!(request.headers()["x-seen"], "2", "x-do and host");
    let (request, ..) = onward("method:PATCH").await;
    assert_eq!(request.method(), "PATCH");
    let (request, ..) = onward("drop:x-do").await;
    assert!(!request.headers().contains_key("x-do"));
}

#[tokio::test]
async fn host_and_path_are_rewritten_apart() {
    let (request, is_rewritten, _) = onward("rewrite:/other?x").await;
    assert!(is_rewritten);
    assert_eq!(request.uri(), "http://shop.example:8080/other?x");
    let (request, is_rewritten, _) = onward("rehost:admin.example").await;
    assert!(is_rewritten);
    assert_eq!(request.uri(), "http://admin.example/cart?item=1");
    assert_eq!(request.headers()["host"], "admin.example");
}

#[tokio::test]
async fn a_body_is_read_whole_up_to_a_limit_and_still_goes_on() {
    for (step, seen) in [("body:8", "8 bytes"), ("body:7", "too large"), ("body:4294967295", "8 bytes")] {
        let (request, ..) = onward(step).await;
        assert_eq!(request.headers()["x-seen"], seen);
        assert_eq!(text(request.into_body()).await, "the body");
    }
}

#[tokio::test]
async fn it_answers_at_once() {
    let (ended, decided) = ask("answer:418").await;
    assert_eq!(ended.outcome, Outcome::Answered);
    let Ok(Decision::Answer(answer)) = decided else { panic!("no answer") };
    assert_eq!(answer.status(), 418);
    assert_eq!(text(answer.into_body()).await, "from the filter\n");
}

#[tokio::test]
async fn what_fails_leaves_the_request_as_it_was() {
    let tight = Limits { cpu_ms: 50, wall_ms: 1_000, memory_bytes: 8 << 20 };
    for (step, outcome) in [
        ("trap", Outcome::Trap),
        ("exit:1", Outcome::Trap),
        ("exit:0", Outcome::Invalid),
        ("spin", Outcome::Cpu),
        ("sleep", Outcome::Wall),
        ("alloc", Outcome::Memory),
        ("edit-trap", Outcome::Trap),
        ("read-trap:100", Outcome::Trap),
    ] {
        let exchange = exchange();
        let (ended, decided) = ask_with(step, &tight, &exchange).await;
        assert_eq!(ended.outcome, outcome, "{step}");
        let Err(Stopped { failure, message }) = decided else { panic!("{step}: it did not fail") };
        assert_eq!(failure.outcome, outcome, "{step}: {failure}");
        assert_eq!(message.headers()["x-do"], step, "not even taken");
        assert_eq!(message.uri(), "http://shop.example:8080/cart?item=1", "{step}");
        assert!(!message.headers().contains_key("x-seen"), "{step}");
        assert_eq!(text(message.into_body()).await, "the body", "{step}");
        let seen = ask_with("read-note:team/noisy/half", &LIMITS, &exchange).await.1;
        let Ok(Decision::Next { request, .. }) = seen else { panic!("{step}: no note") };
        assert_eq!(request.headers()["x-seen"], "none", "{step}");
    }
}

#[tokio::test]
async fn what_no_request_can_be_is_invalid() {
    for step in [
        "crlf",
        "name",
        "set:connection",
        "set:content-length",
        "set:transfer-encoding",
        "set:host",
        "set:sluice-upstream",
        "remove:content-length",
        "flood:70",
        "method:CONNECT",
        "method:HEAD",
        "method:no method",
        "rewrite:no/slash",
        "rewrite:/a/../b",
        "rewrite:/a b",
        "rehost:reserved",
        "rehost:no host",
        "note-key",
        "notes:8200",
        "state:4097",
        "answer:99",
        "answer:101",
        "answer:600",
        "answer:204",
        "answer-crlf",
        "answer-framed",
        "answer-large:1048577",
    ] {
        let (ended, decided) = ask(step).await;
        assert_eq!(ended.outcome, Outcome::Invalid, "{step}");
        assert!(matches!(decided, Err(Stopped { .. })), "{step}");
    }
    for step in ["state:4096", "notes:8000", "flood:50"] {
        onward(step).await;
    }
}

#[tokio::test]
async fn a_response_is_seen_and_changed() {
    for (step, status, a, back_header, body) in [
        ("", 200, "1", "", "the body"),
        ("back:x", 200, "1", "x", "the body"),
        ("back-status:404", 404, "1", "", "the body"),
        ("back-status:204", 204, "1", "", ""),
        ("back-body:another one", 200, "1", "", "another one"),
        ("back-upper", 200, "1", "", "THE BODY"),
        ("back-read:8", 200, "1", "8 bytes", "the body"),
        ("back-read:7", 200, "1", "too large", "the body"),
        ("back-asked", 200, "1", "POST shop.example:8080 /cart?item=1", "the body"),
        ("back-drop:x-a", 200, "", "", "the body"),
    ] {
        let (ended, returned) = back(step).await;
        assert_eq!(ended.outcome, Outcome::Next, "{step}");
        let Ok(response) = returned else { panic!("{step}: it failed") };
        let header = |name| response.headers().get(name).map_or("", |v| v.to_str().unwrap());
        assert_eq!(response.status(), status, "{step}");
        assert_eq!((header("x-a"), header("x-back")), (a, back_header), "{step}");
        let length = header("content-length");
        assert!(length.is_empty() || length == body.len().to_string(), "{step}: {length}");
        assert_eq!(text(response.into_body()).await, body, "{step}");
    }
}

#[tokio::test]
async fn what_fails_leaves_the_response_as_it_was() {
    for (step, outcome) in [
        ("back-trap", Outcome::Trap),
        ("back-edit-trap", Outcome::Trap),
        ("back-read-trap", Outcome::Trap),
        ("back-spin", Outcome::Cpu),
        ("back-alloc", Outcome::Memory),
        ("back-crlf", Outcome::Invalid),
        ("back-set:transfer-encoding", Outcome::Invalid),
        ("back-status:100", Outcome::Invalid),
        ("back-status:600", Outcome::Invalid),
        ("back-large:1048577", Outcome::Invalid),
        ("back-state:4097", Outcome::Invalid),
    ] {
        let (ended, returned) = back(step).await;
        assert_eq!(ended.outcome, outcome, "{step}");
        let Err(Stopped { message, .. }) = returned else { panic!("{step}: it did not fail") };
        assert_eq!(message.status(), StatusCode::OK, "{step}");
        assert_eq!(message.headers().len(), 2, "{step}");
        assert_eq!(text(message.into_body()).await, "the body", "{step}");
    }
}

#[tokio::test]
async fn each_call_gets_a_fresh_instance_and_gives_it_back() {
    let filter = filter("filter-faults");
    // More than the pool holds, one after the other, failures among them.
    for round in 0..20 {
        let script = if round % 2 == 0 { "tag:a" } else { "trap" };
        let (ended, _) = filter.on_request(&identity(), &LIMITS, &exchange(), nowhere(), request(script)).await;
        assert_eq!(ended.outcome == Outcome::Next, round % 2 == 0);
    }
}

#[tokio::test]
async fn what_finds_no_room_is_shed_and_lost_nothing() {
    let faults = filter("filter-faults");
    let (identity, exchange) = (identity(), exchange());
    // A body that never comes: the calls hold what the pool has.
    let waits = || {
        let body: Body = BodyExt::boxed_unsync(http_body_util::StreamBody::new(futures::stream::pending()));
        request("body:10").map(|_| body)
    };
    let mut held: Vec<_> =
        (0..4).map(|_| Box::pin(faults.on_request(&identity, &LIMITS, &exchange, nowhere(), waits()))).collect();
    for call in &mut held {
        assert!(futures::poll!(call).is_pending());
    }
    let (ended, decided) = faults.on_request(&identity, &LIMITS, &exchange, nowhere(), request("tag:a")).await;
    assert_eq!(ended.outcome, Outcome::Shed);
    let Err(Stopped { message, .. }) = decided else { panic!("there was room") };
    assert_eq!(text(message.into_body()).await, "the body");
    drop(held);
    let (ended, _) = faults.on_request(&identity, &LIMITS, &exchange, nowhere(), request("tag:a")).await;
    assert_eq!(ended.outcome, Outcome::Next);
}

#[tokio::test]
async fn a_call_that_is_given_up_is_charged_what_it_used() {
    let (faults, identity, exchange) = (filter("filter-faults"), identity(), exchange());
    let body: Body = BodyExt::boxed_unsync(http_body_util::StreamBody::new(futures::stream::pending()));
    let request = request("body:10").map(|_| body);
    let mut call = Box::pin(faults.on_request(&identity, &LIMITS, &exchange, nowhere(), request));
    assert!(futures::poll!(&mut call).is_pending());
    drop(call);
    assert_ne!(identity.cpu_ns.load(std::sync::atomic::Ordering::Relaxed), 0);
}
