//! Puts the new address in place of the old one in all links of a page. It is streamed, and may be larger than what a filter reads.

use passing::wasip2::{
    self, exports,
    http::types::{Fields, IncomingRequest, ResponseOutparam},
};
use rules::links::{NOT_SENT, Page, is_page};

struct Worker;

wasip2::http::proxy::export!(Worker);

impl exports::http::incoming_handler::Guest for Worker {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let headers = request.headers().clone();
        for name in NOT_SENT {
            headers.delete(name).expect("a header");
        }
        let onward = passing::onward(&request, headers);
        passing::forward_changed(request, onward, out, edit);
    }
}

/// The headers of a page with new links, and what makes one.
fn edit(headers: &Fields) -> Option<Box<dyn passing::Change>> {
    if !headers.get("content-type").first().is_some_and(|value| is_page(value)) || headers.has("content-encoding") {
        return None;
    }
    // Of the page as it was.
    for name in ["content-length", "etag"] {
        headers.delete(name).expect("a header");
    }
    Some(Box::new(Links(Page::default())))
}

struct Links(Page);

impl passing::Change for Links {
    fn piece(&mut self, piece: &[u8]) -> Vec<u8> {
        self.0.piece(piece)
    }

    fn rest(&mut self) -> Vec<u8> {
        self.0.rest()
    }
}
