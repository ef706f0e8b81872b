//! Headers that belong to one connection and are never passed on.

use http::{
    HeaderMap, HeaderName,
    header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
};

const ALWAYS: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Whether a header is one of them.
#[must_use]
pub fn is_one(name: &HeaderName) -> bool {
    ALWAYS.contains(name)
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
    for name in ALWAYS {
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
