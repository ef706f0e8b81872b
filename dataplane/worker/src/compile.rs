//! From bytes to a worker that can be called.

use std::sync::Arc;

use http::{Request, Response};
use sluice_config::Limits;
use sluice_egress::Body;

use crate::{Calls, Failure, Identity, imports::Refused};

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
pub struct Compiled;

impl Compiled {
    /// Runs the worker for one request, in a fresh instance, inside the caller's task. Resolves
    /// with the response's head; the body drives what the worker still does.
    ///
    /// # Errors
    /// The worker failed before its response's head. [`Calls::ended`] has been told.
    pub async fn call(
        &self,
        _identity: &Arc<Identity>,
        _limits: &Limits,
        _calls: Arc<dyn Calls>,
        _request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        todo!()
    }
}
