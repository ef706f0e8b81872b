//! Shares of CPU time. A node without threads has none to spare: who used any in one window is shed in the next, but for one
//! call of a hundred.

use std::time::{Duration, Instant};

use sluice_chain::{Code, RuntimeConfig};
use sluice_worker::{Outcome, Phase};

use crate::harness::*;

async fn busy(step: Step) -> Node {
    let config = RuntimeConfig { threads: 0, unit_cpu_percent: 25, ..RuntimeConfig::new("canary") };
    Node::start_with(vec![step], config, None).await
}

/// Asks until so many calls of the worker `a` were shed.
async fn until_shed(node: &Node, phase: Phase, shed: usize) {
    let began = Instant::now();
    let mut seen = 0;
    while seen < shed {
        let status = node.get("pass").await.status;
        seen += usize::from(status == 503);
        assert!(began.elapsed() < Duration::from_secs(60), "{seen} were shed, in the phase {phase:?}");
    }
    assert_eq!(count(node, phase, Outcome::Shed), shed);
}

fn count(node: &Node, phase: Phase, outcome: Outcome) -> usize {
    node.counted.phases("a").into_iter().filter(|call| *call == (phase, outcome)).count()
}

#[tokio::test]
async fn on_a_busy_node_a_worker_above_its_share_is_shed() {
    let node = busy(Step::new("a")).await;
    assert_eq!(node.get("pass").await.status, 200, "it has used nothing yet");
    until_shed(&node, Phase::Handle, 1).await;
}

#[tokio::test]
async fn a_request_that_a_filter_let_pass_is_not_shed_when_its_response_comes() {
    let node = busy(Step::filter("a")).await;
    // So many that some run in between.
    until_shed(&node, Phase::OnRequest, 500).await;
    assert_eq!(count(&node, Phase::OnResponse, Outcome::Shed), 0);
    let passed = count(&node, Phase::OnRequest, Outcome::Next);
    assert_eq!((count(&node, Phase::OnResponse, Outcome::Next), node.upstream.count()), (passed, passed));
}

#[tokio::test]
async fn a_filter_of_responses_is_shed_before_the_upstream_is_asked() {
    let node = busy(Step::new("a").code(Code::Ready(guest("filter-security-headers")))).await;
    until_shed(&node, Phase::OnResponse, 500).await;
    assert_eq!(node.upstream.count(), count(&node, Phase::OnResponse, Outcome::Next));
}
