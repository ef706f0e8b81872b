//! Divides visitors into two halves by a cookie: the one half sees what is below `/b`. The other workers of the chain find
//! the half in the note `arm`, the upstream in `x-ab-arm`.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/filter" });

use exports::sluice::worker::{on_request, on_response};
use rules::arms;
use sluice::worker::{
    notes, state,
    types::{Action, Request, Response},
};

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        let known = arms::known(&request.header_values("cookie"));
        let arm = known.unwrap_or_else(|| drawn(request));
        request.set_header("x-ab-arm", &[arm]);
        notes::set("arm", &[arm]);
        if known.is_none() {
            // For the way back: the visitor is told.
            state::set(&[arm]);
        }
        if let Some(path) = arms::path(arm, &request.path_with_query()) {
            request.set_path_with_query(&path);
        }
        Action::Next
    }
}

impl on_response::Guest for Worker {
    fn handle(response: &Response) {
        if let [arm] = state::get()[..] {
            response.append_header("set-cookie", arms::cookie(arm).as_bytes());
        }
    }
}

/// A half by the client's address: the same one again for whoever refuses cookies.
fn drawn(request: &Request) -> u8 {
    let hash = request
        .client_address()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    if hash.count_ones() % 2 == 0 { b'a' } else { b'b' }
}
