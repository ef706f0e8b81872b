//! Does what the request tells it to: the header `x-do` lists one step per worker of the chain, separated by commas; each takes
//! the first and passes the rest on. What a step does with the response goes with the request, in the filter's state.

mod back;
mod steps;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arena as _;

wit_bindgen::generate!({ path: "../../../wit", world: "sluice:worker/filter" });

use exports::sluice::worker::{on_request, on_response};
use sluice::worker::{
    state,
    types::{Action, Request, Response},
};

struct Worker;

export!(Worker);

/// Calls that this instance has had.
static CALLS: AtomicUsize = AtomicUsize::new(0);

impl on_request::Guest for Worker {
    fn handle(request: &Request) -> Action {
        CALLS.fetch_add(1, Relaxed);
        let script = request.header("x-do").and_then(|v| String::from_utf8(v).ok()).unwrap_or_default();
        let (step, rest) = script.split_once(',').unwrap_or((&script, ""));
        request.set_header("x-do", rest.trim().as_bytes());
        let (verb, argument) = split(step);
        if back::knows(verb) {
            state::set(step.trim().as_bytes());
            return Action::Next;
        }
        steps::run(verb, argument, request)
    }
}

impl on_response::Guest for Worker {
    fn handle(response: &Response) {
        CALLS.fetch_add(1, Relaxed);
        let step = String::from_utf8(state::get()).unwrap_or_default();
        let (verb, argument) = split(&step);
        back::run(verb, argument, response);
    }
}

fn split(step: &str) -> (&str, &str) {
    let step = step.trim();
    step.split_once(':').unwrap_or((step, ""))
}
