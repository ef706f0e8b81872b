//! Lets through who has a token of the issuer's: a JWT, signed with ES256, in `authorization: Bearer`. Its subject goes to
//! the upstream in `x-user`, which no client can set, and to the workers behind in the note `user`.

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/request-filter" });

use exports::sluice::worker::on_request;
use rules::token;
use sluice::worker::{
    notes,
    types::{Action, Answer, Request},
};

struct Worker;

export!(Worker);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        match token::subject(&request.header_values("authorization")) {
            Ok(subject) => {
                request.set_header("x-user", subject.as_bytes());
                notes::set("user", subject.as_bytes());
                Action::Next
            }
            Err(why) => refused(why),
        }
    }
}

fn refused(why: &str) -> Action {
    let headers = vec![
        ("www-authenticate".to_owned(), token::challenge(why).into_bytes()),
        ("content-type".to_owned(), b"text/plain".to_vec()),
    ];
    Action::Answer(Answer { status: 401, headers, body: format!("{why}\n").into_bytes() })
}
