//! Instances that serve more than one request, in the chain: each worker has its own, and each snapshot.

use sluice_config::OnFailure;
use sluice_worker::Outcome;

use crate::harness::*;

#[tokio::test]
async fn workers_of_one_component_share_no_instance() {
    let node = Node::start(vec![Step::filter("a").reuse(100), Step::filter("b").reuse(100), Step::filter("c")]).await;
    // A call for the request and one for the response.
    for expected in ["1,1,1", "3,3,1", "5,5,1"] {
        assert_eq!(node.get("calls,calls,calls").await.header("x-got"), expected);
    }
}

#[tokio::test]
async fn both_phases_are_served_by_it() {
    let node = Node::start(vec![Step::filter("a").reuse(100)]).await;
    assert_eq!(node.get("back-calls").await.header("x-back"), "2");
    assert_eq!(node.get("back-calls").await.header("x-back"), "4");
}

#[tokio::test]
async fn no_instance_outlives_its_snapshot() {
    let mut node = Node::start(vec![Step::filter("a").reuse(100), Step::new("b").reuse(100)]).await;
    assert_eq!(node.get("calls,calls").await.text(), "1");
    assert_eq!(node.get("calls,calls").await.text(), "2");
    let plan = plan(vec![Step::filter("a").reuse(100), Step::new("b").reuse(100)], &node.upstream.url, None);
    let (snapshot, _) = node.runtime.snapshot(plan);
    let old = std::mem::replace(&mut node.snapshot, snapshot);
    assert_eq!(node.get("calls,calls").await.text(), "1");
    assert!(std::sync::Arc::into_inner(old).is_some(), "an instance that waits holds nothing of its snapshot");
}

#[tokio::test]
async fn one_that_got_too_old_goes_at_the_next_look() {
    let node = Node::start(vec![Step::filter("a").reuse(100), Step::new("b").reuse(100)]).await;
    for (sweep_after, expected) in [(0, "1"), (3_599, "2"), (3_601, "1")] {
        node.snapshot.sweep(std::time::Instant::now() + std::time::Duration::from_secs(sweep_after));
        let answer = node.get("calls,calls").await;
        assert_eq!(answer.text(), expected, "of the worker, {sweep_after} s");
    }
}

#[tokio::test]
async fn an_instance_that_failed_is_replaced_and_its_policy_holds() {
    let node = Node::start(vec![Step::filter("a").reuse(100).on_failure(OnFailure::Open)]).await;
    assert_eq!(node.get("calls").await.header("x-got"), "1");
    let answer = node.get("trap").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-upstream").as_str()), (200, "main"));
    assert_eq!(node.get("calls").await.header("x-got"), "1");
    let calls = node.counted.calls("a").into_iter().filter(|outcome| *outcome == Outcome::Trap).count();
    assert_eq!(calls, 1);
}
