//! The way of a request along the chain, and back: filters that stand in a row are called one after the other, without a
//! future each.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use sluice_egress::Body;
use sluice_worker::Compiled;

use crate::{
    build::Code,
    filter::{self, Step},
    invoke,
    passage::{Passage, Reply},
    set::WorkerSet,
    upstream,
};

/// Takes a request to the first worker of the set at this place or after it, and on, then to the upstream; and the response
/// back through those filters that see responses.
pub(crate) async fn walk(
    passage: Arc<Passage>,
    mut workers: WorkerSet,
    from: usize,
    mut request: Request<Body>,
) -> Reply {
    let mut passed: Vec<(usize, Bytes)> = Vec::new();
    let mut at = from;
    let mut reply = loop {
        let Some(worker) = workers.first_from(at) else {
            break upstream::primary(passage.clone(), request).await;
        };
        passage.enter(worker);
        let Code::Ready(Compiled::Filter(called)) = &passage.station(worker).code else {
            // It calls the rest of the chain itself.
            break Box::pin(invoke::invoke(passage.clone(), workers, worker, request)).await;
        };
        at = worker + 1;
        match filter::on_request(&passage, &mut workers, worker, called, request).await {
            Step::Passed { request: onward, state } => {
                request = onward;
                if called.sees_responses() {
                    passed.push((worker, state));
                }
            }
            Step::Without(onward) => request = onward,
            Step::Reply(reply) => break reply,
        }
    };
    while let Some((worker, state)) = passed.pop() {
        if let Code::Ready(Compiled::Filter(called)) = &passage.station(worker).code {
            reply = filter::on_response(&passage, worker, called, state, reply).await;
        }
    }
    reply
}
