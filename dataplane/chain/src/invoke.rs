//! One worker's turn: it is called, and when it fails its `onFailure` decides.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::HOST,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use sluice_config::OnFailure;
use sluice_egress::{Body, BodyError, EgressError, Origin, Timeouts};
use sluice_worker::{Calls, Compiled, Ended, Failure, NEXT_AUTHORITY, NextFuture, Outcome, Phase, address};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    CallRecord,
    accept::plain,
    build::Code,
    inner::{Inner, Recovered, Seen, Upload},
    passage::{Maker, Passage, Reply},
    place::Place,
    replay::Kept,
    set::WorkerSet,
    upstream,
};

/// What a worker's own requests to granted origins may take.
const FETCH_TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(5), response: Duration::from_secs(30) };

/// A request's head, to be sent again.
pub(crate) struct Head(Parts);

impl Head {
    pub(crate) fn split(request: Request<Body>) -> (Self, Body) {
        let (parts, body) = request.into_parts();
        (Self(parts), body)
    }

    pub(crate) fn request(&self, body: Body) -> Request<Body> {
        Request::from_parts(self.0.clone(), body)
    }
}

/// Calls a worker of `wasi:http/proxy` with a request, and returns what the chain before it gets.
pub(crate) async fn invoke(passage: Arc<Passage>, workers: WorkerSet, worker: usize, request: Request<Body>) -> Reply {
    let station = passage.station(worker);
    let proxy = match &station.code {
        Code::Ready(Compiled::Proxy(proxy)) => proxy.clone(),
        // Those are called where they stand in a row, and not from here.
        Code::Ready(Compiled::Filter(_)) => return passage.advance(workers, worker, request).await,
        Code::NotLoaded { why } => {
            tracing::debug!(unit = %station.identity.unit, why, "not loaded");
            station.counts.call(CallRecord { phase: Phase::Handle, outcome: Outcome::NotLoaded, own: Duration::ZERO });
            passage.mark_fault(worker);
            return without(&passage, workers, worker, Some(request), Maker::Worker(worker)).await;
        }
    };
    let Ok(share) = station.share.clone().try_acquire_owned() else {
        tracing::debug!(unit = %station.identity.unit, "shed: it has all the calls at once that one unit may have");
        station.counts.call(CallRecord { phase: Phase::Handle, outcome: Outcome::Shed, own: Duration::ZERO });
        return without(&passage, workers, worker, Some(request), Maker::Proxy).await;
    };
    let keeps = station.on_failure != OnFailure::Closed;
    let (request, again) = if keeps {
        let (head, body) = Head::split(request);
        let (body, kept) = Kept::of(body);
        (head.request(body), Some((head, kept)))
    } else {
        (request, None)
    };
    let turn = Arc::new(Turn {
        passage: passage.clone(),
        workers: Mutex::new(workers),
        worker,
        inner: Inner::new(station.on_failure == OnFailure::Open),
        _share: share,
    });
    let called = proxy.call(&station.identity, &station.limits, turn.clone(), request).await;
    match called {
        Ok(response) => {
            turn.inner.release();
            if let Some((_, kept)) = &again {
                kept.release();
            }
            turn.made(response)
        }
        Err(failure) => turn.recover(failure, again).await,
    }
}

/// The policy of a worker that is not there, or not any more, with the request where nothing of it is lost.
/// `maker` is who answers for it where the policy is 503.
async fn without(
    passage: &Arc<Passage>,
    workers: WorkerSet,
    worker: usize,
    request: Option<Request<Body>>,
    maker: Maker,
) -> Reply {
    let Some(request) = request else {
        return closed(maker);
    };
    match passage.station(worker).on_failure {
        OnFailure::Closed => closed(maker),
        OnFailure::Open => passage.advance(workers, worker + 1, request).await,
        OnFailure::Fallback => fallback(passage, request, maker).await,
    }
}

/// `onFailure: closed`.
pub(crate) fn closed(maker: Maker) -> Reply {
    let why = if maker == Maker::Proxy { "no room for a worker" } else { "a worker failed" };
    Reply { response: plain(StatusCode::SERVICE_UNAVAILABLE, why), maker }
}

/// `onFailure: fallback`, as long as nothing went upstream.
pub(crate) async fn fallback(passage: &Arc<Passage>, request: Request<Body>, maker: Maker) -> Reply {
    if passage.went_upstream() {
        return closed(maker);
    }
    upstream::fallback(passage, request).await.unwrap_or_else(|| closed(maker))
}

/// What becomes of a message whose body broke off in a worker's hands: whoever broke it is to blame. `sender` is who
/// made the response that broke off.
pub(crate) fn broke_off(error: &BodyError, sender: Maker) -> Reply {
    let (status, why, maker) = match error {
        BodyError::Client(_) => (StatusCode::BAD_REQUEST, "the request broke off", Maker::Client),
        BodyError::Upstream(_) | BodyError::Worker(_) => (StatusCode::BAD_GATEWAY, "the response broke off", sender),
    };
    Reply { response: plain(status, why), maker }
}

