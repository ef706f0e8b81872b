//! The steps on the way out.

use std::sync::atomic::Ordering::Relaxed;

use endless::{alloc, spin};

use crate::{
    CALLS,
    sluice::worker::{
        notes, state,
        types::{BodyError, Response},
    },
};

pub(crate) fn knows(verb: &str) -> bool {
    verb == "back" || verb.starts_with("back-")
}

pub(crate) fn run(verb: &str, argument: &str, response: &Response) {
    match verb {
        // Good citizens.
        "" => {}
        "back" => response.append_header("x-back", argument.as_bytes()),
        "back-status" => response.set_status(argument.parse().expect("a status")),
        "back-body" => response.set_body(argument.as_bytes()),
        "back-upper" => {
            let body = response.body(u32::MAX).expect("a body");
            response.set_body(&body.to_ascii_uppercase());
        }
        "back-read" => {
            let told = match response.body(argument.parse().expect("a limit")) {
                Ok(body) => format!("{} bytes", body.len()),
                Err(BodyError::TooLarge) => "too large".to_owned(),
                Err(BodyError::BrokenOff) => "broken off".to_owned(),
            };
            response.append_header("x-back", told.as_bytes());
        }
        "back-calls" => response.append_header("x-back", CALLS.load(Relaxed).to_string().as_bytes()),
        "back-asked" => {
            let (method, authority) = (response.request_method(), response.request_authority());
            let asked = format!("{method} {authority} {}", response.request_path_with_query());
            response.append_header("x-back", asked.as_bytes());
        }
        "back-note" => {
            let note = notes::get(argument).unwrap_or_else(|| b"none".to_vec());
            response.append_header("x-back", &note);
        }
        "back-drop" => response.remove_header(argument),
        // Faults.
        "back-trap" => panic!("told to"),
        "back-edit-trap" => {
            response.set_status(418);
            response.set_header("x-upstream", b"half done");
            response.set_body(b"half done");
            panic!("told to, after edits");
        }
        "back-read-trap" => {
            drop(response.body(u32::MAX));
            panic!("told to, after reading the body");
        }
        "back-spin" => spin(),
        "back-alloc" => alloc(),
        // What no message can have.
        "back-crlf" => response.set_header("x-back", b"a\r\nset-cookie: stolen=1"),
        "back-set" => response.set_header(argument, b"1"),
        "back-large" => response.set_body(&vec![0; argument.parse().expect("a number")]),
        "back-state" => state::set(&vec![0; argument.parse().expect("a number")]),
        other => panic!("no step `{other}`"),
    }
}
