//! Messages in a guest's hands: as they came, and over them what the guest changes.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_LENGTH, HOST},
    request, response,
    uri::{Authority, PathAndQuery, Scheme},
};
use sluice_egress::{Body, empty, full};

use super::{
    Chosen, Spelling,
    bindings::sluice::worker::types::Answer,
    body::{BODY_BYTES_MAX, BodyHeld},
    fields::Edits,
};
use crate::failure::Invalid;

/// Gives a request its absolute URI and its `Host`.
///
/// # Errors
/// They are none together.
pub fn address(parts: &mut request::Parts, authority: &Authority, path: PathAndQuery) -> Result<(), http::Error> {
    Address::of(authority, path)?.write(parts);
    Ok(())
}

/// Where a request goes.
pub(super) struct Address {
    uri: Uri,
    host: HeaderValue,
}

impl Address {
    fn of(authority: &Authority, path: PathAndQuery) -> Result<Self, http::Error> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(authority.clone());
        uri.path_and_query = Some(path);
        Ok(Self { uri: Uri::from_parts(uri)?, host: HeaderValue::from_str(authority.as_str())? })
    }

    fn write(self, parts: &mut request::Parts) {
        parts.uri = self.uri;
        parts.headers.insert(HOST, self.host);
    }
}

pub(super) struct RequestHeld {
    parts: request::Parts,
    pub(super) body: BodyHeld,
    pub(super) edits: Edits,
    method: Option<Method>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    chosen: Option<Chosen>,
}

impl RequestHeld {
    pub(super) fn new(request: Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        let body = BodyHeld::new(body);
        Self { parts, body, edits: Edits::default(), method: None, authority: None, path: None, chosen: None }
    }

    pub(super) fn headers(&self) -> &http::HeaderMap {
        &self.parts.headers
    }

    pub(super) fn method(&self) -> &str {
        self.method.as_ref().unwrap_or(&self.parts.method).as_str()
    }

    pub(super) fn set_method(&mut self, method: &str) -> Result<(), Invalid> {
        let invalid = |why: &str| Invalid(format!("it sets the method `{}`: {why}", clip(method)));
        let parsed = Method::from_bytes(method.as_bytes()).map_err(|_| invalid("that is none"))?;
        if parsed == Method::CONNECT {
            return Err(invalid("no tunnels are made"));
        }
        // What answers HEAD has the length of a body, and no body.
        if (parsed == Method::HEAD) != (self.parts.method == Method::HEAD) {
            return Err(invalid("HEAD stays HEAD, and nothing else becomes it"));
        }
        self.method = Some(parsed);
        Ok(())
    }

    pub(super) fn authority(&self) -> &str {
        let there = self.authority.as_ref().or_else(|| self.parts.uri.authority());
        there.map_or("", Authority::as_str)
    }

    pub(super) fn set_authority(&mut self, authority: &str, spelling: Spelling) -> Result<(), Invalid> {
        let invalid = |why: String| Invalid(format!("it sets the authority `{}`: {why}", clip(authority)));
        let parsed = Authority::try_from(authority).map_err(|_| invalid("that is none".to_owned()))?;
        (spelling.authority)(parsed.as_str()).map_err(invalid)?;
        self.authority = Some(parsed);
        Ok(())
    }

    pub(super) fn path(&self) -> &str {
        let there = self.path.as_ref().or_else(|| self.parts.uri.path_and_query());
        there.map_or("/", PathAndQuery::as_str)
    }

    pub(super) fn set_path(&mut self, path: &str, spelling: Spelling) -> Result<(), Invalid> {
        let invalid = |why: String| Invalid(format!("it sets the path `{}`: {why}", clip(path)));
        if !path.starts_with('/') {
            return Err(invalid("a path begins with /".to_owned()));
        }
        let parsed = PathAndQuery::try_from(path).map_err(|_| invalid("that is none".to_owned()))?;
        (spelling.path)(&parsed).map_err(invalid)?;
        self.path = Some(parsed);
        Ok(())
    }

    pub(super) fn set_upstream(&mut self, name: &str, upstreams: &[String]) -> Result<(), Invalid> {
        let place = upstreams.iter().position(|upstream| upstream == name);
        let invalid = || {
            let known = if upstreams.is_empty() { "none".to_owned() } else { upstreams.join(", ") };
            Invalid(format!("it chooses the upstream `{}`: beside the first, its route has {known}", clip(name)))
        };
        self.chosen = Some(Chosen(place.ok_or_else(invalid)?));
        Ok(())
    }