/// Who made the response that a worker let go, with what came to it from behind.
pub(crate) fn maker(seen: Option<Seen>, status: StatusCode, worker: usize) -> Maker {
    match seen {
        // It was failing already, or nothing changed.
        Some(seen) if seen.status == status => seen.maker,
        Some(seen) if seen.status.is_server_error() && status.is_server_error() => seen.maker,
        Some(_) | None => Maker::Worker(worker),
    }
}

/// A worker's turn in a request: what it asks of the chain comes here.
struct Turn {
    passage: Arc<Passage>,
    /// What remains of the chain; grows when the worker rewrites.
    workers: Mutex<WorkerSet>,
    worker: usize,
    inner: Arc<Inner>,
    /// Held until the call is over, its response's body included.
    _share: OwnedSemaphorePermit,
}

impl Turn {
    /// Says who made the response that the worker answered with.
    fn made(&self, response: Response<Body>) -> Reply {
        let status = response.status();
        let maker = maker(self.inner.seen(), status, self.worker);
        if status.is_server_error() && maker == Maker::Worker(self.worker) {
            self.passage.mark_own_5xx(self.worker);
        }
        Reply { response, maker }
    }

    /// The worker failed before its response's head.
    async fn recover(&self, failure: Failure, again: Option<(Head, Kept)>) -> Reply {
        let passage = &self.passage;
        if let Some(error) = &failure.provoked {
            return broke_off(error, self.inner.seen().map_or(Maker::Proxy, |seen| seen.maker));
        }
        let workers = lock(&self.workers).clone();
        // To find no room is nobody's fault, and no evidence against a revision.
        let maker = if failure.outcome == Outcome::Shed { Maker::Proxy } else { Maker::Worker(self.worker) };
        let on_failure = passage.station(self.worker).on_failure;
        if self.inner.was_called() && on_failure == OnFailure::Open {
            match self.inner.recover(|| passage.went_upstream()).await {
                Recovered::Reply(reply) => return reply,
                Recovered::Lost => return without(passage, workers, self.worker, None, maker).await,
                Recovered::Unsent => {}
            }
        }
        let request = again.and_then(|(head, kept)| Some(head.request(kept.recover()?)));
        without(passage, workers, self.worker, request, maker).await
    }
}

impl Calls for Turn {
    fn next(&self, request: Request<Body>) -> NextFuture {
        if !self.passage.take_next() {
            return Box::pin(async { Err(EgressError::Budget) });
        }
        let (request, more) = match self.onward(request) {
            Ok(onward) => onward,
            Err(error) => return Box::pin(async { Err(error) }),
        };
        let workers = {
            let mut workers = lock(&self.workers);
            if let Some(more) = more {
                workers.add(&more);
            }
            workers.clone()
        };
        let (request, upload) = Upload::follow(request);
        let reply = self.passage.advance(workers, self.worker + 1, request);
        let response = self.inner.clone().begin(reply, upload, self.worker);
        Box::pin(async move { Ok(response.await) })
    }

    fn fetch(&self, mut request: Request<Body>) -> NextFuture {
        let passage = self.passage.clone();
        let worker = self.worker;
        Box::pin(async move {
            let unnamed = |why: String| EgressError::Unnamed { why };
            let origin = Origin::of(request.uri()).map_err(|e| unnamed(e.to_string()))?;
            let station = passage.station(worker);
            // Before anything is made ready for it.
            station.policy.check(&origin)?;
            let host = HeaderValue::from_str(&origin.authority());
            let host = host.map_err(|e| unnamed(e.to_string()))?;
            request.headers_mut().insert(HOST, host);
            let egress = &passage.snapshot.shared.egress;
            let target = egress.target_of(origin, FETCH_TIMEOUTS);
            let target = target.map_err(|e| unnamed(e.to_string()))?;
            egress.send(&station.policy, &target, request).await
        })
    }

    fn ended(&self, ended: Ended) {
        if ended.outcome.is_fault() {
            self.passage.mark_fault(self.worker);
        }
        self.passage.station(self.worker).counts.call(CallRecord {
            phase: Phase::Handle,
            outcome: ended.outcome,
            own: ended.own,
        });
    }
}

impl Turn {
    /// A worker's request to `next.sluice` as the rest of the chain sees it, and who else sees it because of what the
    /// worker rewrote. The worker names a host by setting `Host`.
    fn onward(&self, request: Request<Body>) -> Result<(Request<Body>, Option<WorkerSet>), EgressError> {
        let bad = |why: &dyn std::fmt::Display| EgressError::Unnamed { why: why.to_string() };
        let (mut parts, body) = request.into_parts();
        let path = match parts.uri.path_and_query() {
            Some(path) => path.clone(),
            None => PathAndQuery::from_static("/"),
        };
        let host = parts.headers.get(HOST).map(HeaderValue::as_bytes);
        let authority = match host {
            None => self.passage.authority.clone(),
            Some(host) if host.eq_ignore_ascii_case(NEXT_AUTHORITY.as_bytes()) => self.passage.authority.clone(),
            Some(host) => Authority::try_from(host).map_err(|e| bad(&e))?,
        };
        let place = Place::of(authority.as_str(), &path).map_err(|e| bad(&e))?;
        address(&mut parts, &authority, path).map_err(|e| bad(&e))?;
        let more = self.passage.rewritten(&place, &parts.method);
        Ok((Request::from_parts(parts, body), more))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
