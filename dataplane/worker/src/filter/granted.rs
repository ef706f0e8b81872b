//! What a filter asks of its bindings: the chain knows them.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use sluice_egress::{Body, EgressError, empty, full};
use wasmtime::Result;

use super::{
    bindings::sluice::worker::{
        fetch::{FetchError, Host, Incoming, Outgoing},
        rate,
    },
    body::BODY_BYTES_MAX,
    fields::{Edits, HEAD_BYTES_MAX, head_bytes},
    held::State,
    message::clip,
};
use crate::{NextFuture, failure::Invalid};

/// The chain's side of filters' bindings.
pub trait Grants: Send + Sync + 'static {
    /// Sends a request of the worker at this place, where its bindings grant that.
    fn fetch(self: Arc<Self>, worker: usize, request: Request<Body>) -> NextFuture;

    /// Takes one of what a `rate` binding of the worker at this place allows for this key: how long it has to wait, if it has to.
    ///
    /// # Errors
    /// It has no such binding.
    fn take(&self, worker: usize, binding: &str, key: &str) -> Result<Option<Duration>, NoBinding>;
}

/// A worker has no binding of this name and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoBinding;

/// The bindings of one worker.
#[derive(Clone)]
pub struct Bindings {
    /// Of the client's request.
    pub chain: Arc<dyn Grants>,
    /// Its place in the chain.
    pub worker: usize,
}

/// Bytes of a key that is counted.
const KEY_BYTES_MAX: usize = 256;

impl rate::Host for State {
    fn take(&mut self, name: String, key: String) -> Result<Option<u64>> {
        let bindings = self.bindings()?;
        if key.len() > KEY_BYTES_MAX {
            return Err(Invalid(format!("it counts the key `{}`, which is longer than 256 bytes", clip(&key))).into());
        }
        let wait = bindings.chain.take(bindings.worker, &name, &key);
        let wait = wait.map_err(|NoBinding| Invalid(format!("it has no binding `{}` of a rate", clip(&name))))?;
        // Rounded up: after that long, it can.
        Ok(wait.map(|wait| u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)))
    }
}

impl Host for State {
    async fn send(&mut self, request: Outgoing, limit: u32) -> Result<Result<Incoming, FetchError>> {
        let request = outgoing(request)?;
        let bindings = self.bindings()?.clone();
        let response = match bindings.chain.fetch(bindings.worker, request).await {
            Ok(response) => response,
            Err(error) => return Ok(Err(why(&error))),
        };
        Ok(incoming(response, limit).await)
    }
}

fn outgoing(outgoing: Outgoing) -> Result<Request<Body>, Invalid> {
    let Outgoing { method, url, headers, body } = outgoing;
    let uri = url.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some() && uri.authority().is_some());
    let uri =
        uri.ok_or_else(|| Invalid(format!("it fetches `{}`: that is no URL, as in http://host/path", clip(&url))))?;
    let method = Method::from_bytes(method.as_bytes()).ok().filter(|method| *method != Method::CONNECT);
    let method = method.ok_or_else(|| Invalid(format!("it fetches `{}` by a method that is none", clip(&url))))?;
    if body.len() > BODY_BYTES_MAX {
        return Err(Invalid(format!("it sends a body of {} bytes: it may have 1 MiB", body.len())));
    }
    let mut request = Request::new(if body.is_empty() { empty() } else { full(body) });
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    // A journal over nothing: one place says what a header may be.
    let mut edits = Edits::default();
    for (name, value) in headers {
        edits.append(&name, value)?;
    }
    edits.check(&HeaderMap::new())?;
    edits.apply(request.headers_mut());
    Ok(request)
}

async fn incoming(response: Response<Body>, limit: u32) -> Result<Incoming, FetchError> {
    let (parts, body) = response.into_parts();
    if head_bytes(&parts.headers) > HEAD_BYTES_MAX {
        return Err(FetchError::TooLarge);
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(BODY_BYTES_MAX);
    let collected = Limited::new(body, limit).collect().await;
    let body = collected
        .map_err(|error| if error.is::<LengthLimitError>() { FetchError::TooLarge } else { FetchError::BrokenOff })?;
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    Ok(Incoming { status: parts.status.as_u16(), headers: headers.collect(), body: body.to_bytes().to_vec() })
}

/// What a guest is told. No more than it needs: errors name no addresses.
fn why(error: &EgressError) -> FetchError {
    match error {
        EgressError::NotGranted { .. }
        | EgressError::AddressDenied { .. }
        | EgressError::Unnamed { .. }
        | EgressError::Budget => FetchError::Denied,
        EgressError::Unknown { .. } | EgressError::Resolve { .. } | EgressError::Connect { .. } => {
            FetchError::Unreachable
        }
        EgressError::ConnectTimeout { .. } | EgressError::ResponseTimeout { .. } => FetchError::TimedOut,
        EgressError::Broken { .. } | EgressError::Request(_) => FetchError::BrokenOff,
    }
}
