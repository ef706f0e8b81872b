//! Answers every request.

use wasip3::{
    exports,
    http::types::{ErrorCode, Fields, Request, Response},
    wit_bindgen, wit_future, wit_stream,
};

struct Worker;

wasip3::http::service::export!(Worker);

impl exports::http::handler::Guest for Worker {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let (mut body, reader) = wit_stream::new();
        let (_trailers, no_trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(reader), no_trailers);
        wit_bindgen::spawn_local(async move {
            let _unread = body.write_all(b"hello\n".to_vec()).await;
        });
        Ok(response)
    }
}
