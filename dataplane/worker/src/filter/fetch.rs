//! Requests of a filter's own: the chain knows where to.

use std::sync::Arc;

use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use sluice_egress::{Body, EgressError, empty, full};
use wasmtime::Result;

use super::{
    bindings::sluice::worker::fetch::{FetchError, Host, Incoming, Outgoing},
    body::BODY_BYTES_MAX,
    fields::{Edits, HEAD_BYTES_MAX, head_bytes},
    held::State,
};
use crate::{NextFuture, failure::Invalid};

/// The chain's side of filters' own requests.
pub trait Fetches: Send + Sync + 'static {
    /// Sends a request of the worker at this place, where its bindings grant that.
    fn fetch(self: Arc<Self>, worker: usize, request: Request<Body>) -> NextFuture;
}

/// Sends the requests of one worker.
#[derive(Clone)]
pub struct Fetcher {
    /// Of the client's request.
    pub chain: Arc<dyn Fetches>,
    /// Its place in the chain.
    pub worker: usize,
}

impl Host for State {
    async fn send(&mut self, request: Outgoing, limit: u32) -> Result<Result<Incoming, FetchError>> {
        let request = outgoing(request)?;
        let fetcher = self.fetcher.clone().ok_or_else(|| Invalid("no request runs".to_owned()))?;
        let response = match fetcher.chain.fetch(fetcher.worker, request).await {
            Ok(response) => response,
            Err(error) => return Ok(Err(why(&error))),
        };
        Ok(incoming(response, limit).await)
    }
}

fn outgoing(outgoing: Outgoing) -> Result<Request<Body>, Invalid> {
    let Outgoing { method, url, headers, body } = outgoing;
    let clipped = || url.chars().take(80).collect::<String>().escape_debug().to_string();
    let uri = url.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some() && uri.authority().is_some());
    let uri =
        uri.ok_or_else(|| Invalid(format!("it fetches `{}`: that is no URL, as in http://host/path", clipped())))?;
    let method = Method::from_bytes(method.as_bytes()).ok().filter(|method| *method != Method::CONNECT);
    let method = method.ok_or_else(|| Invalid(format!("it fetches `{}` by a method that is none", clipped())))?;
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
