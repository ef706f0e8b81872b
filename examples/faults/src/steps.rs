//! The steps.

use std::sync::atomic::Ordering::Relaxed;

use endless::{alloc, spin};
use passing::wasip2::{
    self,
    clocks::monotonic_clock,
    http::{
        outgoing_handler,
        types::{
            ErrorCode, Fields, IncomingBody, IncomingRequest, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
            OutgoingResponse, ResponseOutparam, Scheme,
        },
    },
    io::streams::StreamError,
};

use crate::CALLS;

pub(crate) fn run(verb: &str, argument: &str, request: IncomingRequest, headers: Fields, out: ResponseOutparam) {
    match verb {
        // Good citizens.
        "" | "pass" => pass(request, headers, out, "", ""),
        "tag" => {
            append(&headers, "x-seen", argument);
            pass(request, headers, out, "x-back", argument);
        }
        "answer" => passing::answer(out, argument.parse().expect("a status"), "from the worker\n"),
        "echo" => echo(request, out),
        "calls" => passing::answer(out, 200, &CALLS.load(Relaxed).to_string()),
        "log" => {
            println!("{argument}");
            eprintln!("{argument}");
            pass(request, headers, out, "", "");
        }
        "rewrite" => rewrite(request, headers, out, argument),
        "rehost" => {
            headers.set("host", &[argument.into()]).expect("a header");
            pass(request, headers, out, "", "");
        }
        "upstream" => {
            headers.set("sluice-upstream", &[argument.into()]).expect("a header");
            pass(request, headers, out, "", "");
        }
        "method" => remethod(request, headers, out, argument),
        "next-answer" => {
            let _response = call(&request, headers);
            passing::answer(out, argument.parse().expect("a status"), "mine\n");
        }
        "fetch" => fetch(argument, out),
        "fetch-trap" => {
            let response = ask(argument).expect("a response");
            let body = response.consume().expect("a body");
            read(&body, u64::MAX);
            panic!("the body came whole");
        }
        "leak" => {
            std::mem::forget(vec![1_u8; argument.parse().expect("a number")]);
            passing::answer(out, 200, "leaked\n");
        }
        "keep-request" => {
            std::mem::forget(request);
            passing::answer(out, 200, "kept\n");
        }
        // Before `next`.
        "trap" => panic!("told to"),
        "spin" => spin(),
        "alloc" => alloc(),
        "sleep" => monotonic_clock::subscribe_duration(3_600_000_000_000).block(),
        "silent" => {}
        "error" => ResponseOutparam::set(out, Err(ErrorCode::InternalError(None))),
        "exit" => wasip2::cli::exit::exit(Err(())),
        "read-trap" => {
            let body = request.consume().expect("a body");
            read(&body, argument.parse().expect("a length"));
            panic!("told to, with {argument} bytes read");
        }
        // After it.
        "next-trap" => {
            let _response = call(&request, headers);
            panic!("told to, after next");
        }
        "next-spin" => {
            let _response = call(&request, headers);
            spin();
        }
        "next-read-trap" => {
            let response = call(&request, headers).expect("a response");
            let body = response.consume().expect("a body");
            read(&body, argument.parse().expect("a length"));
            panic!("told to, after reading the response");
        }
        "inflight-trap" => {
            let onward = passing::onward(&request, headers);
            let _upload = passing::Upload::start(&request, onward);
            panic!("told to, while next runs");
        }
        "head-trap" => head_trap(out),
        "head-sleep" => {
            let answer = OutgoingResponse::new(Fields::new());
            let _body = answer.body().expect("a body");
            ResponseOutparam::set(out, Ok(answer));
            monotonic_clock::subscribe_duration(3_600_000_000_000).block();
        }
        // The body ends without the worker's word, or against it.
        "too-short" | "drop-body" | "leak-body" | "exit-body" => broken_body(verb, out),
        // Beyond measure.
        "twice" => {
            let _first = call(&request, headers.clone());
            pass(request, headers, out, "", "");
        }
        "many" => many(argument.parse().expect("a count"), request, headers, out),
        "headers" => flood(argument.parse().expect("a count"), out),
        other => passing::answer(out, 501, &format!("no step `{other}`\n")),
    }
}

fn append(headers: &Fields, name: &str, value: &str) {
    headers.append(name, value.as_bytes()).expect("a header");
}

