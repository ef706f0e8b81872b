//! Adds the headers that every response of a site should have.

use arena as _;

#[cfg(not(feature = "v2"))]
wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/response-filter" });
#[cfg(feature = "v2")]
wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/filter" });

#[cfg(feature = "v2")]
mod bug;

use exports::sluice::worker::on_response;
use sluice::worker::types::Response;

const HEADERS: [(&str, &str); 5] = [
    ("strict-transport-security", "max-age=31536000; includeSubDomains"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
];

/// The demo's releases say which of them was at work.
const RELEASE: Option<&str> = if cfg!(feature = "v3") {
    Some("security-headers/v3")
} else if cfg!(feature = "v2") {
    Some("security-headers/v2")
} else if cfg!(feature = "v1") {
    Some("security-headers/v1")
} else {
    None
};

struct Worker;

export!(Worker);

impl on_response::Guest for Worker {
    fn handle(response: &Response) {
        for (name, value) in HEADERS {
            // What the application sets itself stays.
            if response.header(name).is_none() {
                response.set_header(name, value.as_bytes());
            }
        }
        if let Some(release) = RELEASE {
            response.append_header("x-sluice-worker", release.as_bytes());
        }
    }
}
