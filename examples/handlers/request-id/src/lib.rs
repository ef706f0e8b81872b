//! Gives each request an id: upstream in `x-request-id`, and back to the client.

use next::wasip3::{
    self, exports,
    http::types::{ErrorCode, Request, Response},
    random::random::get_random_u64,
};

struct Worker;

wasip3::http::service::export!(Worker);

impl exports::http::handler::Guest for Worker {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        // A client's own id is not trusted: it would let it pick the id of someone else's request.
        let id = format!("{:016x}{:016x}", get_random_u64(), get_random_u64()).into_bytes();
        let headers = request.get_headers().clone();
        headers.set("x-request-id", std::slice::from_ref(&id)).expect("a header");
        let response = next::handle(next::onward(request, headers)).await?;
        next::back(response, |headers| headers.set("x-request-id", &[id]).expect("a header"))
    }
}
