//! Workers of `wasi:http` 0.3 in the chain, among those of the other contracts.

use std::convert::Infallible;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use sluice_chain::RuntimeConfig;
use sluice_config::{Limits, OnFailure};
use sluice_worker::{Outcome, Phase};
use tokio::sync::mpsc;

use crate::harness::*;

/// One of each, in both orders.
fn mixed() -> Vec<Step> {
    let [filter, old, new] = [Step::filter, Step::new, Step::handler];
    vec![filter("a"), new("b"), old("c"), new("d"), new("e"), filter("f"), old("g")]
}

#[tokio::test]
async fn workers_of_all_contracts_make_one_chain() {
    let node = Node::start(mixed()).await;
    let bytes: Vec<u8> = (0..1 << 20_u32).map(|n| (n % 251) as u8).collect();
    let answer = node.post("tag:a,tag:b,tag:c,tag:d,tag:e,tag:f,tag:g", bytes.clone()).await;
    assert_eq!(answer.header("x-got"), "a,b,c,d,e,f,g", "{:?}", answer.headers);
    assert_eq!(answer.header("x-back"), "g,f,e,d,c,b,a");
    assert!(answer.body.unwrap() == bytes);
    for worker in ["b", "c", "d", "e", "g"] {
        node.counted.ended(worker).await;
        assert_eq!(node.counted.phases(worker), [(Phase::Handle, Outcome::Next)], "{worker}");
    }
}

#[tokio::test]
async fn bodies_go_through_the_memory_of_each() {
    let node = Node::start(vec![Step::handler("a"), Step::new("b"), Step::handler("c"), Step::handler("d")]).await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let answer = node.post("copy,tag:b,copy,copy", bytes.clone()).await;
    assert!(answer.body.unwrap() == bytes);
    for worker in ["a", "b", "c", "d"] {
        assert_eq!(node.counted.ended(worker).await, [Outcome::Next], "{worker}");
    }
}

#[tokio::test]
async fn each_chunk_comes_back_before_the_next_is_sent() {
    for script in ["copy,tag:b,copy", "pass,tag:b,pass", "tag:a,tag:b,echo"] {
        let node = Node::start(vec![Step::handler("a"), Step::new("b"), Step::handler("c")]).await;
        let (sender, receiver) = mpsc::channel(1);
        let frames = futures::stream::unfold(receiver, |mut receiver: mpsc::Receiver<Bytes>| async {
            let bytes = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
        });
        sender.send("one".into()).await.unwrap();
        let request = request("POST", "/", script, StreamBody::new(frames).boxed_unsync());
        let mut body = node.snapshot.clone().handle(request, client()).await.into_body();
        for next in ["two", "three", "four"] {
            assert!(!body.frame().await.unwrap().unwrap().into_data().unwrap().is_empty(), "{script}");
            sender.send(next.into()).await.unwrap();
        }
        drop(sender);
        assert!(body.collect().await.is_ok(), "{script}");
    }
}

#[tokio::test]
async fn what_fails_goes_by_the_workers_policy() {
    for (on_failure, status, upstream) in
        [(OnFailure::Closed, 503, ""), (OnFailure::Open, 200, "main"), (OnFailure::Fallback, 200, "fallback")]
    {
        for step in ["trap", "error", "exit-ok", "answer:103"] {
            let node = Node::start(vec![Step::handler("a").on_failure(on_failure)]).await;
            let answer = node.post(step, "body").await;
            assert_eq!((answer.status.as_u16(), answer.header("x-upstream").as_str()), (status, upstream), "{step}");
            if status == 200 {
                assert_eq!(answer.text(), "body", "{step}: nothing of it is lost");
            }
            assert!(node.counted.calls("a")[0].is_fault(), "{step}");
        }
    }
}

#[tokio::test]
async fn open_keeps_the_response_that_a_worker_failed_on() {
    let node = Node::start(vec![Step::handler("a").on_failure(OnFailure::Open), Step::handler("b")]).await;
    let answer = node.post("next-trap,tag:b", "body").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-back").as_str()), (200, "b"), "{answer:?}");
    assert_eq!(answer.text(), "body");
    assert_eq!(node.upstream.count(), 1);
    assert_eq!(node.counted.calls("a"), [Outcome::Trap]);
}

#[tokio::test]
async fn what_fails_amid_its_body_breaks_it_off() {
    for step in ["head-trap", "too-short", "leak-body", "exit-body"] {
        // Whoever reads it.
        for outer in [vec![], vec![Step::handler("o")], vec![Step::new("o")], vec![Step::filter("o")]] {
            let script = if outer.is_empty() { step.to_owned() } else { format!("pass,{step}") };
            let node = Node::start(outer.into_iter().chain([Step::handler("p")]).collect()).await;
            let answer = node.get(&script).await;
            assert_eq!(answer.status, 200, "{script}");
            assert!(answer.body.is_err(), "{script}: {answer:?}");
            assert_eq!(node.counted.calls("p"), [Outcome::Aborted], "{script}");
        }
    }
}

