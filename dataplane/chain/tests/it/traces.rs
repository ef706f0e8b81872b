//! What is told of a request that is traced.

use std::sync::Arc;

use sluice_chain::{Runtime, RuntimeConfig, Trace};
use sluice_worker::{Outcome, Phase};

use crate::harness::*;

async fn node(every: u64, steps: Vec<Step>) -> Node {
    let config = RuntimeConfig { trace_every: every, unit_cpu_percent: 100, ..RuntimeConfig::new("canary") };
    Node::start_with(steps, config, None).await
}

/// The newest of so many traces, once they are there: a worker may go on after its response.
async fn newest(runtime: &Runtime, count: usize) -> Arc<Trace> {
    eventually(async || runtime.traces().len() >= count).await;
    assert_eq!(runtime.traces().len(), count);
    runtime.traces().remove(0)
}

fn step(trace: &Trace, place: usize) -> (String, Phase, Outcome, Vec<String>) {
    let step = &trace.steps[place];
    (step.unit.name.clone(), step.call.phase, step.call.outcome, step.changes.clone())
}

#[tokio::test]
async fn each_step_tells_what_it_changed() {
    let node = node(1, vec![Step::filter("a"), Step::new("b")]).await;
    let mut request = get("/cart?token=secret", "tag:1,rewrite:/basket");
    request.headers_mut().insert("cookie", "secret".parse().unwrap());
    assert_eq!(node.send(request).await.status, 200);
    let trace = newest(&node.runtime, 1).await;
    assert_eq!((trace.method.as_str(), trace.host.as_str(), trace.path.as_str()), ("GET", HOST, "/cart"));
    assert_eq!(trace.status.map(|status| status.as_u16()), Some(200));
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    // In the order of their ends: the filter's first phase, then the worker behind it, then the way back.
    let (name, phase, outcome, mut changes) = step(&trace, 0);
    changes.sort();
    assert_eq!((name.as_str(), phase, outcome), ("a", Phase::OnRequest, Outcome::Next));
    assert_eq!(changes, words(&["changes x-do", "sets x-seen"]));
    let last = trace.steps.len() - 1;
    let named =
        |unit: &str, phase| (0..=last).find(|n| (step(&trace, *n).0.as_str(), step(&trace, *n).1) == (unit, phase));
    let handled = step(&trace, named("b", Phase::Handle).unwrap());
    assert_eq!(handled.2, Outcome::Next);
    for change in ["changes the path from /cart to /basket", "changes the query"] {
        assert!(handled.3.contains(&change.to_owned()), "{change}: {:?}", handled.3);
    }
    let back = step(&trace, named("a", Phase::OnResponse).unwrap());
    assert_eq!(back.3, words(&["sets x-back"]));
    assert!(!format!("{trace:?}").contains("secret"), "{trace:?}");
}

#[tokio::test]
async fn failures_and_answers_are_told_too() {
    let node = node(1, vec![Step::filter("a")]).await;
    assert_eq!(node.get("trap").await.status, 503);
    let trace = newest(&node.runtime, 1).await;
    assert_eq!(step(&trace, 0).2, Outcome::Trap);
    assert_eq!(trace.status.map(|status| status.as_u16()), Some(503));
    assert_eq!(node.get("answer:418").await.status, 418);
    let trace = newest(&node.runtime, 2).await;
    assert_eq!(step(&trace, 0).2, Outcome::Answered);
}

#[tokio::test]
async fn none_is_traced_unless_asked_for() {
    let node = node(0, vec![Step::filter("a")]).await;
    assert_eq!(node.get("pass").await.status, 200);
    assert!(node.runtime.traces().is_empty());
}
