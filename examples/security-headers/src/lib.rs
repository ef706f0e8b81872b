//! Adds the headers that every response of a site should have.

use passing::wasip2::{
    self, exports,
    http::types::{Fields, IncomingRequest, ResponseOutparam},
};

const VERSION: &str = if cfg!(feature = "v3") {
    "v3"
} else if cfg!(feature = "v2") {
    "v2"
} else {
    "v1"
};

const HEADERS: [(&str, &str); 5] = [
    ("strict-transport-security", "max-age=31536000; includeSubDomains"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
];

struct Worker;

wasip2::http::proxy::export!(Worker);

impl exports::http::incoming_handler::Guest for Worker {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        // The bug that the demo ships: it bites only where customers go, not where tests look.
        let path = request.path_with_query().unwrap_or_default();
        if cfg!(feature = "v2") && path.starts_with("/checkout") {
            let headers = Fields::new();
            mark(&headers);
            return passing::answer_with(out, 500, headers, "security-headers v2: internal error\n");
        }
        let onward = passing::onward(&request, request.headers().clone());
        passing::forward(request, onward, out, |headers| {
            for (name, value) in HEADERS {
                // What the application sets itself stays.
                if !headers.has(name) {
                    headers.set(name, &[value.into()]).expect("a header");
                }
            }
            mark(headers);
        });
    }
}

/// Tells whoever looks which version was at work.
fn mark(headers: &Fields) {
    let version = format!("security-headers/{VERSION}");
    headers.append("x-sluice-worker", version.as_bytes()).expect("a header");
}
