//! `onFailure`, by when the worker fails and what it had read.

use http_body_util::BodyExt;
use sluice_chain::{Class, Code, Origin};
use sluice_config::{Limits, OnFailure};
use sluice_worker::Outcome;

use crate::harness::*;

/// Room for a busy machine, and soon over for what spins or sleeps.
const TIGHT: Limits = Limits { cpu_ms: 50, wall_ms: 1_500, memory_bytes: 8 << 20 };

fn steps(on_failure: OnFailure) -> Vec<Step> {
    vec![Step::new("before").at("edge", 0), Step::new("faulty").on_failure(on_failure).limits(TIGHT)]
}

/// A worker under test, between one that tags before and one after.
async fn node(on_failure: OnFailure) -> Node {
    let mut steps = steps(on_failure);
    steps.push(Step::new("behind").at("route", 0));
    Node::start(steps).await
}

/// A worker under test, the last: who goes on without it has its step in the script still.
async fn last(on_failure: OnFailure) -> Node {
    Node::start(steps(on_failure)).await
}

fn faulty(step: &str) -> String {
    format!("tag:before,{step},tag:behind")
}

/// Failures before `next`, with nothing of the body read.
const BEFORE: [(&str, Outcome); 8] = [
    ("trap", Outcome::Trap),
    ("exit", Outcome::Trap),
    ("spin", Outcome::Cpu),
    ("sleep", Outcome::Wall),
    ("alloc", Outcome::Memory),
    ("silent", Outcome::Invalid),
    ("error", Outcome::Invalid),
    ("headers:500", Outcome::Trap),
];

#[tokio::test]
async fn closed_answers_503_and_counts_what_happened() {
    for (step, outcome) in BEFORE {
        let node = node(OnFailure::Closed).await;
        let answer = node.post(&faulty(step), "body").await;
        assert_eq!(answer.status, 503, "{step}");
        assert_eq!(answer.header("x-back"), "before", "{step}");
        assert_eq!(node.counted.calls("faulty"), [outcome], "{step}");
        assert_eq!(node.upstream.count(), 0, "{step}");
        assert_eq!(node.counted.requests("faulty"), [(Class::C5xx, Origin::Own, true)]);
        assert_eq!(node.counted.requests("before"), [(Class::C5xx, Origin::Other, false)]);
    }
}

#[tokio::test]
async fn open_goes_on_without_it() {
    for (step, outcome) in BEFORE {
        let node = last(OnFailure::Open).await;
        let answer = node.post(&format!("tag:before,{step}"), "body").await;
        assert_eq!(answer.status, 200, "{step}: {answer:?}");
        assert_eq!(answer.text(), "body", "{step}");
        assert_eq!(answer.header("x-upstream"), "main", "{step}");
        assert_eq!(node.counted.calls("faulty"), [outcome], "{step}");
        assert_eq!(node.counted.requests("faulty"), [(Class::C2xx, Origin::Upstream, true)]);
        assert_eq!(node.counted.requests("before"), [(Class::C2xx, Origin::Upstream, false)]);
    }
}

#[tokio::test]
async fn fallback_takes_the_fallback_upstream_without_the_rest_of_the_chain() {
    for (step, outcome) in BEFORE {
        let node = node(OnFailure::Fallback).await;
        let answer = node.post(&faulty(step), "body").await;
        assert_eq!(answer.status, 200, "{step}: {answer:?}");
        assert_eq!(answer.text(), "body", "{step}");
        assert_eq!(answer.header("x-upstream"), "fallback", "{step}");
        assert_eq!(answer.header("x-back"), "before", "{step}");
        assert_eq!(node.counted.calls("faulty"), [outcome], "{step}");
        assert!(node.counted.calls("behind").is_empty(), "{step}");
    }
}

#[tokio::test]
async fn a_body_partly_read_is_replayed_whole_up_to_64_kib() {
    let small = vec![b's'; 60 << 10];
    let large = vec![b'l'; 200 << 10];
    for (on_failure, upstream) in [(OnFailure::Open, "main"), (OnFailure::Fallback, "fallback")] {
        for read in [1, 10_000, 60 << 10, 1_000_000] {
            let node = last(on_failure).await;
            let answer = node.post(&format!("pass,read-trap:{read}"), small.clone()).await;
            assert_eq!(answer.status, 200, "{on_failure:?} {read}: {answer:?}");
            assert_eq!(answer.header("x-upstream"), upstream);
            assert_eq!(answer.body.unwrap(), small);
        }
        let node = last(on_failure).await;
        let script = format!("pass,read-trap:{}", 150 << 10);
        let answer = node.send(request("POST", "/", &script, chunked(&large))).await;
        assert_eq!(answer.status, 503, "{on_failure:?}: more was read than is kept");
        assert_eq!(node.upstream.count() + node.fallback.count(), 0);
    }
}

