//! One worker's turn: it is called, and when it fails its `onFailure` decides.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::HOST,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use sluice_config::OnFailure;
use sluice_egress::{Body, BodyError, EgressError, Origin, Timeouts};
use sluice_worker::{
    Calls, Chosen, Compiled, Ended, Failure, Grants, NEXT_AUTHORITY, NextFuture, NoBinding, Outcome, Phase, Slot,
    UPSTREAM, address,
};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    CallRecord,
    accept::{no_room, plain},
    build::Code,
    inner::{Inner, Recovered, Seen, Upload},
    passage::{Maker, Passage, Reply},
    place::Place,
    replay::Kept,
    set::WorkerSet,
    trace::Watched,
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
            passage.not_called(worker, Phase::Handle, Outcome::NotLoaded);
            passage.mark_fault(worker);
            return without(&passage, workers, worker, Some(request), Maker::Worker(worker)).await;
        }
    };
    let room = || Ok((station.share.take_owned()?, passage.slot(worker, &proxy, &workers)?));
    let room = match passage.may_run(worker).and_then(|()| room()) {
        Ok(room) => room,
        Err(why) => {
            passage.shed(worker, Phase::Handle, why);
            return without(&passage, workers, worker, Some(request), Maker::Proxy).await;
        }
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
        watched: passage.tracing.as_ref().map(|_| Watched::of(&request)),
        chosen: request.extensions().get().copied(),
        passage: passage.clone(),
        workers: Mutex::new(workers),
        worker,
        inner: Inner::new(station.on_failure == OnFailure::Open),
        _room: room,
    });
    let called = proxy.call(&station.identity, &station.limits, turn.clone(), request).await;
    match called {
        Ok(response) => {
            passage.handled();
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
        return closed(passage, maker);
    };
    match passage.station(worker).on_failure {
        OnFailure::Closed => closed(passage, maker),
        OnFailure::Open => passage.advance(workers, worker + 1, request).await,
        OnFailure::Fallback => fallback(passage, request, maker).await,
    }
}

/// `onFailure: closed`.
pub(crate) fn closed(passage: &Passage, maker: Maker) -> Reply {
    const NO_ROOM: &str = "no room for a worker";
    let response = match maker {
        // What has taken effect may not be asked for again.
        Maker::Proxy if passage.went_upstream() => plain(StatusCode::SERVICE_UNAVAILABLE, NO_ROOM),
        Maker::Proxy => no_room(NO_ROOM),
        Maker::Worker(_) | Maker::Upstream | Maker::Route | Maker::Client | Maker::Sender => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "a worker failed")
        }
    };
    Reply { response, maker }
}

/// `onFailure: fallback`, as long as nothing went upstream.
pub(crate) async fn fallback(passage: &Arc<Passage>, request: Request<Body>, maker: Maker) -> Reply {
    if passage.went_upstream() {
        return closed(passage, maker);
    }
    upstream::fallback(passage, request).await.unwrap_or_else(|| closed(passage, maker))
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
    /// The upstream that a worker before it chose.
    chosen: Option<Chosen>,
    inner: Arc<Inner>,
    /// Where the request is traced.
    watched: Option<Watched>,
    /// Of the unit's share, and in the pool: held until the call is over, its response's body included.
    _room: (OwnedSemaphorePermit, Slot),
}

impl Turn {
    /// Says who made the response that the worker answered with.
    fn made(&self, response: Response<Body>) -> Reply {
        if let Some(watched) = &self.watched {
            watched.answered(&response);
        }
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

/// What the workers' bindings give.
impl Grants for Passage {
    fn fetch(self: Arc<Self>, worker: usize, mut request: Request<Body>) -> NextFuture {
        Box::pin(async move {
            let unnamed = |why: String| EgressError::Unnamed { why };
            let origin = Origin::of(request.uri()).map_err(|e| unnamed(e.to_string()))?;
            let station = self.station(worker);
            // Before anything is made ready for it.
            station.policy.check(&origin)?;
            let host = HeaderValue::from_str(&origin.authority());
            let host = host.map_err(|e| unnamed(e.to_string()))?;
            request.headers_mut().insert(HOST, host);
            let egress = &self.snapshot.shared.egress;
            let target = egress.target_of(origin, FETCH_TIMEOUTS);
            let target = target.map_err(|e| unnamed(e.to_string()))?;
            egress.send(&station.policy, &target, request).await
        })
    }

    fn take(&self, worker: usize, binding: &str, key: &str) -> Result<Option<Duration>, NoBinding> {
        let rate = self.station(worker).rates.get(binding).ok_or(NoBinding)?;
        Ok(rate.take(key, Instant::now()))
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
        if let Some(watched) = &self.watched {
            watched.goes_on(&request);
        }
        let (request, upload) = Upload::follow(request);
        let reply = self.passage.advance(workers, self.worker + 1, request);
        let response = self.inner.clone().begin(reply, upload, self.worker);
        let watched = self.watched.clone();
        Box::pin(async move {
            let response = response.await;
            if let Some(watched) = watched {
                watched.came_back(&response);
            }
            Ok(response)
        })
    }

    fn fetch(&self, request: Request<Body>) -> NextFuture {
        self.passage.clone().fetch(self.worker, request)
    }

    fn ended(&self, ended: Ended) {
        if ended.outcome.is_fault() {
            self.passage.mark_fault(self.worker);
        }
        let call = CallRecord { phase: Phase::Handle, outcome: ended.outcome, own: ended.own };
        if let Some(watched) = &self.watched {
            self.passage.trace(self.worker, call, watched.changes());
        }
        let station = self.passage.station(self.worker);
        station.counts.call(call);
    }
}

impl Turn {
    /// A worker's request to `next.sluice` as the rest of the chain sees it, and who else sees it because of what the
    /// worker rewrote. The worker names a host by setting `Host`, and another upstream by its header.
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
        let chosen = match parts.headers.remove(UPSTREAM) {
            Some(name) => Some(self.upstream(&name).map_err(|e| bad(&e))?),
            None => self.chosen,
        };
        if let Some(chosen) = chosen {
            parts.extensions.insert(chosen);
        }
        let more = self.passage.rewritten(&place, &parts.method);
        Ok((Request::from_parts(parts, body), more))
    }
}

impl Turn {
    fn upstream(&self, name: &HeaderValue) -> Result<Chosen, String> {
        let names = &self.passage.route().names;
        let place = names.iter().position(|known| known.as_bytes() == name.as_bytes());
        place.map(Chosen).ok_or_else(|| format!("the route has no upstream {name:?}"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
