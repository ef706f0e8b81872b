//! Lets through who has a token of the issuer's: a JWT, signed with ES256, in `authorization: Bearer`. Its subject goes to
//! the upstream in `x-user`, which no client can set.

use passing::wasip2::{
    self, exports,
    http::types::{Fields, IncomingRequest, ResponseOutparam},
};
use rules::token;

struct Worker;

wasip2::http::proxy::export!(Worker);

impl exports::http::incoming_handler::Guest for Worker {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let headers = request.headers().clone();
        match token::subject(&headers.get("authorization")) {
            Ok(subject) => {
                headers.set("x-user", &[subject.into_bytes()]).expect("a header");
                let onward = passing::onward(&request, headers);
                passing::forward(request, onward, out, |_| {});
            }
            Err(why) => {
                let headers = Fields::new();
                headers.set("www-authenticate", &[token::challenge(why).into_bytes()]).expect("a header");
                headers.set("content-type", &[b"text/plain".to_vec()]).expect("a header");
                passing::answer_with(out, 401, headers, &format!("{why}\n"));
            }
        }
    }
}
