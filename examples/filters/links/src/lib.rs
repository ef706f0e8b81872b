//! Puts the new address in place of the old one in all links of a page.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/filter" });

use exports::sluice::worker::{on_request, on_response};
use sluice::worker::types::{Action, Request, Response};

const OLD: &[u8] = b"http://legacy.shop.example";
const NEW: &[u8] = b"https://shop.example";
/// Larger pages stay as they are.
const PAGE_BYTES_MAX: u32 = 512 << 10;

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        // What is compressed cannot be read here.
        request.remove_header("accept-encoding");
        Action::Next
    }
}

impl on_response::Guest for Worker {
    fn handle(response: &Response) {
        let is_page = response.header("content-type").is_some_and(|value| value.starts_with(b"text/html"));
        if !is_page || response.header("content-encoding").is_some() {
            return;
        }
        let Ok(page) = response.body(PAGE_BYTES_MAX) else { return };
        if let Some(page) = replaced(&page) {
            response.set_body(&page);
            // It named the page as it was.
            response.remove_header("etag");
        }
    }
}

/// The page with new links, if it has old ones.
fn replaced(mut page: &[u8]) -> Option<Vec<u8>> {
    let find = |page: &[u8]| page.windows(OLD.len()).position(|window| window == OLD);
    let mut at = find(page)?;
    let mut done = Vec::with_capacity(page.len());
    loop {
        done.extend_from_slice(&page[..at]);
        done.extend_from_slice(NEW);
        page = &page[at + OLD.len()..];
        let Some(next) = find(page) else { break };
        at = next;
    }
    done.extend_from_slice(page);
    Some(done)
}
