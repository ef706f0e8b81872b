//! Sends old addresses to new ones.

use passing::wasip2::{
    self, exports,
    http::types::{Fields, IncomingRequest, ResponseOutparam},
};

struct Worker;

wasip2::http::proxy::export!(Worker);

impl exports::http::incoming_handler::Guest for Worker {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        match rules::redirects::moved(&path) {
            Some((status, location)) => {
                let headers = Fields::new();
                headers.set("location", &[location.into_bytes()]).expect("a header");
                passing::answer_with(out, status, headers, "");
            }
            None => {
                let onward = passing::onward(&request, request.headers().clone());
                passing::forward(request, onward, out, |_| {});
            }
        }
    }
}
