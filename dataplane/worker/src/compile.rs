//! From bytes to a worker that can be called.

use http::{Request, Response};
use sluice_config::{Instances, Limits};
use sluice_egress::Body;
use std::{sync::Arc, time::Instant};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::{p2::bindings::ProxyPre, p3::bindings::ServicePre};

use crate::{
    Calls, Failure, Filter, Identity, Phase,
    call::{self, Pre},
    engine::{Engines, Room, weight},
    failure::is_local,
    filter,
    imports::{self, Contract, Refused},
    state::State,
};

/// Why bytes are no worker. Every node would say the same, but for [`CompileError::Local`].
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Refused before compilation.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The compiler refuses it, or it does not fit the pool.
    #[error("does not compile: {0}")]
    Compile(String),
    /// Linking fails though every import is known: a newer or changed interface.
    #[error("does not link: {0}")]
    Link(String),
    /// What the compiler's own process said, or at which limit it was ended.
    #[error("{0}")]
    Ended(String),
    /// This machine had no memory for it, or did not let the compiler do its work.
    #[error("cannot be compiled here and now: {0}")]
    Local(String),
}

/// A worker that can be called; cheap to clone.
#[derive(Clone)]
pub enum Compiled {
    /// Request and response in one call.
    Proxy(Proxy),
    /// A call for each head.
    Filter(Filter),
}

/// A worker of `wasi:http`: `proxy@0.2`, `service@0.3` or `middleware@0.3`.
#[derive(Clone)]
pub struct Proxy {
    pub(crate) pre: Pre,
    /// Where instances may serve more than one call.
    pub(crate) idle: Option<Arc<call::Idle>>,
    room: Room,
    /// For how many calls an instance counts there.
    weight: u32,
}

/// Room for a call in its contract's pool, for as long as this lives.
pub struct Slot(#[allow(dead_code, reason = "held, not used")] OwnedSemaphorePermit);

/// What links with the components of each contract, and the room that their instances have.
pub(crate) struct Linkers {
    pub(crate) proxy: Linker<State>,
    pub(crate) handler: Linker<State>,
    pub(crate) filter: Linker<filter::State>,
    pub(crate) proxy_room: Room,
    pub(crate) handler_room: Room,
    pub(crate) filter_room: Room,
}

pub(crate) fn compile(engines: &Engines, linkers: &Linkers, wasm: &[u8]) -> Result<Compiled, CompileError> {
    let contract = imports::surface(wasm)?.check()?;
    let component = Component::from_binary(engines.of(contract), wasm).map_err(|e| error(&e, CompileError::Compile))?;
    link(linkers, contract, &component)
}

pub(crate) fn link(linkers: &Linkers, contract: Contract, component: &Component) -> Result<Compiled, CompileError> {
    let link = |e: wasmtime::Error| error(&e, CompileError::Link);
    Ok(match contract {
        Contract::Proxy => {
            let pre = linkers.proxy.instantiate_pre(component).map_err(link)?;
            let pre = Pre::Proxy(ProxyPre::new(pre).map_err(link)?);
            Compiled::Proxy(Proxy::new(pre, &linkers.proxy_room))
        }
        Contract::Handler => {
            let pre = linkers.handler.instantiate_pre(component).map_err(link)?;
            let pre = Pre::Handler(ServicePre::new(pre).map_err(link)?);
            Compiled::Proxy(Proxy::new(pre, &linkers.handler_room))
        }
        Contract::Filter { on_request, on_response } => {
            let pre = linkers.filter.instantiate_pre(component).map_err(link)?;
            let room = linkers.filter_room.idle.clone();
            Compiled::Filter(Filter::new(pre, on_request, on_response, room).map_err(link)?)
        }
    })
}

pub(crate) fn error(error: &wasmtime::Error, kind: impl FnOnce(String) -> CompileError) -> CompileError {
    let why = format!("{error:#}");
    if is_local(error) { CompileError::Local(why) } else { kind(why) }
}

impl Compiled {
    /// The calls that it answers: the label `phase` of what is counted.
    #[must_use]
    pub fn phases(&self) -> &'static [Phase] {
        match self {
            Self::Proxy(_) => &[Phase::Handle],
            Self::Filter(filter) => filter.phases(),
        }
    }

    /// The same code, called as a worker's manifest says: in a fresh instance each time, or in one that has served before.
    /// Instances are shared by the clones of what is returned, and by nobody else: one for each worker of a snapshot.
    #[must_use]
    pub fn serving(self, instances: Option<Instances>) -> Self {
        match self {
            Self::Proxy(proxy) => {
                let idle = instances.map(|i| Arc::new(call::Idle::new(i, proxy.room.idle.clone(), proxy.weight)));
                Self::Proxy(Proxy { idle, ..proxy })
            }
            Self::Filter(filter) => Self::Filter(filter.serving(instances)),
        }
    }

    /// Lets go of the instances that wait for another call, now and from now on: for a worker that is superseded.
    pub fn retire(&self) {
        match self {
            Self::Proxy(proxy) => proxy.idle.iter().for_each(|idle| idle.close()),
            Self::Filter(filter) => filter.retire(),
        }
    }

    /// Lets go of the instances that wait for another call and are too old for it.
    pub fn sweep(&self, now: Instant) {
        match self {
            Self::Proxy(proxy) => proxy.idle.iter().for_each(|idle| idle.sweep(now)),
            Self::Filter(filter) => filter.sweep(now),
        }
    }

    /// Makes one instance and drops it: what cannot start is found before a request finds it. To be polled
    /// off the serving threads, within a Tokio runtime; over after half a minute.
    ///
    /// # Errors
    /// [`Outcome::Shed`](crate::Outcome::Shed): no room now, try later. All else is the revision's fault.
    pub async fn warm(&self, identity: &Arc<Identity>, limits: &Limits) -> Result<(), Failure> {
        match self {
            Self::Proxy(proxy) => call::warm(&proxy.pre, identity, limits).await,
            Self::Filter(filter) => filter.warm(identity, limits).await,
        }
    }
}

impl Proxy {
    fn new(pre: Pre, room: &Room) -> Self {
        let weight = weight(pre.instance_pre().component());
        Self { pre, idle: None, room: room.clone(), weight }
    }

    /// Room for a call; nothing where there is none. Held until the call is over, the call finds room.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        self.room.call(self.weight).map(Slot)
    }

    /// Runs the worker for one request, inside the caller's task: in a fresh instance, or, where the worker asks for it, in one
    /// that waits for its next call. Nobody else has it meanwhile. Resolves with the response's head; reading the body drives
    /// what the worker still does.
    ///
    /// # Errors
    /// The worker failed before its response's head. [`Calls::ended`] has been told.
    pub async fn call(
        &self,
        identity: &Arc<Identity>,
        limits: &Limits,
        calls: Arc<dyn Calls>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        call::call(self.clone(), identity.clone(), limits, calls, request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_may_compile_another_time() {
        let io = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let compiled = error(&wasmtime::Error::from(io), CompileError::Compile);
        assert!(matches!(compiled, CompileError::Local(_)), "{compiled}");
    }
}
