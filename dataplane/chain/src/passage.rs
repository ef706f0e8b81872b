//! One request on its way through the chain: what is left of it, who made the response, and what
//! will be counted.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, Request, Response, StatusCode, uri::Authority};
use sluice_config::OnFailure;
use sluice_egress::Body;
use sluice_worker::{Compiled, Exchange, Outcome, Phase, Proxy, Slot};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    CallRecord, Class, Origin, RequestRecord, Snapshot,
    build::{Code, Route, Station},
    matching::Client,
    place::Place,
    set::WorkerSet,
    share::Shed,
    trace::Tracing,
    walk,
};

/// A response and who made it.
pub(crate) struct Reply {
    pub(crate) response: Response<Body>,
    pub(crate) maker: Maker,
}

pub(crate) type ReplyFuture = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// Who made a response, or is why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// The worker at this place.
    Worker(usize),
    /// The upstream.
    Upstream,
    /// The route: what it names cannot be reached by anyone.
    Route,
    /// The proxy.
    Proxy,
    /// The client left.
    Client,
    /// Whoever sent the request on with a body that broke off.
    Sender,
}

/// What all workers of a request share.
pub(crate) struct Passage {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) route: usize,
    /// Host of the client's request, as it was written.
    pub(crate) authority: Authority,
    pub(crate) place: Place,
    /// Headers of the client's request, where a rewrite could make them count once more; empty otherwise.
    pub(crate) client_headers: HeaderMap,
    /// What filters share.
    pub(crate) exchange: Arc<Exchange>,
    /// Requests that went upstream, or are about to.
    sent: AtomicU32,
    /// A worker of `wasi:http` answered: it may be making the response's body.
    handled: AtomicBool,
    pub(crate) began: Instant,
    next_left: AtomicU32,
    /// Where it is one of those that are told.
    pub(crate) tracing: Option<Box<Tracing>>,
    marks: Mutex<Marks>,
    /// Room for calls that are still to come, by worker.
    slots: Mutex<Vec<(usize, Slot)>>,
    /// Held until the last worker has ended.
    _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Marks {
    workers: Vec<Mark>,
    /// The request has been counted: what happens from now on is told by itself.
    counted: bool,
}

/// What a worker did in this request.
struct Mark {
    worker: usize,
    own_5xx: bool,
    /// Also once its own 5xx is counted: a request is charged once.
    fault: bool,
}

