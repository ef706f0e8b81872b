//! Methods, headers and shares: whom a worker sees, whatever workers in front of it make of the request.

use http::{HeaderName, HeaderValue, Request};
use http_body_util::BodyExt;
use sluice_config::{HeaderMatch, MatchRule, PercentBy, PercentMatch};

use crate::harness::*;

fn with_methods(methods: &[&str]) -> MatchRule {
    MatchRule { methods: methods.iter().map(ToString::to_string).collect(), ..MatchRule::default() }
}

fn with_beta(paths: &[&str]) -> MatchRule {
    MatchRule {
        paths: paths.iter().map(ToString::to_string).collect(),
        headers: vec![HeaderMatch { name: "X-Beta".into(), value: "1".into() }],
        ..MatchRule::default()
    }
}

/// A request of this method, with `x-beta: 1` where it is one of the beta's.
fn of(method: &str, path: &str, is_beta: bool, script: &str) -> Request<TestBody> {
    let mut request = request(method, path, script, http_body_util::Empty::new().boxed_unsync());
    if is_beta {
        request.headers_mut().insert("x-beta", HeaderValue::from_static("1"));
    }
    request
}

#[tokio::test]
async fn a_worker_sees_requests_that_have_all_of_what_it_asks() {
    let rule = MatchRule { methods: vec!["POST".into()], ..with_beta(&["/cart/*"]) };
    let node = Node::start(vec![Step::filter("a").rule(rule), Step::filter("b")]).await;
    for (method, path, is_beta, expected) in [
        ("POST", "/cart/1", true, "1,2"),
        ("GET", "/cart/1", true, "1"),
        ("POST", "/", true, "1"),
        ("POST", "/cart/1", false, "1"),
    ] {
        let answer = node.send(of(method, path, is_beta, "tag:1,tag:2")).await;
        assert_eq!(answer.header("x-got"), expected, "{method} {path} {is_beta}");
    }
    assert_eq!(node.counted.calls("a").len(), 2, "for a request and its response; who does not match is not called");
    assert_eq!(node.counted.requests("a").len(), 1, "and not counted");
}

#[tokio::test]
async fn a_header_is_matched_as_the_client_sent_it() {
    let beta = |name| Step::filter(name).rule(with_beta(&[]));
    let node = Node::start(vec![Step::filter("a"), beta("b"), Step::new("c"), beta("d")]).await;
    let answer = node.send(of("GET", "/", true, "drop:x-beta,tag:b,tag:c,tag:d")).await;
    assert_eq!(answer.header("x-got"), "b,c,d", "to take the header away leads past nobody");
    let answer = node.send(of("GET", "/", false, "set:x-beta,tag:c,tag:after")).await;
    assert_eq!(answer.header("x-got"), "c", "and to add it brings nobody in");
}

#[tokio::test]
async fn headers_of_the_connection_are_no_part_of_the_request() {
    let node = Node::start(vec![Step::filter("a").rule(with_beta(&[])), Step::filter("b")]).await;
    let mut request = of("GET", "/", true, "tag:1,tag:2");
    request.headers_mut().insert("connection", HeaderValue::from_static("x-beta"));
    assert_eq!(node.send(request).await.header("x-got"), "1");
}

#[tokio::test]
async fn after_a_rewrite_headers_are_still_those_of_the_client() {
    let node = Node::start(vec![
        Step::filter("a-edits"),
        Step::filter("b-rewrites"),
        Step::filter("c-guards").rule(with_beta(&["/admin/*"])),
        Step::new("d-guards").rule(with_beta(&["/admin/*"])),
    ])
    .await;
    let answer = node.send(of("GET", "/public", true, "drop:x-beta,rewrite:/admin/x,tag:c,tag:d")).await;
    assert_eq!(answer.header("x-got"), "c,d");
    let answer = node.send(of("GET", "/public", false, "set:x-beta,rewrite:/admin/x,tag:c,tag:d")).await;
    assert_eq!((answer.header("x-got"), answer.header("x-path")), (String::new(), "/admin/x".to_owned()));

    let node = Node::start(vec![
        Step::filter("a-edits"),
        Step::new("b-rewrites"),
        Step::filter("c-guards").rule(with_beta(&["/admin/*"])),
    ])
    .await;
    let answer = node.send(of("GET", "/public", true, "drop:x-beta,rewrite:/admin/x,tag:c")).await;
    assert_eq!(answer.header("x-got"), "c", "whichever contract rewrites");
    let answer = node.send(of("GET", "/public", false, "set:x-beta,rewrite:/admin/x,tag:c")).await;
    assert_eq!(answer.header("x-got"), "");
}

