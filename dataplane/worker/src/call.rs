//! One call: an instance, driven inside the caller's task, first to the response's head, then by whoever reads the
//! response's body.

pub(crate) mod handler;
mod instance;
mod proxy;

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use sluice_config::Limits;
use sluice_egress::{Body, BodyError, EgressError, empty};
use wasmtime_wasi_http::WasiBody;

use crate::{
    Ended, Failure, Identity, Outcome, Proxy,
    bodies::ToGuest,
    failure,
    meter::Meter,
    metered::Alarm,
    reuse::{self, Life, Living},
    state::{Boxed, Call, State},
    store,
};

pub(crate) use instance::{Instance, Pre};

/// Resolves with a response from the chain or an upstream.
pub type NextFuture = Boxed<Result<Response<Body>, EgressError>>;

/// The chain's side of one call.
pub trait Calls: Send + Sync + 'static {
    /// The rest of the chain, then the route's upstream: a request to the authority `next.sluice`.
    fn next(&self, request: Request<Body>) -> NextFuture;
    /// Any other origin; the chain knows what the worker's bindings grant.
    fn fetch(&self, request: Request<Body>) -> NextFuture;
    /// The call is over, its response's body included. Told once.
    fn ended(&self, ended: Ended);
}

type Run = Boxed<wasmtime::Result<()>>;

/// A response, or the name of the error that the guest answers with.
type Answered = Result<Response<WasiBody>, String>;

/// Where the guest puts it.
#[derive(Clone, Default)]
struct Answer(Arc<Mutex<Option<Answered>>>);

