//! A swap of snapshots never changes a request under way.

use std::sync::Arc;

use http_body_util::BodyExt;
use tokio::sync::oneshot;

use crate::harness::*;

/// A body that comes when it is released.
fn late() -> (oneshot::Sender<()>, TestBody) {
    let (release, held) = oneshot::channel();
    let frames = futures::stream::once(async {
        held.await.unwrap();
        Ok(http_body::Frame::data(bytes::Bytes::from_static(b"late")))
    });
    (release, http_body_util::StreamBody::new(frames).boxed_unsync())
}

#[tokio::test]
async fn a_request_ends_on_the_snapshot_it_began_on_and_then_lets_it_go() {
    let mut node = Node::start(vec![Step::new("old-a"), Step::new("old-b")]).await;
    let (release, body) = late();
    let response = node.snapshot.clone().handle(request("POST", "/", "tag:1,tag:2", body), client()).await;

    // The new one has another chain and another upstream.
    let plan = plan(vec![Step::new("new")], &node.fallback.url, None);
    let (new, warnings) = node.runtime.snapshot(plan);
    assert_eq!(warnings, []);
    let old = Arc::downgrade(&std::mem::replace(&mut node.snapshot, new));
    let fresh = node.get("tag:x").await;
    assert_eq!(fresh.header("x-upstream"), "fallback");
    assert_eq!(fresh.header("x-got"), "x");
    assert!(old.upgrade().is_some(), "a request is under way on it");

    release.send(()).unwrap();
    let answer = Answer::of(response).await;
    assert_eq!(answer.header("x-got"), "1,2");
    assert_eq!(answer.header("x-upstream"), "main");
    assert_eq!(answer.text(), "late");
    assert!(old.upgrade().is_none(), "nobody needs it any more");
}

#[tokio::test]
async fn a_stream_that_no_worker_makes_goes_on_when_the_snapshot_of_its_filters_is_over() {
    let node = Node::start(vec![Step::filter("a")]).await;
    let (release, body) = late();
    let response = node.snapshot.clone().handle(request("POST", "/", "pass", body), client()).await;
    node.snapshot.end_streams();
    release.send(()).unwrap();
    assert_eq!(Answer::of(response).await.text(), "late");
}

#[tokio::test]
async fn a_stream_on_a_snapshot_that_is_over_breaks_off_and_lets_it_go() {
    let mut node = Node::start(vec![Step::new("a")]).await;
    let silence = futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>>();
    let body = http_body_util::StreamBody::new(silence).boxed_unsync();
    let response = node.snapshot.clone().handle(request("POST", "/", "pass", body), client()).await;
    let (new, _) = node.runtime.snapshot(plan(vec![], &node.fallback.url, None));
    let old = std::mem::replace(&mut node.snapshot, new);
    let reading = Answer::of(response);
    tokio::pin!(reading);
    assert!(futures::poll!(&mut reading).is_pending());
    old.end_streams();
    let answer = reading.await;
    assert!(answer.body.unwrap_err().contains("runs no longer"));
    let weak = Arc::downgrade(&old);
    drop(old);
    // What the worker had asked for goes with the runtime's next turn.
    eventually(async || weak.upgrade().is_none()).await;
    assert_eq!(node.counted.calls("a"), [sluice_worker::Outcome::Next], "and nobody is to blame");
}

#[tokio::test]
async fn a_worker_in_an_unknown_stage_fails_by_its_policy_and_is_told() {
    let node = Node::start(vec![]).await;
    let plan = plan(vec![Step::new("lost").at("nowhere", 0)], &node.upstream.url, None);
    let (snapshot, warnings) = node.runtime.snapshot(plan);
    assert!(warnings[0].message.contains("`nowhere`"), "{warnings:?}");
    let response = snapshot.handle(get("/", ""), client()).await;
    assert_eq!(response.status(), 503);
}

#[tokio::test]
async fn of_two_rules_for_one_path_the_first_unit_keeps_it() {
    let node = Node::start(vec![]).await;
    let mut plan = plan(vec![], &node.upstream.url, None);
    let mut second = self::plan(vec![], &node.fallback.url, None).routes.remove(0);
    second.unit.name = "route-2".into();
    plan.routes.insert(0, second);
    let (snapshot, warnings) = node.runtime.snapshot(plan);
    assert_eq!(warnings.len(), 2, "one for each host");
    let answer = Answer::of(snapshot.handle(get("/", ""), client()).await).await;
    assert_eq!(answer.header("x-upstream"), "main");
}