    /// Whether the request can be what the guest made of it, and where it goes if that is elsewhere.
    pub(super) fn check(&self) -> Result<Option<Address>, Invalid> {
        self.edits.check(&self.parts.headers)?;
        if self.authority.is_none() && self.path.is_none() {
            return Ok(None);
        }
        let authority = self.authority.as_ref().or_else(|| self.parts.uri.authority());
        let authority = authority.ok_or_else(|| Invalid("the request has no host".to_owned()))?;
        let path = self.path.as_ref().or_else(|| self.parts.uri.path_and_query()).cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Address::of(authority, path).map(Some).map_err(|e| Invalid(format!("the request goes nowhere: {e}")))
    }

    /// As the guest made it.
    pub(super) fn edited(mut self, elsewhere: Option<Address>) -> Request<Body> {
        if let Some(method) = self.method {
            self.parts.method = method;
        }
        self.edits.apply(&mut self.parts.headers);
        if let Some(chosen) = self.chosen {
            self.parts.extensions.insert(chosen);
        }
        if let Some(elsewhere) = elsewhere {
            elsewhere.write(&mut self.parts);
        }
        Request::from_parts(self.parts, self.body.give_back())
    }

    /// As it came.
    pub(super) fn unchanged(self) -> Request<Body> {
        Request::from_parts(self.parts, self.body.give_back())
    }
}

pub(super) struct ResponseHeld {
    parts: response::Parts,
    pub(super) body: BodyHeld,
    pub(super) edits: Edits,
    status: Option<StatusCode>,
    replaced: Option<Bytes>,
}

impl ResponseHeld {
    pub(super) fn new(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        Self { parts, body: BodyHeld::new(body), edits: Edits::default(), status: None, replaced: None }
    }

    pub(super) fn headers(&self) -> &http::HeaderMap {
        &self.parts.headers
    }

    pub(super) fn status(&self) -> u16 {
        self.status.unwrap_or(self.parts.status).as_u16()
    }

    pub(super) fn set_status(&mut self, status: u16) -> Result<(), Invalid> {
        self.status = Some(self::status(status)?);
        Ok(())
    }

    pub(super) fn replaced(&self) -> Option<&Bytes> {
        self.replaced.as_ref()
    }

    pub(super) fn set_body(&mut self, body: Vec<u8>) -> Result<(), Invalid> {
        self.replaced = Some(bounded(body)?);
        Ok(())
    }

    /// Whether the response can be what the guest made of it.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        self.edits.check(&self.parts.headers)
    }

    /// As the guest made it.
    pub(super) fn edited(mut self) -> Response<Body> {
        self.edits.apply(&mut self.parts.headers);
        let changes_status = self.status.is_some_and(|status| status != self.parts.status);
        if let Some(status) = self.status {
            self.parts.status = status;
        }
        let body = match self.replaced {
            _ if changes_status && has_no_body(self.parts.status) => {
                self.parts.headers.remove(CONTENT_LENGTH);
                empty()
            }
            Some(_) if has_no_body(self.parts.status) => self.body.give_back(),
            Some(body) => {
                // The listener says how long it is.
                self.parts.headers.remove(CONTENT_LENGTH);
                full(body)
            }
            None => self.body.give_back(),
        };
        Response::from_parts(self.parts, body)
    }

    /// As it came.
    pub(super) fn unchanged(self) -> Response<Body> {
        Response::from_parts(self.parts, self.body.give_back())
    }
}

/// What a guest answers with.
pub(super) fn answer(answer: Answer) -> Result<Response<Body>, Invalid> {
    let Answer { status, headers, body } = answer;
    let status = self::status(status)?;
    let body = bounded(body)?;
    if has_no_body(status) && !body.is_empty() {
        return Err(Invalid(format!("it answers {status} with a body")));
    }
    let mut response = Response::new(if body.is_empty() { empty() } else { full(body) });
    *response.status_mut() = status;
    // A journal over nothing: one place says what a header may be.
    let mut edits = Edits::default();
    for (name, value) in headers {
        edits.append(&name, value)?;
    }
    edits.apply(response.headers_mut());
    Ok(response)
}

fn status(status: u16) -> Result<StatusCode, Invalid> {
    match StatusCode::from_u16(status) {
        Ok(parsed) if (200..600).contains(&status) => Ok(parsed),
        Ok(_) | Err(_) => Err(Invalid(format!("{status} is no status from 200 to 599"))),
    }
}

fn bounded(body: Vec<u8>) -> Result<Bytes, Invalid> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Invalid(format!("a body of {} bytes: it may have 1 MiB", body.len())));
    }
    Ok(body.into())
}

fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What a guest said, fit for a log.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(80).collect::<String>().escape_debug().to_string()
}
