//! One call: a fresh instance, its limits, and what came of it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use sluice_config::Limits;
use sluice_egress::Body;
use wasmtime::{
    Store,
    component::{Instance, Resource},
};

use super::{
    Exchange, Filter,
    bindings::sluice::worker::types::Action,
    held::{State, Subject},
    message::{self, Address, RequestHeld, ResponseHeld},
};
use crate::{Ended, Failure, Identity, Outcome, failure::Invalid, meter::Meter, metered::metered, store::limited};

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
    request: Request<Body>,
) -> (Ended, Result<Decision, Stopped<Request<Body>>>) {
    let meter = Arc::new(Meter::new(limits));
    let Some(indices) = &filter.on_request else {
        let next = Decision::Next { request, is_rewritten: false, state: Bytes::new() };
        return (ended(Outcome::Next, &meter), Ok(next));
    };
    let subject = Subject::Request(RequestHeld::new(request));
    let state = State::new(identity, limits.memory_bytes, meter.clone(), subject, exchange.clone());
    let guest = async |store: &mut Store<State>, instance: &Instance| {
        indices.load(&mut *store, instance)?.call_handle(&mut *store, Resource::new_borrow(0)).await
    };
    let (returned, state) = fresh(filter, state, &meter, guest).await;
    let Subject::Request(held) = state.subject else { unreachable!("a call's subject stays what it is") };
    let settled = returned.and_then(|action| {
        let verdict = match action {
            Action::Next => held.check().map(Verdict::Next),
            Action::Answer(answer) => message::answer(answer).map(Verdict::Answer),
        };
        // Last, so that nothing of a call that failed is seen.
        verdict.and_then(|v| exchange.notes.commit(state.written).map(|()| v)).map_err(|e| invalid(e, &meter))
    });
    match settled {
        Ok(Verdict::Next(elsewhere)) => {
            let is_rewritten = elsewhere.is_some();
            let next = Decision::Next { request: held.edited(elsewhere), is_rewritten, state: state.kept.into() };
            (ended(Outcome::Next, &meter), Ok(next))
        }
        Ok(Verdict::Answer(answer)) => (ended(Outcome::Answered, &meter), Ok(Decision::Answer(answer))),
        Err(failure) => stopped(failure, identity, &meter, held.unchanged()),
    }
}

/// Calls a guest in a fresh instance: what it returned, and what it leaves.
async fn fresh<T>(
    filter: &Filter,
    state: State,
    meter: &Arc<Meter>,
    guest: impl AsyncFnOnce(&mut Store<State>, &Instance) -> wasmtime::Result<T>,
) -> (Result<T, Failure>, State) {
    let mut store = limited(filter.pre.engine(), state, meter.clone());
    let returned = metered(meter, async {
        let instance = filter.pre.instantiate_async(&mut store).await?;
        guest(&mut store, &instance).await
    })
    .await;
    (returned, store.into_data())
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
    kept: Bytes,
    response: Response<Body>,
) -> (Ended, Result<Response<Body>, Stopped<Response<Body>>>) {
    let meter = Arc::new(Meter::new(limits));
    let Some(indices) = &filter.on_response else {
        return (ended(Outcome::Next, &meter), Ok(response));
    };
    let subject = Subject::Response(ResponseHeld::new(response));
    let mut state = State::new(identity, limits.memory_bytes, meter.clone(), subject, exchange.clone());
    state.kept = kept.into();
    let guest = async |store: &mut Store<State>, instance: &Instance| {
        indices.load(&mut *store, instance)?.call_handle(&mut *store, Resource::new_borrow(0)).await
    };
    let (returned, state) = fresh(filter, state, &meter, guest).await;
    let Subject::Response(held) = state.subject else { unreachable!("a call's subject stays what it is") };
    let settled = returned.and_then(|()| {
        let checked = held.check().and_then(|()| exchange.notes.commit(state.written));
        checked.map_err(|e| invalid(e, &meter))
    });
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
