//! Divides visitors into two halves by a cookie: the one half sees what is below `/b`. The other workers of the chain find
//! the half in the note `arm`, the upstream in `x-ab-arm`.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/filter" });

use exports::sluice::worker::{on_request, on_response};
use sluice::worker::{
    notes, state,
    types::{Action, Request, Response},
};

const COOKIE: &str = "ab-arm=";

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        let known = known(request);
        let arm = known.unwrap_or_else(|| drawn(request));
        request.set_header("x-ab-arm", &[arm]);
        notes::set("arm", &[arm]);
        if known.is_none() {
            // For the way back: the visitor is told.
            state::set(&[arm]);
        }
        if arm == b'b' {
            request.set_path_with_query(&format!("/b{}", request.path_with_query()));
        }
        Action::Next
    }
}

impl on_response::Guest for Worker {
    fn handle(response: &Response) {
        if let [arm] = state::get()[..] {
            let cookie = format!("{COOKIE}{}; Path=/; Max-Age=2592000; SameSite=Lax", char::from(arm));
            response.append_header("set-cookie", cookie.as_bytes());
        }
    }
}

/// The half that the visitor was in before.
fn known(request: &Request) -> Option<u8> {
    let cookies = request.header_values("cookie");
    let mut each = cookies.iter().flat_map(|header| header.split(|b| *b == b';'));
    each.find_map(|cookie| match cookie.trim_ascii().strip_prefix(COOKIE.as_bytes()) {
        Some([arm @ (b'a' | b'b')]) => Some(*arm),
        _ => None,
    })
}

/// A half by the client's address: the same one again for whoever refuses cookies.
fn drawn(request: &Request) -> u8 {
    let hash = request
        .client_address()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    if hash.count_ones() % 2 == 0 { b'a' } else { b'b' }
}
