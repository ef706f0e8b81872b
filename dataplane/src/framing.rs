//! Refuses requests whose end or host two readers could understand differently. What concerns
//! routing (paths, reserved hosts, CONNECT) is the chain's to refuse.

use http::{Request, Version, header};

/// Says what is ambiguous about a request's head. What hyper refuses itself is not repeated here.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("more than one Host header\n");
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err("no Host header\n");
    }
    let authority = request.uri().authority();
    if let (Some(authority), Some(host)) = (authority, host)
        && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
    {
        return Err("the request line names one host, the Host header another\n");
    }
    let trailing_chunked = request.headers().get_all(header::TRANSFER_ENCODING).iter().count();
    if trailing_chunked > 1 {
        return Err("more than one Transfer-Encoding header\n");
    }
    let coding = request.headers().get(header::TRANSFER_ENCODING);
    if coding.is_some_and(|c| !c.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err("the only transfer coding is chunked\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn one_host_and_one_only() {
        assert!(check(&request("/", &[("host", "a")])).is_ok());
        assert!(check(&request("http://a/", &[("host", "A")])).is_ok());
        for bad in [
            request("/", &[]),
            request("/", &[("host", "a"), ("host", "a")]),
            request("http://a/", &[("host", "b")]),
            request("/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")]),
            request("/", &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