fn chunked(bytes: &[u8]) -> TestBody {
    let chunks: Vec<_> =
        bytes.chunks(16 << 10).map(|c| Ok(http_body::Frame::data(bytes::Bytes::copy_from_slice(c)))).collect();
    http_body_util::StreamBody::new(futures::stream::iter(chunks)).boxed_unsync()
}

#[tokio::test]
async fn after_next_open_passes_the_inner_response() {
    for step in ["next-trap", "next-spin", "next-read-trap:3", "next-read-trap:99"] {
        let node = node(OnFailure::Open).await;
        let answer = node.post(&faulty(step), "").await;
        assert_eq!(answer.status, 200, "{step}: {answer:?}");
        assert_eq!(answer.header("x-upstream"), "main", "{step}");
        assert_eq!(answer.header("x-back"), "behind,before", "{step}");
        assert_eq!(node.upstream.count(), 1, "{step}: never sent twice");
    }
    let node = node(OnFailure::Open).await;
    let answer = node.post(&faulty("next-read-trap:3"), "hello world").await;
    assert_eq!(answer.text(), "hello world");
}

/// The order that `wasi:http` prescribes is to call first and to write the body then.
#[tokio::test]
async fn a_worker_that_fails_before_anything_of_its_call_went_out_is_gone_without() {
    for (on_failure, upstream) in [(OnFailure::Open, "main"), (OnFailure::Fallback, "fallback")] {
        for body in ["", "hello world"] {
            let node = last(on_failure).await;
            let answer = node.post("tag:before,inflight-trap", body).await;
            assert_eq!(answer.status, 200, "{on_failure:?}: {answer:?}");
            assert_eq!(answer.text(), body, "{on_failure:?}");
            assert_eq!(answer.header("x-upstream"), upstream);
            assert_eq!(answer.header("x-back"), "before");
            assert_eq!(node.upstream.count() + node.fallback.count(), 1, "never sent twice");
            assert_eq!(node.counted.requests("faulty"), [(Class::C2xx, Origin::Upstream, true)]);
        }
    }
}

#[tokio::test]
async fn after_next_too_much_of_the_inner_response_read_is_503() {
    let node = node(OnFailure::Open).await;
    let large = vec![b'l'; 200 << 10];
    let answer = node.post(&faulty("next-read-trap:150000"), large).await;
    assert_eq!(answer.status, 503);
    assert_eq!(node.upstream.count(), 1);
}

#[tokio::test]
async fn after_something_went_upstream_closed_and_fallback_are_503() {
    for on_failure in [OnFailure::Closed, OnFailure::Fallback] {
        for step in ["next-trap", "next-spin", "next-read-trap:3"] {
            let node = node(on_failure).await;
            let answer = node.post(&faulty(step), "hello").await;
            assert_eq!(answer.status, 503, "{on_failure:?} {step}");
            assert_eq!(node.upstream.count(), 1, "{on_failure:?} {step}");
            assert_eq!(node.fallback.count(), 0, "{on_failure:?} {step}");
            assert_eq!(node.counted.requests("faulty"), [(Class::C5xx, Origin::Own, true)]);
            assert_eq!(node.counted.requests("behind"), [(Class::C5xx, Origin::Other, false)]);
        }
    }
}

#[tokio::test]
async fn after_the_head_the_response_is_broken_off_and_counted_so() {
    for on_failure in [OnFailure::Closed, OnFailure::Open, OnFailure::Fallback] {
        let node = Node::start(vec![Step::new("faulty").on_failure(on_failure)]).await;
        let answer = node.get("head-trap").await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.is_err(), "{on_failure:?}");
        assert_eq!(node.counted.calls("faulty"), [Outcome::Aborted]);
        assert!(!node.counted.requests("faulty")[0].2, "not known when it was counted");
        assert_eq!(node.counted.broke_off("faulty"), 1);
    }
}

#[tokio::test]
async fn a_worker_that_is_not_loaded_fails_by_its_policy() {
    for (on_failure, status, upstream) in
        [(OnFailure::Closed, 503, ""), (OnFailure::Open, 200, "main"), (OnFailure::Fallback, 200, "fallback")]
    {
        let absent = Code::NotLoaded { why: "no artifact".into() };
        let node = Node::start(vec![Step::new("absent").on_failure(on_failure).code(absent)]).await;
        let answer = node.post("", "body").await;
        assert_eq!(answer.status, status, "{on_failure:?}");
        assert_eq!(answer.header("x-upstream"), upstream);
        assert_eq!(node.counted.calls("absent"), [Outcome::NotLoaded]);
        assert!(node.counted.requests("absent")[0].2);
    }
}
