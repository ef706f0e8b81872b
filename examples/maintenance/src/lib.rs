//! Answers all but some with a maintenance page.

use passing::wasip2::{
    self, exports,
    http::types::{Fields, IncomingRequest, ResponseOutparam},
};
use rules::maintenance::{HEADERS, PAGE, may_pass};

struct Worker;

wasip2::http::proxy::export!(Worker);

impl exports::http::incoming_handler::Guest for Worker {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let headers = request.headers().clone();
        if may_pass(&headers.get("cookie"), &request.path_with_query().unwrap_or_default()) {
            let onward = passing::onward(&request, headers);
            return passing::forward(request, onward, out, |_| {});
        }
        let headers = Fields::new();
        for (name, value) in HEADERS {
            headers.set(name, &[value.into()]).expect("a header");
        }
        passing::answer_with(out, 503, headers, PAGE);
    }
}
