//! Bodies stream through the chain, whole, both ways at once.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use sluice_chain::{Class, Origin, Runtime, RuntimeConfig};
use sluice_config::OnFailure;
use sluice_egress::{Egress, EgressConfig};
use sluice_worker::Outcome;
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::mpsc};

use crate::harness::*;

/// A body that is sent as the test goes.
fn live() -> (mpsc::Sender<Bytes>, TestBody) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = futures::stream::unfold(receiver, |mut receiver| async {
        let bytes: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

async fn chunk(body: &mut sluice_chain::Body) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn each_chunk_comes_back_before_the_next_is_sent() {
    for script in ["", "tag:1", "tag:1,tag:2,tag:3", "tag:1,echo"] {
        let steps = ["a", "b", "c"].map(Step::new);
        let used = script.split(',').filter(|s| !s.is_empty()).count();
        let node = Node::start(steps.into_iter().take(used).collect()).await;
        let (sender, body) = live();
        sender.send("one".into()).await.unwrap();
        let request = request("POST", "/", script, body);
        let response = node.snapshot.clone().handle(request, client()).await;
        assert_eq!(response.status(), 200, "{script}");
        let mut body = response.into_body();
        assert_eq!(chunk(&mut body).await, "one", "{script}");
        for text in ["two", "three"] {
            sender.send(text.into()).await.unwrap();
            assert_eq!(chunk(&mut body).await, text, "{script}");
        }
        drop(sender);
        assert!(body.frame().await.is_none(), "{script}");
    }
}

#[tokio::test]
async fn megabytes_arrive_as_they_were_sent() {
    let node = Node::start(["a", "b", "c"].map(Step::new).into()).await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let answer = node.post("tag:1,tag:2,tag:3", bytes.clone()).await;
    assert!(answer.body.unwrap() == bytes);
    for worker in ["a", "b", "c"] {
        assert_eq!(node.counted.calls(worker), [Outcome::Next]);
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_call_and_nobody_is_to_blame() {
    let node = Node::start(vec![Step::new("a")]).await;
    let (sender, body) = live();
    sender.send("one".into()).await.unwrap();
    let request = request("POST", "/", "echo", body);
    let response = node.snapshot.clone().handle(request, client()).await;
    let mut body = response.into_body();
    assert_eq!(chunk(&mut body).await, "one");
    drop(body);
    assert_eq!(node.counted.calls("a"), [Outcome::Answered]);
    assert!(!node.counted.requests("a")[0].2);
    assert!(sender.is_closed(), "the request's body went with it");
}

/// Sends a part of a response, and then breaks off or says no more.
async fn part_of_a_response(breaks_off: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot all of it").await.unwrap();
            if !breaks_off {
                open.push(stream);
            }
        }
    });
    url
}

#[tokio::test]
async fn a_body_that_ends_without_the_workers_word_is_broken_off() {
    for step in ["too-short", "drop-body", "leak-body", "exit-body"] {
        let node = Node::start(vec![Step::new("a")]).await;
        let answer = node.get(step).await;
        assert_eq!(answer.status, 200, "{step}");
        assert!(answer.body.is_err(), "{step}: {answer:?}");
        assert_eq!(node.counted.calls("a"), [Outcome::Aborted], "{step}");
        assert_eq!(node.counted.broke_off("a"), 1, "{step}");
    }
}

#[tokio::test]
async fn a_worker_that_hands_on_what_broke_off_is_not_to_blame() {
    let url = part_of_a_response(true).await;
    let node = Node::start_with(vec![Step::new("a"), Step::new("b")], RuntimeConfig::new("canary"), Some(url)).await;
    let answer = node.get("pass,pass").await;
    assert!(answer.body.is_err(), "{answer:?}");
    for worker in ["a", "b"] {
        assert_eq!(node.counted.calls(worker), [Outcome::Next]);
        assert_eq!(node.counted.broke_off(worker), 0);
    }
}

#[tokio::test]
async fn what_a_worker_fetched_is_its_own_affair() {
    let url = part_of_a_response(true).await;
    let step = format!("fetch-trap:{}", url.strip_prefix("http://").unwrap());
    for (on_failure, status) in [(OnFailure::Open, 200), (OnFailure::Closed, 503)] {
        let node = Node::start(vec![Step::new("a").fetches(&url).on_failure(on_failure)]).await;
        let answer = node.post(&step, "body").await;
        assert_eq!(answer.status, status, "{on_failure:?}: {answer:?}");
        assert_eq!(node.counted.calls("a"), [Outcome::Trap]);
        assert!(node.counted.requests("a")[0].2, "its fault");
    }
}

#[tokio::test]
async fn a_client_that_stalls_in_its_body_is_given_up() {
    let config = RuntimeConfig { body_idle: Duration::from_millis(50), ..RuntimeConfig::new("canary") };
    let node = Node::start_with(vec![Step::new("a")], config, None).await;
    let (sender, body) = live();
    sender.send("one".into()).await.unwrap();
    let answer = node.send(request("POST", "/", "read-trap:1000", body)).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(node.counted.requests("a"), [(Class::C499, Origin::Proxy, false)]);
    assert_eq!(node.counted.calls("a"), [Outcome::Answered], "no fault of it");
}

#[tokio::test]
async fn a_worker_that_stalls_in_its_response_is_given_up() {
    let config = RuntimeConfig { body_idle: Duration::from_millis(50), ..RuntimeConfig::new("canary") };
    let node = Node::start_with(vec![Step::new("a")], config, None).await;
    let answer = node.get("head-sleep").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.unwrap_err().contains("nothing came for 50ms"));
    assert_eq!(node.counted.calls("a"), [Outcome::Answered]);
}

#[tokio::test]
async fn an_upstream_that_stalls_in_its_body_is_given_up() {
    let egress = EgressConfig { allow_loopback: true, body_idle: Duration::from_millis(50), ..EgressConfig::default() };
    let counted = std::sync::Arc::new(Counted::default());
    let runtime = Runtime::new(RuntimeConfig::new("canary"), Egress::new(egress), counted.clone());
    let url = part_of_a_response(false).await;
    let (snapshot, _) = runtime.snapshot(plan(vec![Step::new("a")], &url, None));
    let answer = Answer::of(snapshot.handle(get("/", "pass"), client()).await).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.unwrap_err().contains("nothing came for 50ms"));
    assert_eq!(counted.calls("a"), [Outcome::Next]);
}
