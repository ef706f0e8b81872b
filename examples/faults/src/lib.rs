//! Does what the request tells it to: the header `x-do` lists one step per worker of the chain,
//! separated by commas; each takes the first and passes the rest on. No step is `pass`.

mod steps;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use passing::wasip2::{
    self, exports,
    http::types::{IncomingRequest, ResponseOutparam},
};

struct Worker;

wasip2::http::proxy::export!(Worker);

/// Calls that this instance has had.
static CALLS: AtomicUsize = AtomicUsize::new(0);

impl exports::http::incoming_handler::Guest for Worker {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        CALLS.fetch_add(1, Relaxed);
        let headers = request.headers().clone();
        let script = headers.get("x-do").first().and_then(|v| String::from_utf8(v.clone()).ok()).unwrap_or_default();
        let (step, rest) = script.split_once(',').unwrap_or((&script, ""));
        headers.set("x-do", &[rest.trim().into()]).expect("a header");
        let (verb, argument) = step.trim().split_once(':').unwrap_or((step.trim(), ""));
        steps::run(verb, argument, request, headers, out);
    }
}
