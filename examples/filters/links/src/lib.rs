//! Puts the new address in place of the old one in all links of a page.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/filter" });

use exports::sluice::worker::{on_request, on_response};
use rules::links;
use sluice::worker::types::{Action, Request, Response};

/// Larger pages stay as they are.
const PAGE_BYTES_MAX: u32 = 512 << 10;

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        for name in links::NOT_SENT {
            request.remove_header(name);
        }
        Action::Next
    }
}

impl on_response::Guest for Worker {
    fn handle(response: &Response) {
        let is_page = response.header("content-type").is_some_and(|value| links::is_page(&value));
        if !is_page || response.header("content-encoding").is_some() {
            return;
        }
        let Ok(page) = response.body(PAGE_BYTES_MAX) else { return };
        if let Some(page) = links::whole(&page) {
            response.set_body(&page);
            // It named the page as it was.
            response.remove_header("etag");
        }
    }
}