#[tokio::test]
async fn another_method_cannot_slip_past_a_worker_of_either() {
    for edits in [Step::new("a-edits"), Step::filter("a-edits")] {
        let node = Node::start(vec![
            edits,
            Step::filter("b-client").rule(with_methods(&["POST"])),
            Step::filter("c-changed").rule(with_methods(&["DELETE"])),
            Step::new("d-changed").rule(with_methods(&["PUT", "DELETE"])),
            Step::filter("e-neither").rule(with_methods(&["GET"])),
        ])
        .await;
        let answer = node.send(of("POST", "/", false, "method:DELETE,tag:b,tag:c,tag:d,tag:e")).await;
        assert_eq!(answer.header("x-got"), "b,c,d", "{answer:?}");
        assert_eq!(answer.header("x-method"), "DELETE");
        let answer = node.send(of("POST", "/", false, "pass,tag:b,tag:no")).await;
        assert_eq!((answer.header("x-got"), answer.header("x-method")), ("b".to_owned(), "POST".to_owned()));
    }
}

#[tokio::test]
async fn a_method_and_a_path_that_change_one_after_the_other_are_one_request() {
    let delete = MatchRule { paths: vec!["/admin/*".into()], ..with_methods(&["DELETE"]) };
    for script in ["method:DELETE,rewrite:/admin/x,tag:c", "rewrite:/admin/x,method:DELETE,tag:c"] {
        let node =
            Node::start(vec![Step::filter("a"), Step::filter("b"), Step::filter("c").rule(delete.clone())]).await;
        let answer = node.send(of("POST", "/public", false, script)).await;
        assert_eq!(answer.header("x-got"), "c", "{script}");
    }
}

#[tokio::test]
async fn after_another_method_headers_are_still_those_of_the_client() {
    let rule = MatchRule { methods: vec!["DELETE".into()], ..with_beta(&[]) };
    let node = Node::start(vec![Step::filter("a"), Step::filter("b"), Step::filter("c").rule(rule)]).await;
    let answer = node.send(of("POST", "/", true, "drop:x-beta,method:DELETE,tag:c")).await;
    assert_eq!(answer.header("x-got"), "c");
    let answer = node.send(of("POST", "/", false, "set:x-beta,method:DELETE,tag:c")).await;
    assert_eq!(answer.header("x-got"), "");
}

#[tokio::test]
async fn a_share_is_of_sessions_and_each_unit_has_its_own() {
    let half = || MatchRule {
        percent: Some(PercentMatch { ppm: 500_000, by: PercentBy::Cookie, name: Some("session".into()) }),
        ..MatchRule::default()
    };
    let start = || Node::start(vec![Step::filter("a").rule(half()), Step::filter("b").rule(half())]);
    let (node, again) = (start().await, start().await);
    let mut seen = std::collections::BTreeMap::new();
    for session in 0..40 {
        let ask = || {
            let mut request = get("/", "note:in");
            let cookie = format!("theme=dark; session={session}");
            request.headers_mut().insert(HeaderName::from_static("cookie"), cookie.parse().unwrap());
            request
        };
        let mut called = Vec::new();
        for node in [&node, &again, &node] {
            let calls = || ["a", "b"].map(|worker| node.counted.calls(worker).len());
            let before = calls();
            node.send(ask()).await;
            let after = calls();
            called.push([after[0] > before[0], after[1] > before[1]]);
        }
        assert!(called.iter().all(|workers| *workers == called[0]), "session {session}: {called:?}");
        *seen.entry(called[0]).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 4, "neither, one, the other and both: {seen:?}");
    let calls = node.counted.calls("a").len();
    node.get("tag:1").await;
    assert_eq!(node.counted.calls("a").len(), calls, "a request without the cookie does not match");
}

#[tokio::test]
async fn a_share_of_addresses_is_one_after_a_rewrite_too() {
    let of_all = |ppm| MatchRule {
        paths: vec!["/admin/*".into()],
        percent: Some(PercentMatch { ppm, by: PercentBy::ClientAddress, name: None }),
        ..MatchRule::default()
    };
    for (ppm, expected) in [(1_000_000, "b"), (0, "")] {
        let node = Node::start(vec![Step::filter("a"), Step::filter("b").rule(of_all(ppm))]).await;
        let answer = node.send(of("GET", "/public", false, "rewrite:/admin/x,tag:b")).await;
        assert_eq!(answer.header("x-got"), expected);
    }
}
