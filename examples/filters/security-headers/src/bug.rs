//! What the demo's second release got wrong. It bites only where customers go, not where tests look.

use crate::{
    RELEASE, Worker,
    exports::sluice::worker::on_request,
    sluice::worker::types::{Action, Answer, Request},
};

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        if !request.path_with_query().starts_with("/checkout") {
            return Action::Next;
        }
        Action::Answer(Answer {
            status: 500,
            headers: RELEASE.map(|release| ("x-sluice-worker".to_owned(), release.into())).into_iter().collect(),
            body: b"security-headers v2: internal error\n".to_vec(),
        })
    }
}
