//! Sends old addresses to new ones; what came after them, and the query, goes along.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/request-filter" });

use exports::sluice::worker::on_request;
use sluice::worker::types::{Action, Answer, Request};

/// From, to, and whether for good.
const MOVED: [(&str, &str, bool); 3] =
    [("/blog", "/news", true), ("/help", "https://help.shop.example", true), ("/sale", "/offers/summer", false)];

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        let path = request.path_with_query();
        for (from, to, for_good) in MOVED {
            let Some(rest) = path.strip_prefix(from) else {
                continue;
            };
            if rest.is_empty() || rest.starts_with(['/', '?']) {
                return Action::Answer(Answer {
                    status: if for_good { 308 } else { 307 },
                    headers: vec![("location".to_owned(), format!("{to}{rest}").into_bytes())],
                    body: Vec::new(),
                });
            }
        }
        Action::Next
    }
}
