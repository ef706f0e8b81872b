//! The way out, as the chain uses it.

use std::sync::Arc;

use sluice_chain::{Class, Origin, Runtime, RuntimeConfig};
use sluice_egress::{Egress, EgressConfig};
use sluice_worker::Outcome;

use crate::harness::*;

#[tokio::test]
async fn an_upstream_that_is_not_there_is_replaced_by_the_fallback_body_and_all() {
    let node = Node::start_with(vec![Step::new("a")], RuntimeConfig::new("canary"), Some(nobody().await)).await;
    let answer = node.post("tag:1", "body").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-upstream"), "fallback");
    assert_eq!(answer.header("x-got"), "1");
    assert_eq!(answer.text(), "body");
}

#[tokio::test]
async fn no_upstream_and_no_fallback_is_502_and_the_upstreams() {
    let node = Node::start(vec![]).await;
    let plan = plan(vec![Step::new("a")], &nobody().await, None);
    let (snapshot, _) = node.runtime.snapshot(plan);
    let answer = Answer::of(snapshot.handle(post("/", "tag:1", "body"), client()).await).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("x-back"), "1", "it passes the chain like any response");
    assert_eq!(node.counted.requests("a"), [(Class::C5xx, Origin::Upstream, false)]);
    assert_eq!(node.counted.calls("a"), [Outcome::Next]);
}

#[tokio::test]
async fn a_route_to_what_is_denied_is_the_routes_own_fault() {
    let counted = Arc::new(Counted::default());
    let egress = Egress::new(EgressConfig::default());
    let runtime = Runtime::new(RuntimeConfig::new("canary"), egress, counted.clone());
    let upstream = TestUpstream::start("main").await;
    let (snapshot, _) = runtime.snapshot(plan(vec![Step::new("a")], &upstream.url, None));
    let response = snapshot.handle(get("/", "pass"), client()).await;
    assert_eq!(response.status(), 502);
    assert_eq!(upstream.count(), 0);
    assert_eq!(counted.requests("route"), [(Class::C5xx, Origin::Own, true)]);
    assert_eq!(counted.requests("a"), [(Class::C5xx, Origin::Other, false)]);
}

#[tokio::test]
async fn a_worker_reaches_only_what_its_bindings_grant() {
    let other = TestUpstream::start("api").await;
    let authority = other.url.strip_prefix("http://").unwrap().to_owned();
    let step = format!("fetch:{authority}");
    let without = Node::start(vec![Step::new("a")]).await;
    let answer = without.get(&step).await;
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("HttpRequestDenied"), "{}", answer.text());
    assert_eq!(other.count(), 0);

    // The route's own upstream is no grant for its workers.
    let own = without.upstream.url.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(without.get(&format!("fetch:{own}")).await.status, 403);

    let with = Node::start(vec![Step::new("a").fetches(&other.url)]).await;
    assert_eq!(with.get(&step).await.status, 200);
    assert_eq!(other.count(), 1);
}

#[tokio::test]
async fn a_filter_reaches_what_its_bindings_grant_and_waits_for_it() {
    let other = TestUpstream::start("api").await;
    let authority = other.url.strip_prefix("http://").unwrap().to_owned();
    let step = format!("fetch:{authority}/who?x=1");
    let without = Node::start(vec![Step::filter("a")]).await;
    assert_eq!(without.get(&step).await.header("x-got"), "denied");
    assert_eq!(other.count(), 0);

    let with = Node::start(vec![Step::filter("a").fetches(&other.url), Step::filter("b")]).await;
    assert_eq!(with.get(&step).await.header("x-got"), "200 10 bytes");
    assert_eq!(with.get(&format!("fetch:{authority} 9")).await.header("x-got"), "too large");
    assert_eq!(other.count(), 2);
    // The next one in the chain has no binding.
    assert_eq!(with.get(&format!("pass,{step}")).await.header("x-got"), "denied");
    assert!(with.counted.calls("a").iter().all(|outcome| *outcome == Outcome::Next));

    let dead = nobody().await;
    let node = Node::start(vec![Step::filter("a").fetches(&dead)]).await;
    let step = format!("fetch:{}", dead.strip_prefix("http://").unwrap());
    assert_eq!(node.get(&step).await.header("x-got"), "unreachable");
}

#[tokio::test]
async fn what_a_filter_waits_for_counts_for_its_wall_limit() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = silent.local_addr().unwrap();
    let limits = sluice_config::Limits { wall_ms: 50, ..LIMITS };
    let node = Node::start(vec![Step::filter("a").fetches(&format!("http://{place}")).limits(limits)]).await;
    assert_eq!(node.get(&format!("fetch:{place}")).await.status, 503);
    assert_eq!(node.counted.calls("a"), [Outcome::Wall]);
}
