//! Limits end what is over them, soon, and nobody else notices.

use std::time::{Duration, Instant};

use sluice_chain::RuntimeConfig;
use sluice_config::Limits;
use sluice_worker::{Engine, EngineConfig, Outcome};

use crate::harness::*;

const TIGHT: Limits = Limits { cpu_ms: 50, wall_ms: 20_000, memory_bytes: 8 << 20 };

/// One thread for all: the worst case for a neighbour.
#[tokio::test]
async fn a_spinning_worker_ends_at_its_cpu_limit_and_lets_neighbours_through() {
    let node = Node::start(vec![Step::new("a").limits(TIGHT)]).await;
    node.get("pass").await;
    let began = Instant::now();
    let spin = async {
        let answer = node.get("spin").await;
        (answer.status, began.elapsed())
    };
    let neighbours = async {
        for _ in 0..5 {
            assert_eq!(node.get("tag:n").await.status, 200);
        }
        began.elapsed()
    };
    let ((status, spun), served) = tokio::join!(spin, neighbours);
    assert_eq!(status, 503);
    assert!(spun >= Duration::from_millis(50), "{spun:?}");
    assert!(served < spun, "neighbours took {served:?}, the spin {spun:?}");
    let calls = node.counted.calls("a");
    assert_eq!(calls.iter().filter(|c| **c == Outcome::Cpu).count(), 1, "{calls:?}");
    assert_eq!(calls.iter().filter(|c| **c == Outcome::Next).count(), 6, "{calls:?}");
}

#[tokio::test]
async fn many_that_spin_at_once_each_end_by_their_own_cpu_time() {
    let node = Node::start(vec![Step::new("a").limits(TIGHT)]).await;
    let answers = futures::future::join_all((0..4).map(|_| node.get("spin"))).await;
    assert!(answers.iter().all(|a| a.status == 503));
    assert_eq!(node.counted.calls("a"), [Outcome::Cpu; 4]);
}

#[tokio::test]
async fn waiting_in_next_and_for_bodies_is_not_the_workers_wall_time() {
    let limits = Limits { wall_ms: 40, ..LIMITS };
    let node = Node::start(vec![
        Step::new("outer").limits(limits),
        // It waits longer than the outer worker may.
        Step::new("inner").at("route", 0).limits(Limits { wall_ms: 200, ..LIMITS }),
    ])
    .await;
    let answer = node.get("tag:o,sleep").await;
    assert_eq!(answer.status, 503);
    assert_eq!(node.counted.calls("outer"), [Outcome::Next]);
    assert_eq!(node.counted.calls("inner"), [Outcome::Wall]);
    assert!(node.counted.own("inner") >= Duration::from_millis(200));
    assert!(node.counted.own("outer") < Duration::from_millis(40));
}

#[tokio::test]
async fn memory_is_limited_per_call() {
    let node = Node::start(vec![Step::new("a").limits(TIGHT)]).await;
    for _ in 0..3 {
        assert_eq!(node.get("alloc").await.status, 503);
        assert_eq!(node.get("pass").await.status, 200);
    }
    let calls = node.counted.calls("a");
    assert_eq!(calls.iter().filter(|c| **c == Outcome::Memory).count(), 3);
}

#[tokio::test]
async fn floods_of_headers_are_bounded_on_both_sides() {
    let node = Node::start(vec![Step::new("a")]).await;
    let mut flooded = get("/", "pass");
    for n in 0..70 {
        let name: http::HeaderName = format!("x-flood-{n}").parse().unwrap();
        flooded.headers_mut().insert(name, "v".repeat(1_000).parse().unwrap());
    }
    assert_eq!(node.send(flooded).await.status, 431);
    assert_eq!(node.counted.calls("a").len(), 0);
    assert_eq!(node.get("headers:20").await.status, 200);
    assert_eq!(node.get("headers:1000").await.status, 503);
    assert_eq!(node.counted.calls("a"), [Outcome::Answered, Outcome::Trap]);
}

#[tokio::test]
async fn next_calls_have_a_total_budget_per_request() {
    // One for each of the three workers besides.
    let config = RuntimeConfig { next_budget: 6, ..RuntimeConfig::new("canary") };
    let node = Node::start_with(vec![Step::new("a"), Step::new("b"), Step::new("c")], config, None).await;
    let answer = node.get("many:4,pass,pass").await;
    assert_eq!(answer.status, 508, "the fourth of three calls each is the tenth");
    assert!(answer.text().contains("LoopDetected"), "{}", answer.text());
    assert_eq!(node.get("twice,pass,pass").await.status, 200);
}

#[tokio::test]
async fn passing_on_once_is_in_every_budget() {
    let config = RuntimeConfig { next_budget: 0, ..RuntimeConfig::new("canary") };
    let node = Node::start_with(vec![Step::new("a"), Step::new("b"), Step::new("c")], config, None).await;
    assert_eq!(node.get("pass,pass,pass").await.status, 200);
    assert_eq!(node.get("twice,pass,pass").await.status, 503);
}

