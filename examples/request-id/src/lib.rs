//! Gives each request an id: upstream in `x-request-id`, and back to the client.

use passing::wasip2::{
    self, exports,
    http::types::{IncomingRequest, ResponseOutparam},
};

struct Worker;

wasip2::http::proxy::export!(Worker);

impl exports::http::incoming_handler::Guest for Worker {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let headers = request.headers().clone();
        // A client's own id is not trusted: it would let it pick the id of someone else's request.
        let (high, low) = (wasip2::random::random::get_random_u64(), wasip2::random::random::get_random_u64());
        let id = format!("{high:016x}{low:016x}");
        headers.set("x-request-id", &[id.clone().into_bytes()]).expect("a header");
        let onward = passing::onward(&request, headers);
        passing::forward(request, onward, out, |headers| {
            headers.set("x-request-id", &[id.into_bytes()]).expect("a header");
        });
    }
}
