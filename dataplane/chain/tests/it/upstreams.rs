//! Which of a route's upstreams a request goes to: the first, unless a worker chooses another by its name.

use sluice_chain::RuntimeConfig;
use sluice_worker::Outcome;

use crate::harness::*;

/// A filter, then a worker of `wasi:http`. The upstreams `blue` and `fallback` are one application, called fallback.
async fn node() -> Node {
    Node::start(vec![Step::filter("a"), Step::new("b")]).await
}

#[tokio::test]
async fn workers_of_both_contracts_choose_by_name() {
    let node = node().await;
    assert_eq!(node.get("pass,pass").await.header("x-upstream"), "main");
    for script in ["upstream:blue,pass", "pass,upstream:blue", "upstream:fallback,pass", "pass,upstream:fallback"] {
        let answer = node.get(script).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-upstream").as_str()), (200, "fallback"), "{script}");
    }
    assert_eq!(node.get("upstreams,pass").await.header("x-got"), "blue fallback");
}

#[tokio::test]
async fn a_name_that_the_route_does_not_have_is_the_workers_fault() {
    let node = node().await;
    assert_eq!(node.get("upstream:green,pass").await.status, 503);
    assert_eq!(node.counted.calls("a"), [Outcome::Invalid]);
    assert_ne!(node.get("pass,upstream:green").await.status, 200);
    assert_eq!(node.upstream.count() + node.fallback.count(), 0, "it goes nowhere");
}

#[tokio::test]
async fn what_a_client_says_of_upstreams_is_not_heard() {
    let node = node().await;
    let mut request = get("/", "pass,pass");
    request.headers_mut().insert("sluice-upstream", "blue".parse().unwrap());
    assert_eq!(node.send(request).await.header("x-upstream"), "main");
}

#[tokio::test]
async fn a_filter_that_fails_has_chosen_nothing() {
    let open = Step::filter("a").on_failure(sluice_config::OnFailure::Open);
    let node = Node::start(vec![open]).await;
    assert_eq!(node.get("upstream-trap:blue").await.header("x-upstream"), "main");
}

#[tokio::test]
async fn the_fallback_serves_where_the_chosen_one_cannot_be_reached() {
    let steps = vec![Step::filter("a")];
    let node = Node::start_with(steps, RuntimeConfig::new("canary"), None).await;
    let mut plan = plan(vec![Step::filter("a")], &node.upstream.url, Some(&node.fallback.url));
    let dead = upstream_of(&nobody().await);
    plan.routes[0].routes.rules[0].alternatives.insert("dead".into(), dead);
    let (snapshot, warnings) = node.runtime.snapshot(plan);
    assert_eq!(warnings, []);
    let node = Node { snapshot, ..node };
    let answer = node.get("upstream:dead").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-upstream").as_str()), (200, "fallback"));
}