#[tokio::test]
async fn one_unit_has_only_its_share_of_the_nodes_room() {
    let config = RuntimeConfig { unit_calls_max: 1, ..RuntimeConfig::new("canary") };
    let steps = vec![
        Step::new("a").paths(&["/slow/*"]),
        Step::new("b").paths(&["/slow/*"]).on_failure(sluice_config::OnFailure::Open),
    ];
    let node = Node::start_with(steps, config, None).await;
    let slow = |script: &str| node.snapshot.clone().handle(get("/slow/", script), client());
    let mut waits = Box::pin(slow("sleep"));
    // Under way, and in its room.
    assert!(futures::poll!(&mut waits).is_pending());
    assert_eq!(slow("").await.status(), 503);
    assert_eq!(node.counted.calls("a"), [Outcome::Shed]);
    let shed = (sluice_chain::Class::C5xx, sluice_chain::Origin::Proxy, false);
    assert_eq!(node.counted.requests("a"), [shed], "no fault, and not its own 5xx");
    assert_eq!(node.send(get("/", "")).await.status, 200, "others have theirs");
    drop(waits);
    assert_eq!(slow("pass,pass").await.status(), 200, "and so has it, again");
}

#[tokio::test]
async fn what_finds_no_room_is_shed() {
    let code = code_in_a_pool_of(1);
    let open = Step::new("b").code(code()).on_failure(sluice_config::OnFailure::Open);
    let node = Node::start(vec![Step::new("a").code(code()), open]).await;
    assert_eq!(node.get("pass,pass").await.status, 200, "without the one that may be left out");
    assert_eq!(node.counted.calls("a"), [Outcome::Next]);
    assert_eq!(node.counted.calls("b"), [Outcome::Shed]);
}

#[tokio::test]
async fn what_would_find_no_room_in_its_middle_is_shed_where_it_begins() {
    let code = code_in_a_pool_of(3);
    let node = Node::start(vec![Step::new("a").code(code()), Step::new("b").code(code())]).await;
    let mut waits = Box::pin(node.snapshot.clone().handle(get("/", "pass,sleep"), client()));
    assert!(futures::poll!(&mut waits).is_pending());
    let answer = node.get("pass,pass").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!((node.counted.calls("a"), node.counted.calls("b")), (vec![Outcome::Shed], vec![]));
    let shed = (sluice_chain::Class::C5xx, sluice_chain::Origin::Proxy, false);
    assert_eq!((node.counted.requests("a"), node.counted.requests("b")), (vec![shed], vec![]));
    drop(waits);
    eventually(async || node.get("pass,pass").await.status == 200).await;
}

#[tokio::test]
async fn room_for_what_was_not_called_is_free_again_when_the_response_is_there() {
    let code = code_in_a_pool_of(3);
    let node = Node::start(vec![Step::new("a").code(code()), Step::new("b").code(code())]).await;
    let streams = node.snapshot.clone().handle(get("/", "head-sleep"), client()).await;
    assert_eq!(streams.status(), 200);
    assert_eq!(node.get("pass,pass").await.status, 200, "the first one has the room of one call");
    drop(streams);
}

/// A worker's code, as often as one likes, of an engine that has room for so many calls.
fn code_in_a_pool_of(instances_max: u32) -> impl Fn() -> sluice_chain::Code {
    let engine = Engine::new(&EngineConfig { instances_max, ..EngineConfig::default() }).unwrap();
    let compiled = engine.compile(&wasm("faults")).unwrap();
    move || sluice_chain::Code::Ready(compiled.clone())
}

#[tokio::test]
async fn who_is_shed_may_come_again_only_where_nothing_went_upstream() {
    let config = || RuntimeConfig { unit_calls_max: 0, ..RuntimeConfig::new("canary") };
    let node = Node::start_with(vec![Step::filter("a")], config(), None).await;
    let answer = node.get("pass").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").as_str()), (503, "1"));
    assert_eq!(node.upstream.count(), 0);
    let sees_responses = Step::new("a").code(sluice_chain::Code::Ready(guest("filter-security-headers")));
    let node = Node::start_with(vec![sees_responses], config(), None).await;
    let answer = node.get("").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").as_str()), (503, ""));
    assert_eq!(node.counted.calls("a"), [Outcome::Shed]);
    assert_eq!(node.upstream.count(), 1);
}

#[tokio::test]
async fn above_the_nodes_requests_at_once_it_is_503() {
    let config = RuntimeConfig { requests_max: 0, ..RuntimeConfig::new("canary") };
    let node = Node::start_with(vec![], config, None).await;
    let answer = node.get("").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), "1");
}
