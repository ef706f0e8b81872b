//! Sends old addresses to new ones.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/request-filter" });

use exports::sluice::worker::on_request;
use sluice::worker::types::{Action, Answer, Request};

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        match rules::redirects::moved(&request.path_with_query()) {
            Some((status, location)) => Action::Answer(Answer {
                status,
                headers: vec![("location".to_owned(), location.into_bytes())],
                body: Vec::new(),
            }),
            None => Action::Next,
        }
    }
}
