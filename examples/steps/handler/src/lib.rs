//! One step of a chain, as a worker of `wasi:http` 0.3: reads two headers, sets one. For measurements.

use next::wasip3::{
    self, exports,
    http::types::{ErrorCode, Request, Response},
};

struct Worker;

wasip3::http::service::export!(Worker);

impl exports::http::handler::Guest for Worker {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let headers = request.get_headers().clone();
        let last = |name| headers.get(name).first().and_then(|v| v.last().copied()).unwrap_or(b'-');
        let value = vec![b'v', last("host"), last("user-agent")];
        headers.set("x-step", &[value]).expect("a header");
        next::handle(next::onward(request, headers)).await
    }
}
