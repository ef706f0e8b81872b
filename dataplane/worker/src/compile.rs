//! From bytes to a worker that can be called.

use http::{Request, Response};
use sluice_config::Limits;
use sluice_egress::Body;
use std::sync::Arc;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::{
    Calls, Failure, Identity, call,
    imports::{self, Refused},
    state::State,
};

/// Why bytes are no worker. Every node would say the same.
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
}

/// A worker that can be called; cheap to clone.
#[derive(Clone)]
pub struct Compiled {
    pre: ProxyPre<State>,
}

pub(crate) fn compile(
    engine: &wasmtime::Engine,
    linker: &Linker<State>,
    wasm: &[u8],
) -> Result<Compiled, CompileError> {
    imports::surface(wasm)?.check()?;
    let component = Component::from_binary(engine, wasm).map_err(|e| CompileError::Compile(format!("{e:#}")))?;
    let link = |e: wasmtime::Error| CompileError::Link(format!("{e:#}"));
    let pre = linker.instantiate_pre(&component).map_err(link)?;
    Ok(Compiled { pre: ProxyPre::new(pre).map_err(link)? })
}

impl Compiled {
    /// Runs the worker for one request, in a fresh instance, inside the caller's task. Resolves
    /// with the response's head; reading the body drives what the worker still does.
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
        call::call(self.pre.clone(), identity.clone(), limits, calls, request).await
    }

    /// Makes one instance and drops it: what cannot start is found before a request finds it. Blocks.
    ///
    /// # Errors
    /// [`Outcome::Shed`](crate::Outcome::Shed): no room now, try later. All else is the revision's fault.
    pub fn warm(&self, identity: &Arc<Identity>, limits: &Limits) -> Result<(), Failure> {
        call::warm(&self.pre, identity, limits)
    }
}
