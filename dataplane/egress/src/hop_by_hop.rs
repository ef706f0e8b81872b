//! Headers that belong to one connection and are never passed on.

use http::{HeaderMap, HeaderName, header::CONNECTION};

/// Whether a header is one of them.
#[must_use]
pub fn is_one(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Removes them, and those that `Connection` names.
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .filter(|name| !END_TO_END.contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    // One look at those that are there, mostly in vain, costs less than nine lookups.
    while let Some(name) = headers.keys().find(|name| is_one(name)).cloned() {
        headers.remove(name);
    }
}

/// What a client may not take off by naming it in `Connection`: framing, and what routes.
const END_TO_END: [HeaderName; 2] = [http::header::HOST, http::header::CONTENT_LENGTH];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connection_names_goes_but_not_what_frames_or_routes() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop, Content-Length, Host"),
            ("x-hop", "1"),
            ("x-end", "1"),
            ("content-length", "3"),
            ("host", "shop"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "5"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-end"]);
    }
}
