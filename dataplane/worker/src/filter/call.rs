//! One call: its instance, its limits, and what came of it.

use std::{pin::pin, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{Request, Response};
use sluice_config::Limits;
use sluice_egress::Body;
use wasmtime::{Store, component::Resource};

use super::{
    Bindings, Exchange, Filter, Guest,
    bindings::sluice::worker::types::Action,
    held::{About, Left, State, Subject},
    message::{self, Address, RequestHeld, ResponseHeld},
};
use crate::{
    Ended, Failure, Identity, Outcome,
    failure::Invalid,
    meter::Meter,
    metered::metered,
    reuse::{Life, Living},
    store::{let_go, limited},
};

/// What a filter decided of a request.
pub enum Decision {
    /// It goes on.
    Next {
        /// With what was changed.
        request: Request<Body>,
        /// It goes elsewhere now: another host, another path.
        is_rewritten: bool,
        /// What the filter keeps for its response phase.
        state: Bytes,
    },
    /// It goes no further.
    Answer(Response<Body>),
}

/// A call that failed.
pub struct Stopped<M> {
    /// Why.
    pub failure: Failure,
    /// The message as it came, its body whole.
    pub message: M,
}

pub(super) async fn on_request(
    filter: &Filter,
    identity: &Arc<Identity>,
    limits: &Limits,
    exchange: &Arc<Exchange>,
    bindings: Bindings,
    request: Request<Body>,
) -> (Ended, Result<Decision, Stopped<Request<Body>>>) {
    let meter = Arc::new(Meter::new(limits, &identity.cpu_ns));
    let Some(indices) = &filter.on_request else {
        let next = Decision::Next { request, is_rewritten: false, state: Bytes::new() };
        return (ended(Outcome::Next, &meter), Ok(next));
    };
    let subject = Subject::Request(Box::new(RequestHeld::new(request)));
    let guest = async |store: &mut Store<State>, guest: &mut Guest| {
        let function = match &mut guest.on_request {
            Some(loaded) => loaded,
            unloaded @ None => unloaded.insert(indices.load(&mut *store, &guest.instance)?),
        };
        function.call_handle(&mut *store, Resource::new_borrow(0)).await
    };
    let about = About { subject, exchange: exchange.clone(), bindings, kept: Vec::new() };
    let (returned, left, living) = run(filter, identity, limits, &meter, about, guest).await;
    let Subject::Request(held) = left.subject else { unreachable!("a call's subject stays what it is") };
    let settled = returned.and_then(|action| {
        let verdict = match action {
            Action::Next => held.check().map(Verdict::Next),
            Action::Answer(answer) => message::answer(answer).map(Verdict::Answer),
        };
        // Last, so that nothing of a call that failed is seen.
        verdict.and_then(|v| exchange.notes.commit(left.written).map(|()| v)).map_err(|e| invalid(e, &meter))
    });
    give_back(filter, living, settled.is_ok(), meter.suspended_at());
    match settled {
        Ok(Verdict::Next(elsewhere)) => {
            let is_rewritten = elsewhere.is_some();
            let next = Decision::Next { request: held.edited(elsewhere), is_rewritten, state: left.kept.into() };
            (ended(Outcome::Next, &meter), Ok(next))
        }
        Ok(Verdict::Answer(answer)) => (ended(Outcome::Answered, &meter), Ok(Decision::Answer(answer))),
        Err(failure) => stopped(failure, identity, &meter, held.unchanged()),
    }
}

/// An instance serves on after a call that was all right, also in what it left.
fn give_back(filter: &Filter, living: Option<Living<State, Guest>>, is_good: bool, now: Instant) {
    if let (Some(idle), Some(living), true) = (&filter.idle, living, is_good) {
        idle.give_back(living, now);
    }
}

/// Calls a guest: what it returned, what it leaves, and where it returned.
async fn run<T>(
    filter: &Filter,
    identity: &Arc<Identity>,
    limits: &Limits,
    meter: &Arc<Meter>,
    about: About,
    call: impl AsyncFnOnce(&mut Store<State>, &mut Guest) -> wasmtime::Result<T>,
) -> (Result<T, Failure>, Left, Option<Living<State, Guest>>) {
    let (mut store, guest, life) = match filter.idle.as_ref().and_then(|idle| idle.take(meter)) {
        Some(Living { store, instance, life }) => (store, Some(instance), life),
        None => {
            let state = State::new(identity, limits.memory_bytes, meter.clone());
            (limited(filter.pre.engine(), state), None, Life::new())
        }
    };
    store.data_mut().begin(about);
    let returned = {
        let called = pin!(async {
            let mut guest = match guest {
                Some(guest) => guest,
                None => Guest::new(filter.pre.instantiate_async(&mut store).await?),
            };
            let value = call(&mut store, &mut guest).await?;
            Ok((value, guest))
        });
        metered(meter, called).await
    };
    let left = store.data_mut().end();
    match returned {
        Ok((value, instance)) => (Ok(value), left, Some(Living { store, instance, life })),
        Err(failure) => {
            let_go(store);
            (Err(failure), left, None)
        }
    }
}

enum Verdict {
    Next(Option<Address>),
    Answer(Response<Body>),
}

pub(super) async fn on_response(
    filter: &Filter,
    identity: &Arc<Identity>,
    limits: &Limits,
    exchange: &Arc<Exchange>,
    bindings: Bindings,
    kept: Bytes,
    response: Response<Body>,
) -> (Ended, Result<Response<Body>, Stopped<Response<Body>>>) {
    let meter = Arc::new(Meter::new(limits, &identity.cpu_ns));
    let Some(indices) = &filter.on_response else {
        return (ended(Outcome::Next, &meter), Ok(response));
    };
    let subject = Subject::Response(Box::new(ResponseHeld::new(response)));
    let guest = async |store: &mut Store<State>, guest: &mut Guest| {
        let function = match &mut guest.on_response {
            Some(loaded) => loaded,
            unloaded @ None => unloaded.insert(indices.load(&mut *store, &guest.instance)?),
        };
        function.call_handle(&mut *store, Resource::new_borrow(0)).await
    };
    let about = About { subject, exchange: exchange.clone(), bindings, kept: kept.into() };
    let (returned, left, living) = run(filter, identity, limits, &meter, about, guest).await;
    let Subject::Response(held) = left.subject else { unreachable!("a call's subject stays what it is") };
    let settled = returned.and_then(|()| {
        let checked = held.check().and_then(|()| exchange.notes.commit(left.written));
        checked.map_err(|e| invalid(e, &meter))
    });
    give_back(filter, living, settled.is_ok(), meter.suspended_at());
    match settled {
        Ok(()) => (ended(Outcome::Next, &meter), Ok(held.edited())),
        Err(failure) => stopped(failure, identity, &meter, held.unchanged()),
    }
}

fn ended(outcome: Outcome, meter: &Meter) -> Ended {
    Ended { outcome, own: meter.own(), cpu: meter.cpu() }
}

fn invalid(Invalid(why): Invalid, meter: &Meter) -> Failure {
    Failure { outcome: Outcome::Invalid, why, provoked: meter.provoked() }
}

/// A call that failed. Where others broke off what it had in its hands, that is no fault of its own, and counts as `next`.
fn stopped<M, T>(failure: Failure, identity: &Identity, meter: &Meter, message: M) -> (Ended, Result<T, Stopped<M>>) {
    let outcome = if failure.provoked.is_some() {
        Outcome::Next
    } else {
        identity.failed(failure.outcome, &failure.why);
        failure.outcome
    };
    (ended(outcome, meter), Err(Stopped { failure, message }))
}
