//! Answers all but some with a maintenance page.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/request-filter" });

use exports::sluice::worker::on_request;
use rules::maintenance::{HEADERS, PAGE, may_pass};
use sluice::worker::types::{Action, Answer, Request};

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        if may_pass(&request.header_values("cookie"), &request.path_with_query()) {
            return Action::Next;
        }
        let headers = HEADERS.map(|(name, value)| (name.to_owned(), value.into())).to_vec();
        Action::Answer(Answer { status: 503, headers, body: PAGE.into() })
    }
}
