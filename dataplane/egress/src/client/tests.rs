//! Against real sockets on loopback.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{Fault, empty};

fn egress(allow_loopback: bool) -> Egress {
    Egress::new(EgressConfig { allow_loopback, ..EgressConfig::default() })
}

fn upstream(url: String, response_timeout_ms: u64) -> Upstream {
    Upstream { url, connect_timeout_ms: 500, response_timeout_ms }
}

fn ready(egress: &Egress, url: &str, response_timeout_ms: u64) -> (Policy, Target) {
    let target = egress.target(&upstream(url.into(), response_timeout_ms)).unwrap();
    (Policy::new([target.origin().clone()]), target)
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(empty()).unwrap()
}

/// An upstream that does this with each connection, and what its connections counted.
async fn listen<F>(each: impl Fn(TcpStream, Arc<AtomicUsize>) -> F + Send + 'static) -> (String, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let counted = Arc::new(AtomicUsize::new(0));
    let count = counted.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream, count.clone()));
        }
    });
    (url, counted)
}

/// Answers each request's head with `answer`, and counts connections.
async fn serve(answer: &'static str) -> (String, Arc<AtomicUsize>) {
    let each = move |mut stream: TcpStream, accepted: Arc<AtomicUsize>| async move {
        accepted.fetch_add(1, SeqCst);
        let mut seen = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(n) = stream.read(&mut chunk).await {
            if n == 0 {
                return;
            }
            seen.extend_from_slice(&chunk[..n]);
            if seen.windows(4).any(|w| w == b"\r\n\r\n") {
                seen.clear();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    };
    listen(each).await
}

#[tokio::test]
async fn connections_are_reused_also_by_a_later_target() {
    let (url, accepted) = serve("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: 5\r\n\r\nok").await;
    let egress = egress(true);
    let (policy, first) = ready(&egress, &url, 1000);
    let (_, second) = ready(&egress, &url, 1000);
    for target in [&first, &second, &first] {
        let response = egress.send(&policy, target, get("/x?y")).await.unwrap();
        assert!(!response.headers().contains_key("keep-alive"));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    }
    assert_eq!(accepted.load(SeqCst), 1);
}

/// Answers so many requests of each connection, closes it at the next, and counts requests.
async fn closes_after(answers: usize) -> (String, Arc<AtomicUsize>) {
    let each = move |mut stream: TcpStream, asked: Arc<AtomicUsize>| async move {
        let mut chunk = [0; 4096];
        for request in 0..=answers {
            if !stream.read(&mut chunk).await.is_ok_and(|n| n > 0) {
                return;
            }
            asked.fetch_add(1, SeqCst);
            if request < answers {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    };
    listen(each).await
}

#[tokio::test]
async fn what_changes_nothing_is_asked_once_more_when_the_connection_is_closed() {
    let (url, asked) = closes_after(1).await;
    let egress = egress(true);
    let (policy, target) = ready(&egress, &url, 1000);
    for sent in [1, 3] {
        let response = egress.send(&policy, &target, get("/")).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        assert_eq!(asked.load(SeqCst), sent);
    }
    let post = Request::post("/").body(empty()).unwrap();
    let error = egress.send(&policy, &target, post).await.unwrap_err();
    assert!(matches!(error, EgressError::Broken { .. }), "{error}");
    assert_eq!(asked.load(SeqCst), 4, "a POST is sent once");
}

#[tokio::test]
async fn an_upstream_that_always_closes_is_asked_twice() {
    let (url, asked) = closes_after(0).await;
    let egress = egress(true);
    let (policy, target) = ready(&egress, &url, 1000);
    let error = egress.send(&policy, &target, get("/")).await.unwrap_err();
    assert!(matches!(error, EgressError::Broken { .. }), "{error}");
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn what_is_not_granted_is_not_dialled() {
    let (url, accepted) = serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let egress = egress(true);
    let (_, target) = ready(&egress, &url, 1000);
    let error = egress.send(&Policy::default(), &target, get("/")).await.unwrap_err();
    assert!(matches!(error, EgressError::NotGranted { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Named);
    assert_eq!(accepted.load(SeqCst), 0);
}

#[tokio::test]
async fn a_granted_name_that_means_loopback_is_denied_after_resolution() {
    let (url, accepted) = serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let egress = egress(false);
    for url in [url.clone(), url.replace("127.0.0.1", "localhost")] {
        let (policy, target) = ready(&egress, &url, 1000);
        let error = egress.send(&policy, &target, get("/")).await.unwrap_err();
        assert!(matches!(error, EgressError::AddressDenied { .. }), "{error}");
        assert!(error.nothing_sent());
    }
    assert_eq!(accepted.load(SeqCst), 0);
}

#[tokio::test]
async fn nobody_listening_is_the_upstreams_fault() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let egress = egress(true);
    let (policy, target) = ready(&egress, &url, 1000);
    let error = egress.send(&policy, &target, get("/")).await.unwrap_err();
    assert!(matches!(error, EgressError::Connect { .. }), "{error}");
    assert!(error.nothing_sent());
    assert_eq!(error.fault(), Fault::Upstream);
}

#[tokio::test]
async fn a_silent_upstream_times_out() {
    let (url, _) = serve("").await;
    let egress = egress(true);
    let (policy, target) = ready(&egress, &url, 50);
    let error = egress.send(&policy, &target, get("/")).await.unwrap_err();
    assert!(matches!(error, EgressError::ResponseTimeout { .. }), "{error}");
    assert!(!error.nothing_sent());
}

/// A body of unknown length that takes so long to its end.
fn slow(takes: Duration) -> Body {
    let data = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
    let end = futures::stream::once(async move {
        tokio::time::sleep(takes).await;
        data("end")
    });
    http_body_util::StreamBody::new(futures::StreamExt::chain(futures::stream::iter([data("begin")]), end))
        .boxed_unsync()
}

#[tokio::test]
async fn the_time_for_a_response_begins_when_all_of_the_request_is_sent() {
    let each = |mut stream: TcpStream, asked: Arc<AtomicUsize>| async move {
        let mut seen = Vec::new();
        while stream.read_buf(&mut seen).await.is_ok_and(|n| n > 0) {
            // The first one is answered at its end, the other never.
            if seen.ends_with(b"0\r\n\r\n") && asked.fetch_add(1, SeqCst) == 0 {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await.unwrap();
            }
        }
    };
    let (url, asked) = listen(each).await;
    let egress = egress(true);
    let (limit, takes) = (Duration::from_millis(500), Duration::from_millis(700));
    let (policy, target) = ready(&egress, &url, 500);
    let post = || Request::post("/").body(slow(takes)).unwrap();
    let response = egress.send(&policy, &target, post()).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");

    let began = std::time::Instant::now();
    let error = egress.send(&policy, &target, post()).await.unwrap_err();
    assert!(matches!(error, EgressError::ResponseTimeout { .. }), "{error}");
    assert!(began.elapsed() >= takes + limit, "{:?}", began.elapsed());
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn an_upstream_that_speaks_no_http_is_told_apart_from_a_sender_that_left() {
    let (url, _) = serve("no http\r\n\r\n").await;
    let egress = egress(true);
    let (policy, target) = ready(&egress, &url, 1000);
    let error = egress.send(&policy, &target, get("/")).await.unwrap_err();
    assert!(matches!(error, EgressError::Broken { .. }), "{error}");

    let (url, _) = serve("").await;
    let (policy, target) = ready(&egress, &url, 1000);
    let request = Request::post("/").body(Breaks { sent: false }.boxed_unsync()).unwrap();
    let error = egress.send(&policy, &target, request).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Sender, "{error}");
}

/// One chunk, then the client is gone; of no length known before, so that the rest is asked for.
struct Breaks {
    sent: bool,
}

impl http_body::Body for Breaks {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let first = !std::mem::replace(&mut self.sent, true);
        Poll::Ready(Some(if first {
            Ok(Frame::data(Bytes::from_static(b"x")))
        } else {
            Err(BodyError::Client("left".into()))
        }))
    }
}