impl Answer {
    fn set(&self, meter: &Meter, answer: Answered) {
        meter.answered();
        if answer.as_ref().is_ok_and(|response| !response.status().is_informational()) {
            meter.answered_well();
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    fn take(&self) -> Option<Answered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

pub(crate) type Idle = reuse::Idle<State, Instance>;

pub(crate) async fn call(
    proxy: Proxy,
    identity: Arc<Identity>,
    limits: &Limits,
    calls: Arc<dyn Calls>,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    let meter = Arc::new(Meter::new(limits, &identity.cpu_ns));
    let answer = Answer::default();
    let is_head = request.method() == Method::HEAD;
    let at = match proxy.idle.as_ref().and_then(|idle| idle.take(&meter)) {
        Some(living) => At::Living(Box::new(living)),
        None => {
            At::Fresh(Box::new(State::new(&identity, limits.memory_bytes, meter.clone(), proxy.pre.is_concurrent())))
        }
    };
    let asks = Call { calls: calls.clone(), authority: request.uri().authority().cloned() };
    let guest = Box::pin(guest(proxy, at, asks, meter.clone(), answer.clone(), request));
    let mut running = Running { guest: Some(guest), alarm: Alarm::default(), meter, calls: Some(calls), identity };
    let head = poll_fn(|cx| running.poll_head(cx, &answer)).await?;
    let unread = is_head
        || matches!(head.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || head.body().size_hint().exact() == Some(0);
    if unread || (running.guest.is_none() && head.body().is_end_stream()) {
        // Nobody will read a body, so nobody would drive the guest.
        let (parts, unread) = head.into_parts();
        drop(unread);
        let mut running = Some(running);
        poll_fn(|cx| Poll::Ready(running.take().map(|running| running.finish_alone(cx)))).await;
        return Ok(Response::from_parts(parts, empty()));
    }
    Ok(head.map(|inner| {
        let body = Driven { inner, running: Some(running) };
        body.boxed_unsync()
    }))
}

/// See [`Compiled::warm`](crate::Compiled::warm).
pub(crate) async fn warm(pre: &Pre, identity: &Arc<Identity>, limits: &Limits) -> Result<(), Failure> {
    let state = |meter| State::new(identity, limits.memory_bytes, meter, pre.is_concurrent());
    store::warm(pre.instance_pre(), limits, state).await
}

/// Where a call runs.
enum At {
    Fresh(Box<State>),
    Living(Box<Living<State, Instance>>),
}

/// The guest's whole run: a fresh store lives and dies in here, unless it may serve again.
async fn guest(
    proxy: Proxy,
    at: At,
    call: Call,
    meter: Arc<Meter>,
    answer: Answer,
    request: Request<Body>,
) -> wasmtime::Result<()> {
    let (mut store, instance, life) = match at {
        At::Fresh(state) => (store::limited(proxy.pre.engine(), *state), None, Life::new()),
        At::Living(living) => (living.store, Some(living.instance), living.life),
    };
    store.data_mut().serve(call);
    let request = request.map(|body| ToGuest::served(body, meter.clone()));
    let instance = match instance {
        Some(instance) => instance,
        None => proxy.pre.instantiate(&mut store).await?,
    };
    let result = match &instance {
        Instance::Proxy(proxy) => proxy::handle(proxy, &mut store, &meter, answer, request).await,
        // Larger, and in a box of its own for that.
        Instance::Handler(service) => Box::pin(handler::handle(service, &mut store, &meter, answer, request)).await,
    };
    if let (Ok(()), Some(idle)) = (&result, &proxy.idle)
        && meter.has_answered_well()
        && instance.is_at_rest(&mut store, &meter)
    {
        store.data_mut().rest();
        idle.give_back(Living { store, instance, life }, Instant::now());
    } else if result.is_err() {
        store::let_go(store);
    }
    result
}

/// A call that is not over.
struct Running {
    /// Dropped at its end: with it go store, instance and pool slot.
    guest: Option<Run>,
    alarm: Alarm,
    meter: Arc<Meter>,
    /// Taken when the end has been told.
    calls: Option<Arc<dyn Calls>>,
    identity: Arc<Identity>,
}

impl Running {
    /// Runs the guest until it waits, ends or is ended.
    fn poll_guest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Some(guest) = self.guest.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        self.meter.resume(Instant::now());
        let polled = guest.as_mut().poll(cx);
        self.meter.suspend();
        let failure = match polled {
            Poll::Ready(Ok(())) => {
                self.guest = None;
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Err(error)) => match failure::judge(&error, &self.meter) {
                Some(failure) => failure,
                None => {
                    self.guest = None;
                    return Poll::Ready(Ok(()));
                }
            },
            Poll::Pending => match self.alarm.poll(&self.meter, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(failure) => failure,
            },
        };
        // Before the guest goes: its bodies must break off, not end.
        self.meter.fail();
        self.guest = None;
        Poll::Ready(Err(failure))
    }

    /// Runs the guest to its response's head.
    fn poll_head(&mut self, cx: &mut Context<'_>, answer: &Answer) -> Poll<Result<Response<WasiBody>, Failure>> {
        let polled = self.poll_guest(cx);
        let meter = self.meter.clone();
        let invalid = |why: String| Failure { outcome: Outcome::Invalid, why, provoked: meter.provoked() };
        let done = match (polled, answer.take()) {
            (Poll::Ready(Err(failure)), _) => Err(failure),
            (_, Some(Ok(response))) if response.status().is_informational() => {
                Err(invalid(format!("it answered with {}", response.status())))
            }
            (_, Some(Ok(response))) => Ok(response),
            (_, Some(Err(code))) => Err(invalid(format!("it answered with the error {code}"))),
            (Poll::Ready(Ok(())), None) => Err(invalid("it returned without an answer".to_owned())),
            (Poll::Pending, None) => return Poll::Pending,
        };
        if let Err(failure) = &done {
            self.meter.fail();
            self.guest = None;
            self.end(failure.outcome, Some(failure));
        }
        Poll::Ready(done)
    }

    fn end_well(&mut self) {
        let outcome = if self.meter.called_next() { Outcome::Next } else { Outcome::Answered };
        self.end(outcome, None);
    }

    fn end(&mut self, outcome: Outcome, failure: Option<&Failure>) {
        if failure.is_some_and(|f| f.provoked.is_some()) {
            return self.end_well();
        }
        let Some(calls) = self.calls.take() else {
            return;
        };
        if let Some(failure) = failure {
            self.identity.failed(outcome, &failure.why);
        }
        calls.ended(Ended { outcome, own: self.meter.own(), cpu: self.meter.cpu() });
    }

    /// The response is complete, the guest may not be: it goes on by itself, its wall time counts.
    fn finish_alone(mut self, cx: &mut Context<'_>) {
        if self.guest.is_some() {
            self.meter.tail_began();
        }
        // Most have little left to do.
        match self.poll_guest(cx) {
            Poll::Ready(result) => self.end_alone(result),
            Poll::Pending => {
                tokio::spawn(async move {
                    let result = poll_fn(|cx| self.poll_guest(cx)).await;
                    self.end_alone(result);
                });
            }
        }
    }

    fn end_alone(mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.end_well(),
            Err(failure) => self.end(failure.outcome, Some(&failure)),
        }
    }
}

/// Given up by whoever waited for it: nobody's fault.
impl Drop for Running {
    fn drop(&mut self) {
        if self.calls.is_some() {
            self.meter.fail();
            self.guest = None;
            self.end_well();
        }
    }
}

/// A response's body; reading it drives the guest that writes it.
struct Driven {
    inner: WasiBody,
    running: Option<Running>,
}

impl Driven {
    fn drive(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(running) = self.running.as_mut() else {
            return Ok(());
        };
        match running.poll_guest(cx) {
            // How the body ends decides how the call did.
            Poll::Pending | Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(failure)) => {
                running.end(Outcome::Aborted, Some(&failure));
                self.running = None;
                Err(BodyError::Worker(failure.why))
            }
        }
    }

    /// The body is complete.
    fn end(&mut self, cx: &mut Context<'_>) {
        self.inner = nothing();
        if let Some(running) = self.running.take() {
            running.finish_alone(cx);
        }
    }

    /// The body breaks off: the guest dropped it, promised more than it wrote, or went without a word.
    fn break_off(&mut self, why: String) -> BodyError {
        let Some(mut running) = self.running.take() else {
            return BodyError::Worker(why);
        };
        // It may only hand on what broke off in its hands.
        let provoked = running.meter.provoked();
        running.meter.fail();
        running.guest = None;
        let failure = Failure { outcome: Outcome::Aborted, why, provoked: provoked.clone() };
        running.end(Outcome::Aborted, Some(&failure));
        provoked.unwrap_or(BodyError::Worker(failure.why))
    }
}

fn nothing() -> WasiBody {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

impl http_body::Body for Driven {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(error) = self.drive(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                // All that was promised: readers look no further.
                if self.inner.size_hint().exact() == Some(0) {
                    self.end(cx);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(self.break_off(format!("its response broke off: {error}")))),
            None if self.running.as_ref().is_some_and(|r| r.meter.was_left_open()) => {
                Some(Err(self.break_off("it ended without ending its response's body".to_owned())))
            }
            None => {
                self.end(cx);
                None
            }
        })
    }

    /// Never before the guest is done: a reader that stops early would end it.
    fn is_end_stream(&self) -> bool {
        self.running.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