impl Passage {
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        route: usize,
        authority: Authority,
        place: Place,
        exchange: Exchange,
        permit: OwnedSemaphorePermit,
        began: Instant,
    ) -> Self {
        let is_traced = snapshot.shared.traces.begin();
        let tracing = is_traced.then(|| Tracing::new(&exchange));
        Self {
            tracing,
            next_left: AtomicU32::new(snapshot.next_budget()),
            snapshot,
            route,
            authority,
            place,
            client_headers: HeaderMap::new(),
            exchange: Arc::new(exchange),
            sent: AtomicU32::new(0),
            handled: AtomicBool::new(false),
            began,
            marks: Mutex::default(),
            slots: Mutex::default(),
            _permit: permit,
        }
    }

    /// The first worker of the set at this place or after it; then the upstream.
    pub(crate) fn advance(self: &Arc<Self>, workers: WorkerSet, from: usize, request: Request<Body>) -> ReplyFuture {
        Box::pin(walk::walk(self.clone(), workers, from, request))
    }

    /// Who else sees the request when a worker passes it on with this place and method; nothing where they are the
    /// client's. Headers are those that the client sent: what a worker writes into one neither brings others in nor keeps
    /// them out.
    pub(crate) fn rewritten(&self, place: &Place, method: &Method) -> Option<WorkerSet> {
        if *place == self.place && method == self.exchange.method() {
            return None;
        }
        let client = Client { method, headers: &self.client_headers, address: self.exchange.client() };
        Some(self.snapshot.workers.matches(place, &client))
    }

    pub(crate) fn station(&self, worker: usize) -> &Station {
        &self.snapshot.stations[worker]
    }

    pub(crate) fn route(&self) -> &Route {
        &self.snapshot.routes[self.route]
    }

    /// Takes one of the `next` calls that the request may make.
    pub(crate) fn take_next(&self) -> bool {
        self.next_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Whether one line more may be logged of upstreams.
    pub(crate) fn may_log(&self) -> bool {
        let Some(missed) = self.snapshot.shared.log.take(Instant::now()) else {
            return false;
        };
        if missed > 0 {
            tracing::warn!(missed, "too much to log of upstreams: lines are dropped");
        }
        true
    }

    /// A request goes upstream.
    pub(crate) fn sending(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// Nothing of it did. Others, at the same time, may have.
    pub(crate) fn unsent(&self) {
        self.sent.fetch_sub(1, Relaxed);
    }

    /// Something went upstream: what fails from now on cannot be tried again.
    pub(crate) fn went_upstream(&self) -> bool {
        self.sent.load(Relaxed) > 0
    }

    /// A worker of `wasi:http` answered.
    pub(crate) fn handled(&self) {
        self.handled.store(true, Relaxed);
    }

    /// Whether a worker may be making the response's body.
    pub(crate) fn has_handled(&self) -> bool {
        self.handled.load(Relaxed)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request is at a worker.
    pub(crate) fn enter(&self, worker: usize) {
        let workers = &mut self.marks().workers;
        if workers.iter().all(|m| m.worker != worker) {
            workers.push(Mark { worker, own_5xx: false, fault: false });
        }
    }

    pub(crate) fn mark_fault(&self, worker: usize) {
        let mut marks = self.marks();
        let counted = marks.counted;
        let Some(mark) = marks.workers.iter_mut().find(|m| m.worker == worker) else {
            return;
        };
        if counted && !mark.fault {
            self.station(worker).counts.broke_off();
        }
        mark.fault = true;
    }

    pub(crate) fn mark_own_5xx(&self, worker: usize) {
        if let Some(mark) = self.marks().workers.iter_mut().find(|m| m.worker == worker) {
            mark.own_5xx = true;
        }
    }

    /// A worker's turn is over.
    pub(crate) fn trace(&self, worker: usize, call: CallRecord, changes: Vec<String>) {
        if let Some(tracing) = &self.tracing {
            tracing.step(&self.station(worker).identity, call, changes);
        }
    }

    /// Whether the request may take CPU time of a worker's.
    pub(crate) fn may_run(&self, worker: usize) -> Result<(), Shed> {
        self.station(worker).share.may_run(&self.snapshot.shared.cpu, self.began)
    }

    /// Room for a call of this worker, and, kept here, for those after it that the request cannot do without: it ends where it
    /// begins, and not where all but the last of them have worked in vain.
    pub(crate) fn slot(&self, worker: usize, proxy: &Proxy, workers: &WorkerSet) -> Result<Slot, Shed> {
        let mut kept = self.slots();
        if let Some(at) = kept.iter().position(|(of, _)| *of == worker) {
            return Ok(kept.swap_remove(at).1);
        }
        let own = proxy.slot().ok_or(Shed::Room)?;
        let (known, mut at) = (kept.len(), worker);
        while let Some(later) = workers.first_from(at + 1) {
            at = later;
            let station = self.station(later);
            if let Code::Ready(Compiled::Proxy(proxy)) = &station.code
                && station.on_failure == OnFailure::Closed
                && kept.iter().all(|(of, _)| *of != later)
            {
                let Some(slot) = proxy.slot() else {
                    kept.truncate(known);
                    return Err(Shed::Room);
                };
                kept.push((later, slot));
            }
        }
        Ok(own)
    }

    /// The response is there: what is called from now on takes room of its own.
    pub(crate) fn release_slots(&self) {
        self.slots().clear();
    }

    fn slots(&self) -> MutexGuard<'_, Vec<(usize, Slot)>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's turn came, and there was no room for it.
    pub(crate) fn shed(&self, worker: usize, phase: Phase, why: Shed) {
        tracing::debug!(unit = %self.station(worker).identity.unit, %why, "shed");
        self.not_called(worker, phase, Outcome::Shed);
    }

    /// A worker's turn came, and it was not called.
    pub(crate) fn not_called(&self, worker: usize, phase: Phase, outcome: Outcome) {
        let call = CallRecord { phase, outcome, own: Duration::ZERO };
        self.trace(worker, call, Vec::new());
        self.station(worker).counts.call(call);
    }

    /// Counts the request for each unit that it went through. `status` is what the client gets, if anything.
    pub(crate) fn count(&self, status: Option<StatusCode>, maker: Maker) {
        let duration = self.began.elapsed();
        if let Some(tracing) = &self.tracing {
            tracing.answered(status, duration);
        }
        let class = status.map_or(Class::C499, Class::of);
        let class = match maker {
            Maker::Client => Class::C499,
            Maker::Worker(_) | Maker::Upstream | Maker::Route | Maker::Proxy | Maker::Sender => class,
        };
        let mut marks = self.marks();
        marks.counted = true;
        for mark in &mut marks.workers {
            let origin = match maker {
                Maker::Worker(worker) if worker == mark.worker => Origin::Own,
                Maker::Worker(_) | Maker::Route => Origin::Other,
                Maker::Upstream => Origin::Upstream,
                Maker::Proxy | Maker::Client | Maker::Sender => Origin::Proxy,
            };
            // Its own 5xx counts as one, whatever another worker made of it.
            let hidden = mark.own_5xx && class != Class::C5xx;
            let (class, origin) = if hidden { (Class::C5xx, Origin::Own) } else { (class, origin) };
            self.station(mark.worker).counts.request(RequestRecord { class, origin, fault: mark.fault, duration });
            mark.fault |= class == Class::C5xx && origin == Origin::Own;
        }
        drop(marks);
        let origin = match maker {
            Maker::Route => Origin::Own,
            Maker::Worker(_) => Origin::Other,
            Maker::Upstream => Origin::Upstream,
            Maker::Proxy | Maker::Client | Maker::Sender => Origin::Proxy,
        };
        self.route().counts.request(RequestRecord { class, origin, fault: maker == Maker::Route, duration });
    }
}

/// The last worker has ended.
impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(tracing) = self.tracing.take() {
            tracing.end(&self.snapshot.shared.traces);
        }
    }
}
