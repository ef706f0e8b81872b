//! One step of a chain, as a worker of `wasi:http`: reads two headers, sets one. For measurements.

use passing::wasip2::{
    self, exports,
    http::types::{IncomingRequest, ResponseOutparam},
};

struct Worker;

wasip2::http::proxy::export!(Worker);

impl exports::http::incoming_handler::Guest for Worker {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let headers = request.headers().clone();
        let last = |name| headers.get(name).first().and_then(|v| v.last().copied()).unwrap_or(b'-');
        let value = vec![b'v', last("host"), last("user-agent")];
        headers.set("x-step", &[value]).expect("a header");
        let onward = passing::onward(&request, headers);
        passing::forward(request, onward, out, |_| {});
    }
}
