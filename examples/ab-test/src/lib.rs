//! Divides visitors into two halves by a cookie: the one half sees what is below `/b`. The upstream finds the half in
//! `x-ab-arm`.

use passing::wasip2::{
    self, exports,
    http::types::{IncomingRequest, ResponseOutparam},
};
use rules::arms;

struct Worker;

wasip2::http::proxy::export!(Worker);

impl exports::http::incoming_handler::Guest for Worker {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let headers = request.headers().clone();
        let known = arms::known(&headers.get("cookie"));
        let arm = known.unwrap_or_else(drawn);
        headers.set("x-ab-arm", &[vec![arm]]).expect("a header");
        let onward = passing::onward(&request, headers);
        if let Some(path) = arms::path(arm, &request.path_with_query().unwrap_or_default()) {
            onward.set_path_with_query(Some(&path)).expect("a path");
        }
        passing::forward(request, onward, out, |headers| {
            if known.is_none() {
                headers.append("set-cookie", arms::cookie(arm).as_bytes()).expect("a header");
            }
        });
    }
}

/// A half by lot.
fn drawn() -> u8 {
    if wasip2::random::random::get_random_u64() % 2 == 0 { b'a' } else { b'b' }
}
