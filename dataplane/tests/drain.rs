//! SIGTERM: the process ends, and no client notices.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod common;

use std::time::{Duration, Instant};

use common::{
    client::{Kept, get, raw},
    content::{HOST, assignment, entry, routes},
    node::{Home, Node},
    until,
    upstream::Upstream,
};
use sluice_config::UnitKind::Routes;

async fn serving(drain_seconds: &str) -> (Home, Node) {
    let upstream = Upstream::start().await;
    let home = Home::new().with_flags(&["--drain-seconds", drain_seconds]);
    let shop = routes(&home.revisions(), "shop", upstream.address);
    home.assign(&assignment(1, vec![entry(Routes, "shop", &shop, None, 1)]));
    let node = home.start();
    node.applied(1).await;
    (home, node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_on_through_a_drain_and_connections_end_by_themselves() {
    let (_home, mut node) = serving("4").await;
    let mut busy = Kept::new(node.clients);
    assert!(busy.get(HOST, "/").await.unwrap().header("connection").is_none());
    let slow = tokio::spawn({
        let to = node.clients;
        async move { get(to, HOST, "/slow/2000").await }
    });
    until("the slow request is under way", async || node.logged("starting").then_some(())).await;
    node.terminate();
    until("it drains", async || node.logged("draining").then_some(())).await;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1_500) {
        let answer = busy.get(HOST, "/").await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert_eq!(get(node.admin, "admin", "/readyz").await.unwrap().status, 200, "a draining pod stays ready");
    }
    assert!(busy.connections > 2);
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    assert!(node.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_does_not_outlive_the_deadline() {
    let (_home, mut node) = serving("2").await;
    let mut idle = Kept::new(node.clients);
    assert_eq!(idle.get(HOST, "/").await.unwrap().status, 200);
    let begin = Instant::now();
    node.terminate();
    assert!(node.ended().await.success());
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_readers_could_understand_differently_is_refused() {
    let (_home, node) = serving("1").await;
    let ok = raw(node.clients, b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await;
    assert!(ok.starts_with("HTTP/1.1 200"), "{ok}");
    let cases: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: shop.example\r\nHost: shop.example\r\n\r\n",
        b"GET http://other.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: shop.example\r\nX : y\r\n\r\n",
    ];
    for case in cases {
        let answer = raw(node.clients, case).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{:?}: {answer}", String::from_utf8_lossy(case));
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    }
    let huge = format!("GET / HTTP/1.1\r\nHost: shop.example\r\nX: {}\r\n\r\n", "a".repeat(100_000));
    assert!(raw(node.clients, huge.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let many = "X: y\r\n".repeat(101);
    let many = format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{many}\r\n");
    assert!(raw(node.clients, many.as_bytes()).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_beside_chunked_never_reaches_the_upstream() {
    let upstream = Upstream::start().await;
    let home = Home::new();
    let shop = routes(&home.revisions(), "shop", upstream.address);
    home.assign(&assignment(1, vec![entry(Routes, "shop", &shop, None, 1)]));
    let node = home.start();
    node.applied(1).await;
    for heads in
        ["Content-Length: 30\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 30"]
    {
        let smuggled = format!(
            "POST / HTTP/1.1\r\nHost: shop.example\r\n{heads}\r\n\r\n1\r\na\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: shop.example\r\n\r\n"
        );
        let answer = raw(node.clients, smuggled.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "one answer, then the connection closes: {answer}");
    }
    let got = upstream.got();
    assert!(got.iter().all(|g| g.path == "/"), "{got:?}");
    assert!(
        got.iter().all(|g| &g.body[..] == b"a"
            && !(g.headers.contains_key("content-length") && g.headers.contains_key("transfer-encoding"))),
        "{got:?}"
    );
}
