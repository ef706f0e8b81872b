//! Adds the headers that every response of a site should have.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/response-filter" });

use exports::sluice::worker::on_response;
use sluice::worker::types::Response;

const HEADERS: [(&str, &str); 5] = [
    ("strict-transport-security", "max-age=31536000; includeSubDomains"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
];

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
    }
}
