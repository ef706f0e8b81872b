//! Imports what nothing grants.

use passing::wasip2::{
    self, exports,
    http::types::{IncomingRequest, ResponseOutparam},
};

wit_bindgen::generate!({ world: "ungranted", path: "wit" });

struct Worker;

wasip2::http::proxy::export!(Worker);

impl exports::http::incoming_handler::Guest for Worker {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let secret = example::vault::secrets::read("key");
        passing::answer(out, 200, &secret);
    }
}
