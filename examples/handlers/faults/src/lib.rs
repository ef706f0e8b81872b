//! Does what the request tells it to: the header `x-do` lists one step per worker of the chain,
//! separated by commas; each takes the first and passes the rest on. No step is `pass`.

mod steps;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use next::wasip3::{
    self, exports,
    http::types::{ErrorCode, Request, Response},
};

struct Worker;

wasip3::http::service::export!(Worker);

/// Calls that this instance has had.
static CALLS: AtomicUsize = AtomicUsize::new(0);

impl exports::http::handler::Guest for Worker {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        CALLS.fetch_add(1, Relaxed);
        let headers = request.get_headers().clone();
        let script = headers.get("x-do").first().and_then(|v| String::from_utf8(v.clone()).ok()).unwrap_or_default();
        let (step, rest) = script.split_once(',').unwrap_or((&script, ""));
        headers.set("x-do", &[rest.trim().into()]).expect("a header");
        let (verb, argument) = step.trim().split_once(':').unwrap_or((step.trim(), ""));
        steps::run(verb, argument, request, headers).await
    }
}
