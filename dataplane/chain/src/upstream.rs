//! The end of the chain: the route's upstream, or its fallback.

use std::sync::Arc;

use futures::FutureExt as _;
use http::{Method, Request, Response, StatusCode};
use sluice_egress::{Body, BodyError, EgressError, Fault, Target, empty};
use sluice_worker::Chosen;

use crate::{
    accept::{plain, too_large},
    invoke::Head,
    passage::{Maker, Passage, Reply},
    replay::Kept,
};

/// Sends to the route's upstream, or to the one that a worker chose; to the fallback where that cannot be reached.
pub(crate) async fn primary(passage: Arc<Passage>, request: Request<Body>) -> Reply {
    let route = passage.route();
    let chosen = request.extensions().get::<Chosen>().copied();
    let target = route.target(chosen);
    let is_fallback = chosen.is_some_and(|Chosen(other)| Some(other) == route.fallback);
    let Some(fallback) = route.fallback().filter(|_| !is_fallback) else {
        return send(&passage, target, request).await.into_reply(&passage);
    };
    let (head, body) = Head::split(request);
    let (body, kept) = Kept::of(body);
    match send(&passage, target, head.request(body)).await {
        Sent::Failed { error } if error.nothing_sent() => {
            let Some(body) = kept.recover() else {
                return failed(&passage, &error);
            };
            if passage.may_log() {
                tracing::info!(%error, fallback = %fallback.origin(), "the fallback upstream serves");
            }
            send(&passage, fallback, head.request(body)).await.into_reply(&passage)
        }
        sent @ (Sent::Response(_) | Sent::Failed { .. }) => {
            kept.release();
            sent.into_reply(&passage)
        }
    }
}

/// Sends to the route's fallback, as a worker's `onFailure: fallback` asks; nothing where it has none.
pub(crate) async fn fallback(passage: &Arc<Passage>, request: Request<Body>) -> Option<Reply> {
    let target = passage.route().fallback()?;
    Some(send(passage, target, request).await.into_reply(passage))
}

enum Sent {
    Response(Response<Body>),
    Failed { error: EgressError },
}

impl Sent {
    fn into_reply(self, passage: &Passage) -> Reply {
        match self {
            Self::Response(response) => Reply { response, maker: Maker::Upstream },
            Self::Failed { error } => failed(passage, &error),
        }
    }
}

fn send(passage: &Passage, target: &Target, request: Request<Body>) -> impl Future<Output = Sent> + Send {
    let bodyless = request.method() == Method::HEAD;
    passage.sending();
    let shared = &passage.snapshot.shared;
    let sending = shared.egress.send(&passage.snapshot.policy, target, request);
    sending.map(move |done| sent(passage, target, done, bodyless))
}

fn sent(passage: &Passage, target: &Target, done: Result<Response<Body>, EgressError>, bodyless: bool) -> Sent {
    match done {
        Ok(response) if too_large(response.headers()) => Sent::Failed {
            error: EgressError::Broken {
                origin: target.origin().clone(),
                why: "its headers are larger than 64 KiB".to_owned(),
            },
        },
        Ok(response) if bodyless || has_no_body(response.status()) => Sent::Response(response.map(|_| empty())),
        Ok(response) => Sent::Response(response),
        Err(error) => {
            if error.nothing_sent() {
                passage.unsent();
            }
            Sent::Failed { error }
        }
    }
}

fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What the client is told when no upstream answers. The log says more than the response.
fn failed(passage: &Passage, error: &EgressError) -> Reply {
    let (status, maker) = match (error.fault(), error) {
        (Fault::Named, _) => (StatusCode::BAD_GATEWAY, Maker::Route),
        (Fault::Upstream, EgressError::ConnectTimeout { .. } | EgressError::ResponseTimeout { .. }) => {
            (StatusCode::GATEWAY_TIMEOUT, Maker::Upstream)
        }
        (Fault::Upstream, _) => (StatusCode::BAD_GATEWAY, Maker::Upstream),
        (Fault::Sender, EgressError::Request(BodyError::Client(_))) => (StatusCode::BAD_REQUEST, Maker::Client),
        (Fault::Sender, _) => (StatusCode::BAD_GATEWAY, Maker::Sender),
    };
    match maker {
        Maker::Upstream | Maker::Route => {
            if passage.may_log() {
                tracing::warn!(%error, "no response from the upstream");
            }
        }
        Maker::Worker(_) | Maker::Proxy | Maker::Client | Maker::Sender => {
            tracing::debug!(%error, "the request broke off");
        }
    }
    let text = if status == StatusCode::GATEWAY_TIMEOUT {
        "the upstream did not answer in time"
    } else {
        "no response from the upstream"
    };
    Reply { response: plain(status, text), maker }
}