#[tokio::test]
async fn limits_hold_and_neighbours_get_through() {
    let tight = Limits { cpu_ms: 50, wall_ms: 20_000, memory_bytes: 8 << 20 };
    let node = Node::start(vec![Step::handler("a").limits(tight), Step::handler("b")]).await;
    let (spin, pass) = tokio::join!(node.get("spin"), node.get("pass,pass"));
    assert_eq!((spin.status.as_u16(), pass.status.as_u16()), (503, 200));
    assert_eq!(node.get("alloc").await.status, 503);
    let mut calls = node.counted.calls("a");
    calls.sort_unstable();
    assert_eq!(calls, [Outcome::Next, Outcome::Cpu, Outcome::Memory]);
}

#[tokio::test]
async fn neither_time_of_an_inner_worker_is_an_outer_ones() {
    let outer = Limits { cpu_ms: 100, wall_ms: 40, ..LIMITS };
    for (step, outcome, wall_ms) in [("sleep", Outcome::Wall, 200), ("spin", Outcome::Cpu, LIMITS.wall_ms)] {
        let inner = Limits { cpu_ms: 200, wall_ms, ..LIMITS };
        let steps = vec![Step::handler("a").limits(outer.clone()), Step::handler("b").at("route", 0).limits(inner)];
        let node = Node::start(steps).await;
        assert_eq!(node.get(&format!("tag:o,{step}")).await.status, 503, "{step}");
        assert_eq!(node.counted.calls("a"), [Outcome::Next], "{step}");
        assert_eq!(node.counted.calls("b"), [outcome], "{step}");
    }
    // Nor is what it does while its body is read.
    let inner = Limits { cpu_ms: 300, ..LIMITS };
    let steps = vec![
        Step::handler("a").limits(Limits { cpu_ms: 100, ..LIMITS }),
        Step::handler("b").at("route", 0).limits(inner),
    ];
    let node = Node::start(steps).await;
    assert!(node.get("copy,head-spin").await.body.is_err());
    assert_eq!(node.counted.calls("a"), [Outcome::Next]);
    assert_eq!(node.counted.calls("b"), [Outcome::Aborted]);
}

#[tokio::test]
async fn it_reaches_only_what_its_bindings_grant() {
    let other = TestUpstream::start("api").await;
    let step = format!("fetch:{}", other.url.strip_prefix("http://").unwrap());
    let without = Node::start(vec![Step::handler("a")]).await;
    let answer = without.get(&step).await;
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("HttpRequestDenied"), "{}", answer.text());
    assert_eq!(other.count(), 0);
    let with = Node::start(vec![Step::handler("a").fetches(&other.url)]).await;
    assert_eq!(with.get(&step).await.status, 200);
    assert_eq!(other.count(), 1);
}

#[tokio::test]
async fn a_rewrite_leads_elsewhere() {
    let node = Node::start(vec![Step::handler("a"), Step::handler("b").paths(&["/moved/*"])]).await;
    let answer = node.get("rewrite:/moved/x,tag:b").await;
    assert_eq!((answer.header("x-path").as_str(), answer.header("x-back").as_str()), ("/moved/x", "b"));
    for step in ["rehost:eu.shop.example", "authority:eu.shop.example"] {
        assert_eq!(node.get(step).await.header("x-host"), "eu.shop.example", "{step}");
    }
}

#[tokio::test]
async fn next_calls_have_a_budget() {
    let config = RuntimeConfig { next_budget: 0, ..RuntimeConfig::new("canary") };
    let node = Node::start_with(vec![Step::handler("a"), Step::handler("b")], config, None).await;
    assert_eq!(node.get("pass,pass").await.status, 200);
    assert_eq!(node.get("twice,twice").await.status, 503);
    assert!(node.counted.calls("b").contains(&Outcome::Invalid), "it answers with the error that it got");
}

#[tokio::test]
async fn instances_are_a_workers_own() {
    let mut node = Node::start(vec![Step::handler("a").reuse(3), Step::handler("b")]).await;
    for expected in ["1", "2", "3", "1"] {
        assert_eq!(node.get("calls").await.text(), expected);
    }
    assert_eq!(node.get("pass,calls").await.text(), "1");
    let plan = plan(vec![Step::handler("a").reuse(3)], &node.upstream.url, None);
    let (snapshot, _) = node.runtime.snapshot(plan);
    let old = std::mem::replace(&mut node.snapshot, snapshot);
    assert_eq!(node.get("calls").await.text(), "1");
    assert!(std::sync::Arc::into_inner(old).is_some(), "an instance that waits holds nothing of its snapshot");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_call_and_nobody_is_to_blame() {
    let node = Node::start(vec![Step::handler("a"), Step::handler("b")]).await;
    let response = node.snapshot.clone().handle(post("/", "copy,copy", vec![b'x'; 1 << 20]), client()).await;
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    drop(body);
    assert_eq!(node.counted.calls("a"), [Outcome::Next]);
    assert!(!node.counted.requests("a")[0].2);
}
