//! Gives each request an id: upstream in `x-request-id`, and back to the client.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/filter" });

use exports::sluice::worker::{on_request, on_response};
use sluice::worker::{
    state,
    types::{Action, Request, Response},
};
use wasip2::random::random::get_random_u64;

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        let id = format!("{:016x}{:016x}", get_random_u64(), get_random_u64());
        // A client's own id is not trusted: it would let it pick the id of someone else's request.
        request.set_header("x-request-id", id.as_bytes());
        state::set(id.as_bytes());
        Action::Next
    }
}

impl on_response::Guest for Worker {
    fn handle(response: &Response) {
        response.set_header("x-request-id", &state::get());
    }
}
