//! Whose a response is.

use sluice_chain::{Class, Origin};
use sluice_worker::Outcome;

use crate::harness::*;

type Expected<'a> = &'a [(&'a str, Class, Origin, bool)];

async fn check(script: &str, status: Option<&str>, expected_status: u16, expected: Expected<'_>) {
    let node = Node::start(["a", "b", "c"].map(Step::new).into()).await;
    let mut request = get("/", script);
    if let Some(status) = status {
        request.headers_mut().insert("x-status", status.parse().unwrap());
    }
    let answer = node.send(request).await;
    assert_eq!(answer.status, expected_status, "{script}");
    for (unit, class, origin, fault) in expected {
        assert_eq!(node.counted.requests(unit), [(*class, *origin, *fault)], "{script}: {unit}");
    }
}

use Class::{C2xx, C4xx, C5xx};
use Origin::{Other, Own, Upstream};

#[tokio::test]
async fn a_request_counts_for_each_worker_it_went_through() {
    let good = |unit| (unit, C2xx, Upstream, false);
    check("pass,pass,pass", None, 200, &[good("a"), good("b"), good("c"), good("route")]).await;
}

#[tokio::test]
async fn an_upstreams_5xx_is_not_the_workers() {
    let theirs = |unit| (unit, C5xx, Upstream, false);
    check("pass,pass,pass", Some("500"), 500, &[theirs("a"), theirs("c"), theirs("route")]).await;
    // A page of one's own for it does not make it one's own.
    check("pass,next-answer:502,pass", Some("500"), 502, &[theirs("a"), theirs("b"), theirs("c")]).await;
}

#[tokio::test]
async fn a_worker_that_turns_a_good_response_into_500_made_it() {
    check(
        "pass,next-answer:500,pass",
        None,
        500,
        &[("a", C5xx, Other, false), ("b", C5xx, Own, false), ("c", C5xx, Other, false), ("route", C5xx, Other, false)],
    )
    .await;
}

#[tokio::test]
async fn an_early_answer_is_the_workers_own() {
    check("pass,answer:403", None, 403, &[("a", C4xx, Other, false), ("b", C4xx, Own, false)]).await;
    check("pass,answer:500", None, 500, &[("a", C5xx, Other, false), ("b", C5xx, Own, false)]).await;
}

#[tokio::test]
async fn a_5xx_that_another_worker_hides_still_counts() {
    check("next-answer:200,answer:500", None, 200, &[("a", C2xx, Own, false), ("b", C5xx, Own, false)]).await;
}

#[tokio::test]
async fn a_trap_is_a_fault_of_its_worker_alone() {
    check("pass,trap", None, 503, &[("a", C5xx, Other, false), ("b", C5xx, Own, true)]).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_is_499() {
    let node = Node::start(vec![Step::new("a"), Step::new("b")]).await;
    let asked = node.get("pass,sleep");
    let gone = tokio::time::timeout(std::time::Duration::from_millis(50), asked).await;
    assert!(gone.is_err());
    assert_eq!(node.counted.requests("a"), [(Class::C499, Origin::Proxy, false)]);
    assert_eq!(node.counted.requests("b"), [(Class::C499, Origin::Proxy, false)]);
    assert_eq!(node.counted.calls("a"), [Outcome::Next]);
}
