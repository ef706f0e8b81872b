//! Bodies stream through the chain, whole, both ways at once.

use std::convert::Infallible;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use sluice_worker::Outcome;
use tokio::sync::mpsc;

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
