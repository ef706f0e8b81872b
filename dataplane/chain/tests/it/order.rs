//! Who sees a request, in which order, and who does not.

use http_body_util::BodyExt;
use sluice_config::MatchRule;

use crate::harness::*;

#[tokio::test]
async fn the_chain_runs_in_stage_and_order_and_backwards_on_the_response() {
    let node = Node::start(vec![
        Step::new("late").at("route", -5),
        Step::new("second").at("transform", 20),
        Step::new("first").at("transform", 10),
        Step::new("early").at("edge", 99),
    ])
    .await;
    let answer = node.get("tag:1, tag:2, tag:3, tag:4").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-got"), "1,2,3,4");
    assert_eq!(answer.header("x-back"), "4,3,2,1");
    assert_eq!(answer.header("x-host"), HOST);
    assert_eq!(node.upstream.count(), 1);
}

#[tokio::test]
async fn ties_go_by_name() {
    let node = Node::start(vec![Step::new("b"), Step::new("a"), Step::new("c").at("edge", 0)]).await;
    node.get("tag:1,answer:204").await;
    assert_eq!(node.counted.calls("c").len(), 1);
    assert_eq!(node.counted.calls("a").len(), 1);
    assert_eq!(node.counted.calls("b").len(), 0);
}

#[tokio::test]
async fn an_early_answer_passes_only_workers_already_passed() {
    let node = Node::start(vec![Step::new("a"), Step::new("b"), Step::new("c")]).await;
    let answer = node.get("tag:1,answer:418,tag:3").await;
    assert_eq!(answer.status, 418);
    assert_eq!(answer.header("x-back"), "1");
    assert_eq!(answer.text(), "from the worker\n");
    assert_eq!(node.upstream.count(), 0);
    assert_eq!(node.counted.calls("c").len(), 0);
}

#[tokio::test]
async fn a_worker_that_does_not_match_is_not_called() {
    let node = Node::start(vec![Step::new("a").paths(&["/checkout/*"]), Step::new("b").paths(&["/cart"])]).await;
    let answer = node.send(get("/checkout/pay?x=1", "tag:1,tag:2")).await;
    assert_eq!(answer.header("x-got"), "1");
    assert_eq!(answer.header("x-path"), "/checkout/pay?x=1");
    let answer = node.send(get("/%63art", "tag:1,tag:2")).await;
    assert_eq!(answer.header("x-got"), "1");
    assert_eq!(node.counted.calls("a").len(), 1);
    assert_eq!(node.counted.calls("b").len(), 1);
}

#[tokio::test]
async fn a_rewrite_cannot_slip_past_a_worker_of_either_path() {
    let node = Node::start(vec![
        Step::new("a-rewrites"),
        Step::new("b-client").paths(&["/public/*"]),
        Step::new("c-rewritten").paths(&["/admin/*"]),
        Step::new("d-neither").paths(&["/other"]),
    ])
    .await;
    let answer = node.send(get("/public/x", "rewrite:/admin/y?z,tag:b,tag:c,tag:d")).await;
    assert_eq!(answer.header("x-got"), "b,c", "{answer:?}");
    assert_eq!(answer.header("x-path"), "/admin/y?z");
    assert_eq!(answer.header("x-upstream"), "main");

    let answer = node.send(get("/public/x", "rewrite:/admin/../y,tag:b")).await;
    assert_eq!(answer.status, 503, "an ambiguous path is the worker's failure");
}

#[tokio::test]
async fn a_host_is_rewritten_by_setting_it_and_the_upstream_stays() {
    let step = Step::new("b").rule(MatchRule { hosts: vec!["admin.example".into()], ..MatchRule::default() });
    let node = Node::start(vec![Step::new("a"), step]).await;
    let answer = node.get("rehost:admin.example,tag:b").await;
    assert_eq!(answer.header("x-host"), "admin.example");
    assert_eq!(answer.header("x-got"), "b");
    assert_eq!(answer.header("x-upstream"), "main");
    let answer = node.get("rehost:next.sluice,tag:b").await;
    assert_eq!(answer.header("x-host"), HOST);
}

#[tokio::test]
async fn what_is_ambiguous_reserved_or_unrouted_goes_nowhere() {
    let node = Node::start(vec![Step::new("a")]).await;
    for (host, path, status) in [
        ("next.sluice", "/", 400),
        ("NEXT.SLUICE:80", "/", 400),
        (HOST, "/a/../b", 400),
        (HOST, "/a%2fb", 400),
        ("elsewhere.example", "/", 404),
    ] {
        let mut request = get(path, "");
        request.headers_mut().insert("host", host.parse().unwrap());
        assert_eq!(node.send(request).await.status, status, "{host}{path}");
    }
    assert_eq!(node.upstream.count(), 0);
    assert_eq!(node.counted.calls("a").len(), 0);
    assert_eq!(node.counted.unrouted.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn no_worker_at_all_is_a_plain_proxy() {
    let node = Node::start(vec![]).await;
    let answer = node.post("", "hello").await;
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.header("x-host"), HOST);
}

#[tokio::test]
async fn head_and_bodyless_answers_pass_the_whole_chain() {
    let node = Node::start(vec![Step::new("a"), Step::new("b")]).await;
    let body = http_body_util::Empty::new().boxed_unsync();
    let answer = node.send(request("HEAD", "/", "tag:1,tag:2", body)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-back"), "2,1");
    for status in ["204", "304"] {
        let mut request = get("/", "tag:1,tag:2");
        request.headers_mut().insert("x-status", status.parse().unwrap());
        let answer = node.send(request).await;
        assert_eq!(answer.status.as_str(), status);
        assert_eq!(answer.header("x-back"), "2,1");
    }
}
