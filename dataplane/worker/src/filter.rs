//! The contract `sluice:worker/filter` (`wit/`): one call for each head, which changes it, answers, or lets it pass.

mod bindings;
mod body;
mod call;
mod exchange;
mod fields;
mod granted;
mod held;
mod host;
mod message;
mod notes;

use std::{sync::Arc, time::Instant};

use http::{Request, Response};
use sluice_config::{Instances, Limits};
use sluice_egress::Body;
use tokio::sync::Semaphore;
use wasmtime::component::{HasSelf, Instance, InstancePre, Linker, types::ComponentItem};

use crate::{Ended, Failure, Identity, Phase, engine::weight, reuse::Idle, store};

pub use call::{Decision, Stopped};
pub use exchange::{Chosen, Exchange, Spelling};
pub use fields::{HEAD_BYTES_MAX, UPSTREAM, head_bytes};
pub use granted::{Bindings, Grants, NoBinding};
pub(crate) use held::State;
pub use message::address;

use bindings::exports::sluice::worker::{on_request, on_response};

/// A worker of the contract `sluice:worker/filter@0.1`; cheap to clone.
#[derive(Clone)]
pub struct Filter {
    pre: InstancePre<State>,
    on_request: Option<on_request::GuestIndices>,
    on_response: Option<on_response::GuestIndices>,
    /// Where instances may serve more than one call.
    idle: Option<Arc<Idle<State, Guest>>>,
    room: Arc<Semaphore>,
}

/// An instance, and its functions as far as they were called.
struct Guest {
    instance: Instance,
    on_request: Option<on_request::Guest>,
    on_response: Option<on_response::Guest>,
}

impl Guest {
    fn new(instance: Instance) -> Self {
        Self { instance, on_request: None, on_response: None }
    }
}

/// What filters may import, beside what every toolchain does.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    bindings::Filter::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}

impl Filter {
    pub(crate) fn new(
        pre: InstancePre<State>,
        on_request: bool,
        on_response: bool,
        room: Arc<Semaphore>,
    ) -> wasmtime::Result<Self> {
        let request = on_request.then(|| on_request::GuestIndices::new(&pre)).transpose()?;
        let response = on_response.then(|| on_response::GuestIndices::new(&pre)).transpose()?;
        if on_request {
            typed::<bindings::OnRequestParams, bindings::OnRequestResults>(&pre, bindings::ON_REQUEST)?;
        }
        if on_response {
            typed::<bindings::OnResponseParams, bindings::OnResponseResults>(&pre, bindings::ON_RESPONSE)?;
        }
        Ok(Self { pre, on_request: request, on_response: response, idle: None, room })
    }

    pub(crate) fn serving(self, instances: Option<Instances>) -> Self {
        let weight = weight(self.pre.component());
        let idle = instances.map(|i| Arc::new(Idle::new(i, self.room.clone(), weight)));
        Self { idle, ..self }
    }

    pub(crate) fn retire(&self) {
        self.idle.iter().for_each(|idle| idle.close());
    }

    pub(crate) fn sweep(&self, now: Instant) {
        self.idle.iter().for_each(|idle| idle.sweep(now));
    }

    /// The calls that it answers.
    #[must_use]
    pub fn phases(&self) -> &'static [Phase] {
        match (&self.on_request, &self.on_response) {
            (Some(_), Some(_)) => &[Phase::OnRequest, Phase::OnResponse],
            (Some(_), None) => &[Phase::OnRequest],
            (None, Some(_)) => &[Phase::OnResponse],
            (None, None) => &[],
        }
    }

    /// Whether it is called with requests.
    #[must_use]
    pub fn sees_requests(&self) -> bool {
        self.on_request.is_some()
    }

    /// Whether it is called with responses.
    #[must_use]
    pub fn sees_responses(&self) -> bool {
        self.on_response.is_some()
    }

    /// Calls it with a request, inside the caller's task: in a fresh instance, or, where the worker asks for it, in one that waits
    /// for its next call. A filter that does not see requests lets it pass.
    pub fn on_request(
        &self,
        identity: &Arc<Identity>,
        limits: &Limits,
        exchange: &Arc<Exchange>,
        bindings: Bindings,
        request: Request<Body>,
    ) -> impl Future<Output = (Ended, Result<Decision, Stopped<Request<Body>>>)> + Send {
        call::on_request(self, identity, limits, exchange, bindings, request)
    }

    /// Calls it with a response, as above; `state` is what its request phase kept. A filter that does not see responses lets it
    /// pass.
    pub fn on_response(
        &self,
        identity: &Arc<Identity>,
        limits: &Limits,
        exchange: &Arc<Exchange>,
        bindings: Bindings,
        state: bytes::Bytes,
        response: Response<Body>,
    ) -> impl Future<Output = (Ended, Result<Response<Body>, Stopped<Response<Body>>>)> + Send {
        call::on_response(self, identity, limits, exchange, bindings, state, response)
    }

    pub(crate) async fn warm(&self, identity: &Arc<Identity>, limits: &Limits) -> Result<(), Failure> {
        let held = |meter| State::new(identity, limits.memory_bytes, meter);
        store::warm(&self.pre, limits, held).await
    }
}

/// Checks the type of a phase's function, so that no request finds it wrong.
fn typed<P, R>(pre: &InstancePre<State>, interface: &str) -> wasmtime::Result<()>
where
    P: wasmtime::component::ComponentNamedList + wasmtime::component::Lower,
    R: wasmtime::component::ComponentNamedList + wasmtime::component::Lift,
{
    let component = pre.component();
    let instance = component.get_export_index(None, interface);
    let function = instance.and_then(|instance| component.get_export(Some(&instance), "handle"));
    #[allow(clippy::wildcard_enum_match_arm, reason = "all else is no function")]
    match function {
        Some((ComponentItem::ComponentFunc(function), _)) => function
            .typecheck::<P, R>(&pre.instance_type())
            .map_err(|e| e.context(format!("`handle` of {interface} has another type"))),
        _ => Err(wasmtime::Error::msg(format!("{interface} has no function `handle`"))),
    }
}
