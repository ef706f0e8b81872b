//! One step of a chain, as a filter: reads two headers, sets one. For measurements.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/request-filter" });

use exports::sluice::worker::on_request;
use sluice::worker::types::{Action, Request};

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        let last = |name| request.header(name).and_then(|v| v.last().copied()).unwrap_or(b'-');
        request.set_header("x-step", &[b'v', last("host"), last("user-agent")]);
        Action::Next
    }
}