fn call(request: &IncomingRequest, headers: Fields) -> Result<IncomingResponse, ErrorCode> {
    passing::next(request, passing::onward(request, headers))
}

fn pass(request: IncomingRequest, headers: Fields, out: ResponseOutparam, name: &str, tag: &str) {
    let onward = passing::onward(&request, headers);
    passing::forward(request, onward, out, |headers| {
        if !name.is_empty() {
            append(headers, name, tag);
        }
    });
}

fn rewrite(request: IncomingRequest, headers: Fields, out: ResponseOutparam, path: &str) {
    let onward = passing::onward(&request, headers);
    onward.set_path_with_query(Some(path)).expect("a path");
    passing::forward(request, onward, out, |_| {});
}

fn remethod(request: IncomingRequest, headers: Fields, out: ResponseOutparam, method: &str) {
    let onward = passing::onward(&request, headers);
    onward.set_method(&Method::Other(method.to_owned())).expect("a method");
    passing::forward(request, onward, out, |_| {});
}

fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let answer = OutgoingResponse::new(Fields::new());
    let body = answer.body().expect("a body");
    ResponseOutparam::set(out, Ok(answer));
    let incoming = request.consume().expect("a body");
    passing::Pump::new(&incoming, body).run();
}

fn fetch(authority: &str, out: ResponseOutparam) {
    match ask(authority) {
        Ok(response) => passing::answer(out, response.status(), "fetched\n"),
        Err(error) => passing::answer(out, 403, &format!("{error:?}\n")),
    }
}

fn ask(authority: &str) -> Result<IncomingResponse, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some(authority)).expect("an authority");
    request.set_path_with_query(Some("/fetched")).expect("a path");
    outgoing_handler::handle(request, None).and_then(|r| passing::wait(&r))
}

fn broken_body(how: &str, out: ResponseOutparam) {
    let headers = Fields::new();
    if how == "too-short" {
        headers.set("content-length", &[b"100".into()]).expect("a header");
    }
    let answer = OutgoingResponse::new(headers);
    let body = answer.body().expect("a body");
    ResponseOutparam::set(out, Ok(answer));
    let stream = body.write().expect("a stream");
    passing::write(&stream, b"not all of it").expect("a reader");
    drop(stream);
    match how {
        "too-short" => drop(OutgoingBody::finish(body, None)),
        "drop-body" => drop(body),
        "leak-body" => std::mem::forget(body),
        _ => wasip2::cli::exit::exit(Ok(())),
    }
}

/// Reads exactly this many bytes, or to the end.
fn read(body: &IncomingBody, bytes: u64) {
    let stream = body.stream().expect("a stream");
    let mut left = bytes;
    while left > 0 {
        match stream.blocking_read(left) {
            Ok(chunk) => left -= chunk.len() as u64,
            Err(StreamError::Closed) => return,
            Err(failed) => panic!("{failed:?}"),
        }
    }
}

/// More than the host buffers, so that the head and some of the body are out before the trap.
fn head_trap(out: ResponseOutparam) {
    let answer = OutgoingResponse::new(Fields::new());
    let body = answer.body().expect("a body");
    ResponseOutparam::set(out, Ok(answer));
    let stream = body.write().expect("a stream");
    for _ in 0..64 {
        passing::write(&stream, &[b'x'; 4096]).expect("a reader");
    }
    panic!("told to, after the head");
}

fn many(count: u32, request: IncomingRequest, headers: Fields, out: ResponseOutparam) {
    for _ in 0..count {
        if let Err(error) = call(&request, headers.clone()) {
            return passing::answer(out, 508, &format!("{error:?}\n"));
        }
    }
    pass(request, headers, out, "", "");
}

fn flood(count: u32, out: ResponseOutparam) {
    let headers = Fields::new();
    let value = [b'v'; 1024];
    for n in 0..count {
        if let Err(error) = headers.append(&format!("x-flood-{n}"), &value) {
            return passing::answer(out, 507, &format!("{error:?}\n"));
        }
    }
    let answer = OutgoingResponse::new(headers);
    let body = answer.body().expect("a body");
    ResponseOutparam::set(out, Ok(answer));
    OutgoingBody::finish(body, None).expect("nothing was promised");
}
