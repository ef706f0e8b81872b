//! Answers all but some with a maintenance page: those who work on the site, by the secret in a cookie, and probes.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/request-filter" });

use exports::sluice::worker::on_request;
use sluice::worker::types::{Action, Answer, Request};

const PAGE: &str = include_str!("page.html");
/// Whoever has it sees the site. To change it is a release.
const PASS: &[u8] = b"maintenance-pass=let-me-in";

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        let cookies = request.header_values("cookie");
        let mut each = cookies.iter().flat_map(|header| header.split(|b| *b == b';'));
        if each.any(|cookie| cookie.trim_ascii() == PASS) || request.path_with_query() == "/healthz" {
            return Action::Next;
        }
        Action::Answer(Answer {
            status: 503,
            headers: vec![
                ("content-type".to_owned(), b"text/html; charset=utf-8".to_vec()),
                ("retry-after".to_owned(), b"600".to_vec()),
                ("cache-control".to_owned(), b"no-store".to_vec()),
            ],
            body: PAGE.into(),
        })
    }
}
