//! One filter's turn with a request or with a response, and what its `onFailure` makes of a failure.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use sluice_config::OnFailure;
use sluice_egress::Body;
use sluice_worker::{Bindings, Decision, Ended, Failure, Filter, Outcome, Phase, Stopped};

use crate::{
    CallRecord,
    inner::Seen,
    invoke::{broke_off, closed, fallback, maker},
    passage::{Maker, Passage, Reply},
    place::Place,
    set::WorkerSet,
    trace::Before,
};

/// Where a request is after a filter's turn.
pub(crate) enum Step {
    /// Past it.
    Passed {
        request: Request<Body>,
        /// What the filter keeps for its response phase.
        state: Bytes,
    },
    /// Past it, as if it were not there.
    Without(Request<Body>),
    /// At its end.
    Reply(Reply),
}

/// Calls a filter with a request. `workers` is what remains of the chain: it grows when the filter rewrites.
pub(crate) async fn on_request(
    passage: &Arc<Passage>,
    workers: &mut WorkerSet,
    worker: usize,
    filter: &Filter,
    request: Request<Body>,
) -> Step {
    let phase = if filter.sees_requests() { Phase::OnRequest } else { Phase::OnResponse };
    // For its response as well: that is never shed for want of CPU time.
    if let Err(why) = passage.may_run(worker) {
        passage.shed(worker, phase, why);
        return instead(passage, worker, request, Maker::Proxy).await;
    }
    if phase == Phase::OnResponse {
        return Step::Passed { request, state: Bytes::new() };
    }
    let station = passage.station(worker);
    let Some(turn) = Turn::begin(passage, worker, phase) else {
        return instead(passage, worker, request, Maker::Proxy).await;
    };
    let method = request.method().clone();
    let before = passage.tracing.as_ref().map(|_| Box::new(Before::request(&request)));
    let called =
        filter.on_request(&station.identity, &station.limits, &passage.exchange, bindings(passage, worker), request);
    let (ended, decided) = called.await;
    if let Some(before) = before {
        let changes = match &decided {
            Ok(Decision::Next { request, .. }) => before.changes_of_request(request),
            Ok(Decision::Answer(_)) | Err(_) => Vec::new(),
        };
        passage.trace(worker, turn.record(&ended), changes);
    }
    turn.end(ended);
    match decided {
        Ok(Decision::Next { request, is_rewritten, state }) => {
            if is_rewritten || *request.method() != method {
                // Checked when it was set; where it would lead nobody can say.
                let Some(place) = place(&request) else { return Step::Reply(closed(passage, Maker::Worker(worker))) };
                if let Some(more) = passage.rewritten(&place, request.method()) {
                    workers.add(&more);
                }
            }
            Step::Passed { request, state }
        }
        Ok(Decision::Answer(response)) => Step::Reply(answered(passage, worker, None, response)),
        Err(Stopped { failure, message }) => match &failure.provoked {
            Some(error) => Step::Reply(broke_off(error, Maker::Proxy)),
            None => instead(passage, worker, message, blamed(&failure, worker)).await,
        },
    }
}

/// Calls a filter with the response to a request that has passed it.
pub(crate) async fn on_response(
    passage: &Arc<Passage>,
    worker: usize,
    filter: &Filter,
    state: Bytes,
    reply: Reply,
) -> Reply {
    let station = passage.station(worker);
    // The request is gone: there is nothing that the fallback could be asked.
    let keeps = station.on_failure == OnFailure::Open;
    let Some(turn) = Turn::begin(passage, worker, Phase::OnResponse) else {
        return if keeps { reply } else { closed(passage, Maker::Proxy) };
    };
    let Reply { response, maker } = reply;
    let seen = Seen { status: response.status(), maker };
    let before = passage.tracing.as_ref().map(|_| Box::new(Before::response(&response)));
    let bindings = bindings(passage, worker);
    let called = filter.on_response(&station.identity, &station.limits, &passage.exchange, bindings, state, response);
    let (ended, returned) = called.await;
    if let Some(before) = before {
        let changes = returned.as_ref().map_or_else(|_| Vec::new(), |response| before.changes_of_response(response));
        passage.trace(worker, turn.record(&ended), changes);
    }
    turn.end(ended);
    match returned {
        Ok(response) => answered(passage, worker, Some(seen), response),
        Err(Stopped { failure, message }) => match &failure.provoked {
            Some(error) => broke_off(error, maker),
            None if keeps => Reply { response: message, maker },
            None => closed(passage, blamed(&failure, worker)),
        },
    }
}

fn bindings(passage: &Arc<Passage>, worker: usize) -> Bindings {
    Bindings { chain: passage.clone(), worker }
}

/// What `onFailure` says of a request whose filter failed: nothing of it is lost.
async fn instead(passage: &Arc<Passage>, worker: usize, request: Request<Body>, blamed: Maker) -> Step {
    match passage.station(worker).on_failure {
        OnFailure::Open => Step::Without(request),
        OnFailure::Closed => Step::Reply(closed(passage, blamed)),
        // Rare, and as large as all the rest of a filter's turn.
        OnFailure::Fallback => Step::Reply(Box::pin(fallback(passage, request, blamed)).await),
    }
}

/// To find no room is nobody's fault, and no evidence against a revision.
fn blamed(failure: &Failure, worker: usize) -> Maker {
    if failure.outcome == Outcome::Shed { Maker::Proxy } else { Maker::Worker(worker) }
}

/// Says who made a response that a filter let go.
fn answered(passage: &Passage, worker: usize, seen: Option<Seen>, response: Response<Body>) -> Reply {
    let maker = maker(seen, response.status(), worker);
    if response.status().is_server_error() && maker == Maker::Worker(worker) {
        passage.mark_own_5xx(worker);
    }
    Reply { response, maker }
}

fn place(request: &Request<Body>) -> Option<Place> {
    let uri = request.uri();
    Place::of(uri.authority()?.as_str(), uri.path_and_query()?).ok()
}

/// A call, counted at its end.
struct Turn<'a> {
    passage: &'a Passage,
    worker: usize,
    phase: Phase,
    _share: tokio::sync::SemaphorePermit<'a>,
    is_over: bool,
}

impl<'a> Turn<'a> {
    /// Takes a call's room of its unit's share; nothing where there is none.
    fn begin(passage: &'a Passage, worker: usize, phase: Phase) -> Option<Self> {
        match passage.station(worker).share.take() {
            Ok(share) => Some(Self { passage, worker, phase, _share: share, is_over: false }),
            Err(why) => {
                passage.shed(worker, phase, why);
                None
            }
        }
    }

    fn end(mut self, ended: Ended) {
        self.is_over = true;
        if ended.outcome.is_fault() {
            self.passage.mark_fault(self.worker);
        }
        self.count(self.record(&ended));
    }

    fn record(&self, ended: &Ended) -> CallRecord {
        CallRecord { phase: self.phase, outcome: ended.outcome, own: ended.own }
    }

    fn count(&self, call: CallRecord) {
        self.passage.station(self.worker).counts.call(call);
    }
}

/// Given up, the client has left: nobody's fault. It waited for a body, which is not its time.
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.count(CallRecord { phase: self.phase, outcome: Outcome::Next, own: Duration::ZERO });
        }
    }
}
