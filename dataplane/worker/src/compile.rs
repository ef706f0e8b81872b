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
    /// This machine had no memory for it.
    #[error("cannot be compiled here and now: {0}")]
    Local(String),
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
    let component = Component::from_binary(engine, wasm).map_err(|e| error(&e, CompileError::Compile))?;
    let link = |e: wasmtime::Error| error(&e, CompileError::Link);
    let pre = linker.instantiate_pre(&component).map_err(link)?;
    Ok(Compiled { pre: ProxyPre::new(pre).map_err(link)? })
}

fn error(error: &wasmtime::Error, kind: impl FnOnce(String) -> CompileError) -> CompileError {
    let why = format!("{error:#}");
    if is_local(error) { CompileError::Local(why) } else { kind(why) }
}

/// Whether the system refused something (memory, mostly) outside of any guest: whose fault that is, the
/// component cannot say.
pub(crate) fn is_local(error: &wasmtime::Error) -> bool {
    let system = |e: &(dyn std::error::Error + 'static)| {
        e.is::<std::io::Error>() || e.is::<rustix::io::Errno>() || e.is::<wasmtime::OutOfMemory>()
    };
    error.downcast_ref::<wasmtime::WasmBacktrace>().is_none() && error.chain().any(system)
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

    /// Makes one instance and drops it: what cannot start is found before a request finds it. To be polled
    /// off the serving threads, within a Tokio runtime; over after half a minute.
    ///
    /// # Errors
    /// [`Outcome::Shed`](crate::Outcome::Shed): no room now, try later. All else is the revision's fault.
    pub async fn warm(&self, identity: &Arc<Identity>, limits: &Limits) -> Result<(), Failure> {
        call::warm(self.pre.clone(), identity, limits).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_is_not_the_components_fault() {
        let io = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        assert!(is_local(&wasmtime::Error::from(io()).context("mmap failed to allocate 0x1000 bytes")));
        assert!(is_local(&wasmtime::Error::from(rustix::io::Errno::NOMEM).context("cannot make it accessible")));
        assert!(!is_local(&wasmtime::Error::msg("invalid magic number")));
        let compiled = error(&wasmtime::Error::from(io()), CompileError::Compile);
        assert!(matches!(compiled, CompileError::Local(_)), "{compiled}");
    }
}
