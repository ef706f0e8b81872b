//! The steps on the way in.

use std::sync::atomic::Ordering::Relaxed;

use endless::{alloc, spin};
use wasip2::clocks::monotonic_clock;

use crate::{
    CALLS,
    sluice::worker::{
        fetch::{self, FetchError, Outgoing},
        notes, rate, state,
        types::{Action, Answer, BodyError, Request},
    },
};

pub(crate) fn run(verb: &str, argument: &str, request: &Request) -> Action {
    match verb {
        // Good citizens.
        "" | "pass" => {}
        "tag" => {
            request.append_header("x-seen", argument.as_bytes());
            state::set(format!("back:{argument}").as_bytes());
        }
        "answer" => return answer(argument, "from the filter\n"),
        "log" => println!("{argument}"),
        "rewrite" => request.set_path_with_query(argument),
        "rehost" => request.set_authority(argument),
        "upstream" => request.set_upstream(argument),
        "upstreams" => request.append_header("x-seen", request.upstreams().join(" ").as_bytes()),
        "method" => request.set_method(argument),
        "drop" => request.remove_header(argument),
        "client" => {
            let client = format!("{} {}", request.scheme(), request.client_address());
            request.append_header("x-seen", client.as_bytes());
        }
        "count" => request.append_header("x-seen", request.headers().len().to_string().as_bytes()),
        "calls" => request.append_header("x-seen", CALLS.load(Relaxed).to_string().as_bytes()),
        "body" => body(argument, request),
        "fetch" => fetch(argument, request),
        "rate" => {
            let told =
                rate::take("limit", argument).map_or_else(|| "taken".to_owned(), |millis| format!("{millis} ms"));
            request.append_header("x-seen", told.as_bytes());
        }
        "note" => notes::set(argument, argument.as_bytes()),
        "read-note" => {
            let note = notes::get(argument).unwrap_or_else(|| b"none".to_vec());
            request.append_header("x-seen", &note);
        }
        // Faults.
        "trap" => panic!("told to"),
        "spin" => spin(),
        "alloc" => alloc(),
        "leak" => std::mem::forget(vec![1_u8; number(argument)]),
        "sleep" => monotonic_clock::subscribe_duration(3_600_000_000_000).block(),
        "exit" => std::process::exit(argument.parse().unwrap_or(1)),
        "edit-trap" => {
            request.set_header("x-seen", b"half done");
            request.set_path_with_query("/half-done");
            notes::set("half", b"done");
            panic!("told to, after edits");
        }
        "upstream-trap" => {
            request.set_upstream(argument);
            panic!("told to, after choosing an upstream");
        }
        "read-trap" => {
            body(argument, request);
            panic!("told to, after reading the body");
        }
        // What no message can have.
        "crlf" => request.set_header("x-seen", b"a\r\nset-cookie: stolen=1"),
        "name" => request.set_header("x seen", b"a"),
        "set" => request.set_header(argument, b"1"),
        "remove" => request.remove_header(argument),
        "flood" => (0..number(argument)).for_each(|n| request.append_header(&format!("x-{n}"), &[b'v'; 1024])),
        "note-key" => notes::set("no/key", b""),
        "notes" => notes::set("large", &vec![0; number(argument)]),
        "state" => state::set(&vec![0; number(argument)]),
        "answer-crlf" => {
            let headers = vec![("location".to_owned(), b"/\r\nset-cookie: stolen=1".to_vec())];
            return Action::Answer(Answer { status: 302, headers, body: Vec::new() });
        }
        "answer-framed" => {
            let headers = vec![("content-length".to_owned(), b"7".to_vec())];
            return Action::Answer(Answer { status: 200, headers, body: b"more than seven".to_vec() });
        }
        "answer-large" => {
            return Action::Answer(Answer { status: 200, headers: vec![], body: vec![0; number(argument)] });
        }
        other => return answer("501", &format!("no step `{other}`\n")),
    }
    Action::Next
}

fn number(argument: &str) -> usize {
    argument.parse().expect("a number")
}

fn answer(status: &str, body: &str) -> Action {
    Action::Answer(Answer { status: status.parse().expect("a status"), headers: vec![], body: body.into() })
}

fn body(limit: &str, request: &Request) {
    let told = match request.body(limit.parse().expect("a limit")) {
        Ok(body) => format!("{} bytes", body.len()),
        Err(BodyError::TooLarge) => "too large".to_owned(),
        Err(BodyError::BrokenOff) => "broken off".to_owned(),
    };
    request.append_header("x-seen", told.as_bytes());
}

/// `host:port/path`, and after a space how many bytes may come back.
fn fetch(argument: &str, request: &Request) {
    let (place, limit) = argument.split_once(' ').unwrap_or((argument, "1000"));
    let headers = vec![("x-seen".to_owned(), b"by the filter".to_vec())];
    let outgoing =
        Outgoing { method: "POST".into(), url: format!("http://{place}"), headers, body: b"a question".to_vec() };
    let told = match fetch::send(&outgoing, number(limit) as u32) {
        Ok(incoming) => format!("{} {} bytes", incoming.status, incoming.body.len()),
        Err(FetchError::Denied) => "denied".to_owned(),
        Err(FetchError::Unreachable) => "unreachable".to_owned(),
        Err(FetchError::TimedOut) => "timed out".to_owned(),
        Err(FetchError::BrokenOff) => "broken off".to_owned(),
        Err(FetchError::TooLarge) => "too large".to_owned(),
    };
    request.append_header("x-seen", told.as_bytes());
}
