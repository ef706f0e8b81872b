//! The first look at a request: what is ambiguous, forbidden or too large goes no further.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONNECTION, CONTENT_LENGTH, HOST, RETRY_AFTER, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery},
};
use http_body_util::BodyExt;
use sluice_egress::{Body, BodyError, full, hop_by_hop, timed};
use sluice_worker::{HEAD_BYTES_MAX, NEXT_AUTHORITY, UPSTREAM, address, head_bytes};

use crate::{ClientInfo, place::Place};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Why a request goes no further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    why: String,
}

impl Refusal {
    fn bad(why: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why)
    }

    pub(crate) fn new(status: StatusCode, why: impl ToString) -> Self {
        Self { status, why: why.to_string() }
    }

    pub(crate) fn response(self) -> Response<Body> {
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            return no_room(&self.why);
        }
        let mut response = plain(self.status, &self.why);
        if self.status == StatusCode::BAD_REQUEST {
            // Where framing may be in doubt, nothing more is read from the connection.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }
}

/// What is shed, and has taken no effect, may come again in a second.
pub(crate) fn no_room(why: &str) -> Response<Body> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A response that the proxy makes.
pub(crate) fn plain(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("{why}\n")));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    response
}

/// Whether the headers are more than workers are given, so that a client's are never a worker's failure.
pub(crate) fn too_large(headers: &HeaderMap) -> bool {
    head_bytes(headers) > HEAD_BYTES_MAX
}

/// A request as the chain passes it along, and where it goes: absolute URI, one `Host`, no headers
/// of the client's connection.
pub(crate) fn accept<B>(
    request: Request<B>,
    client: &ClientInfo,
    body_idle: Duration,
) -> Result<(Request<Body>, Place), Refusal>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let (mut parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "no CONNECT"));
    }
    if too_large(&parts.headers) {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Refusal::new(status, "the headers are larger than 64 KiB"));
    }
    framing(&parts.headers)?;
    let authority = authority(&parts.uri, &parts.headers)?;
    let path = match parts.uri.path_and_query() {
        Some(path) => path.clone(),
        None => PathAndQuery::from_static("/"),
    };
    let place = Place::of(authority.as_str(), &path).map_err(Refusal::bad)?;
    if place.host == NEXT_AUTHORITY {
        return Err(Refusal::bad("this host is reserved"));
    }
    address(&mut parts, &authority, path).map_err(Refusal::bad)?;
    hop_by_hop::strip(&mut parts.headers);
    forwarded(&mut parts.headers, client);
    let body = body.map_err(|e| BodyError::Client(e.to_string()));
    let body = timed(body, body_idle, BodyError::Client);
    Ok((Request::from_parts(parts, body), place))
}

/// Two lengths are two meanings.
fn framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    if lengths > 1 || (lengths == 1 && headers.contains_key(TRANSFER_ENCODING)) {
        return Err(Refusal::bad("the length is given twice"));
    }
    Ok(())
}

/// What the request line or `Host` names; where both do, they agree.
fn authority(uri: &Uri, headers: &HeaderMap) -> Result<Authority, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(host), None) => {
            let host = Authority::try_from(host.as_bytes());
            Some(host.map_err(|_| Refusal::bad("Host is not a host"))?)
        }
        (Some(_), Some(_)) => return Err(Refusal::bad("Host is given twice")),
    };
    match (uri.authority(), header) {
        (None, None) => Err(Refusal::bad("no Host")),
        (Some(line), Some(header)) if *line != header => Err(Refusal::bad("Host and the request line differ")),
        (Some(line), _) => Ok(line.clone()),
        (None, Some(header)) => Ok(header),
    }
}

/// Workers and upstreams see the client only through these; what is said within the chain is not for it to say.
fn forwarded(headers: &mut HeaderMap, client: &ClientInfo) {
    headers.remove(UPSTREAM);
    headers.append(FORWARDED_FOR, client.named.clone());
    let proto = if client.tls { "https" } else { "http" };
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;

    fn accepted(request: http::request::Builder) -> Result<Place, u16> {
        let client = ClientInfo::new("[::ffff:192.0.2.7]:1".parse().unwrap(), true);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        match accept(request, &client, sluice_egress::IDLE_TIMEOUT) {
            Ok((request, place)) => {
                assert_eq!(request.headers()["x-forwarded-for"], "192.0.2.7");
                assert_eq!(request.headers()["x-forwarded-proto"], "https");
                assert_eq!(request.uri().host().unwrap(), request.headers()[HOST]);
                Ok(place)
            }
            Err(refusal) => Err(refusal.status.as_u16()),
        }
    }

    #[test]
    fn the_host_comes_from_the_line_or_the_header_and_they_must_agree() {
        let shop = Place { host: "shop.example".into(), path: "/x".into() };
        let get = |uri: &str| Request::get(uri);
        assert_eq!(accepted(get("/x?q").header(HOST, "Shop.Example")), Ok(shop.clone()));
        assert_eq!(accepted(get("http://shop.example/x")), Ok(shop.clone()));
        assert_eq!(accepted(get("http://shop.example/x").header(HOST, "shop.example")), Ok(shop));
        for bad in [
            get("/x"),
            get("/x").header(HOST, "a").header(HOST, "a"),
            get("http://a/x").header(HOST, "b"),
            get("/x").header(HOST, "a b"),
            get("/x").header(HOST, "u@shop.example"),
            get("/x/../y").header(HOST, "a"),
        ] {
            assert_eq!(accepted(bad), Err(400));
        }
    }

    #[test]
    fn the_reserved_host_is_refused_in_every_spelling() {
        for host in ["next.sluice", "NEXT.sluice", "next.sluice:80", "next.sluice."] {
            assert_eq!(accepted(Request::get("/").header(HOST, host)), Err(400), "{host}");
            assert_eq!(accepted(Request::get(format!("http://{host}/"))), Err(400), "{host}");
        }
    }

    #[test]
    fn two_lengths_connect_and_floods_are_refused() {
        let post = || Request::post("/").header(HOST, "a");
        assert_eq!(accepted(post().header("content-length", 0).header("transfer-encoding", "chunked")), Err(400));
        assert_eq!(accepted(post().header("content-length", 0).header("content-length", 0)), Err(400));
        assert_eq!(accepted(Request::connect("a:80").header(HOST, "a:80")), Err(405));
        assert_eq!(accepted(post().header("x", "v".repeat(66_000))), Err(431));
    }
}
