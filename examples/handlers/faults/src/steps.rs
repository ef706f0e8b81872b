//! The steps.

use std::sync::atomic::Ordering::Relaxed;

use endless::{alloc, spin};
use next::wasip3::{
    self,
    clocks::monotonic_clock,
    http::{
        client,
        types::{ErrorCode, Fields, Headers, Request, Response, Scheme},
    },
    wit_bindgen::{StreamResult, StreamWriter, spawn_local},
    wit_future, wit_stream,
};

use crate::CALLS;

type Answer = Result<Response, ErrorCode>;

const HOUR_NS: u64 = 3_600_000_000_000;

pub(crate) async fn run(verb: &str, argument: &str, request: Request, headers: Headers) -> Answer {
    match verb {
        // Good citizens.
        "as-it-came" => next::handle(request).await,
        "" | "pass" => next::handle(next::onward(request, headers)).await,
        "tag" => {
            append(&headers, "x-seen", argument);
            let response = next::handle(next::onward(request, headers)).await?;
            next::back(response, |headers| append(headers, "x-back", argument))
        }
        "client" => {
            let onward = next::onward(request, headers);
            onward.set_authority(Some("next.sluice")).expect("an authority");
            client::send(onward).await
        }
        "copy" => copy(request, headers).await,
        "answer" => answer(argument.parse().expect("a status"), "from the worker\n"),
        "empty" => headers_only(argument),
        "echo" => next_body(request),
        "calls" => answer(200, &CALLS.load(Relaxed).to_string()),
        "log" => {
            println!("{argument}");
            eprintln!("{argument}");
            next::handle(next::onward(request, headers)).await
        }
        "rewrite" => {
            let onward = next::onward(request, headers);
            onward.set_path_with_query(Some(argument)).expect("a path");
            next::handle(onward).await
        }
        "rehost" => {
            headers.set("host", &[argument.into()]).expect("a header");
            next::handle(next::onward(request, headers)).await
        }
        "authority" => {
            let onward = next::onward(request, headers);
            onward.set_authority(Some(argument)).expect("an authority");
            next::handle(onward).await
        }
        "fetch" => fetch(argument).await,
        "leak" => {
            std::mem::forget(vec![1_u8; argument.parse().expect("a number")]);
            answer(200, "leaked\n")
        }
        "keep-request" => {
            std::mem::forget(request);
            answer(200, "kept\n")
        }
        "keep-body" => {
            let (_processed, is_processed) = wit_future::new(|| Ok(()));
            std::mem::forget(Request::consume_body(request, is_processed));
            answer(200, "kept\n")
        }
        "tail" => {
            spawn_local(monotonic_clock::wait_for(1_000_000));
            answer(200, "more to do\n")
        }
        // Before `next`.
        "trap" => panic!("told to"),
        "spin" => spin(),
        "alloc" => alloc(),
        "streams" => streams(),
        "sleep" => {
            monotonic_clock::wait_for(HOUR_NS).await;
            unreachable!("it is ended before")
        }
        "error" => Err(ErrorCode::InternalError(None)),
        "exit" => {
            wasip3::cli::exit::exit(Err(()));
            unreachable!("it has exited")
        }
        "exit-ok" => {
            wasip3::cli::exit::exit(Ok(()));
            unreachable!("it has exited")
        }
        // After it.
        "next-trap" => {
            let _response = next::handle(next::onward(request, headers)).await;
            panic!("told to, after next");
        }
        "next-spin" => {
            let _response = next::handle(next::onward(request, headers)).await;
            spin()
        }
        "head-trap" => written(Fields::new(), |mut body| async move {
            body.write_all(vec![b'x'; 256 << 10]).await;
            panic!("told to, after the head");
        }),
        "head-spin" => written(Fields::new(), |mut body| async move {
            body.write_all(vec![b'x'; 4096]).await;
            spin()
        }),
        "head-alloc" => written(Fields::new(), |mut body| async move {
            body.write_all(vec![b'x'; 4096]).await;
            alloc()
        }),
        "tail-spin" => written(Fields::new(), |mut body| async move {
            body.write_all(b"whole".to_vec()).await;
            drop(body);
            spin()
        }),
        // The body ends without the worker's word, or against it.
        "too-short" => {
            let headers = Fields::new();
            append(&headers, "content-length", "100");
            written(headers, |mut body| async move {
                body.write_all(b"not all of it".to_vec()).await;
            })
        }
        "leak-body" => written(Fields::new(), |mut body| async move {
            body.write_all(b"not all of it".to_vec()).await;
            std::mem::forget(body);
        }),
        "exit-body" => written(Fields::new(), |mut body| async move {
            body.write_all(b"not all of it".to_vec()).await;
            wasip3::cli::exit::exit(Ok(()));
        }),
        // Beyond measure.
        "twice" => {
            let again = Request::new(headers.clone(), None, no_trailers(), None).0;
            let _first = next::handle(again).await;
            next::handle(next::onward(request, headers)).await
        }
        "headers" => flood(argument.parse().expect("a count")),
        other => answer(501, &format!("no step `{other}`\n")),
    }
}

fn append(headers: &Fields, name: &str, value: &str) {
    headers.append(name, value.as_bytes()).expect("a header");
}

fn no_trailers() -> wasip3::wit_bindgen::FutureReader<Result<Option<Fields>, ErrorCode>> {
    wit_future::new(|| Ok(None)).1
}

/// A response whose body this writes.
fn written<F: Future<Output = ()> + 'static>(headers: Fields, write: impl FnOnce(StreamWriter<u8>) -> F) -> Answer {
    let (body, reader) = wit_stream::new();
    let (response, _sent) = Response::new(headers, Some(reader), no_trailers());
    spawn_local(write(body));
    Ok(response)
}

fn answer(status: u16, text: &str) -> Answer {
    let text = text.as_bytes().to_vec();
    let response = written(Fields::new(), |mut body| async move {
        body.write_all(text).await;
    })?;
    response.set_status_code(status).expect("a status");
    Ok(response)
}

fn headers_only(length: &str) -> Answer {
    let headers = Fields::new();
    if !length.is_empty() {
        append(&headers, "content-length", length);
    }
    Ok(Response::new(headers, None, no_trailers()).0)
}

fn next_body(request: Request) -> Answer {
    let (_processed, is_processed) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, is_processed);
    Ok(Response::new(Fields::new(), Some(body), trailers).0)
}

/// Passes both bodies on, through its own memory.
async fn copy(request: Request, headers: Headers) -> Answer {
    let onward = next::onward(request, headers.clone());
    let (method, authority, path) = (onward.get_method(), onward.get_authority(), onward.get_path_with_query());
    let (_processed, is_processed) = wit_future::new(|| Ok(()));
    // The trailers say whether it came whole.
    let (mut from, trailers) = Request::consume_body(onward, is_processed);
    let (mut to, reader) = wit_stream::new();
    let (onward, _sent) = Request::new(headers, Some(reader), trailers, None);
    onward.set_method(&method).expect("a method");
    onward.set_authority(authority.as_deref()).expect("an authority");
    onward.set_path_with_query(path.as_deref()).expect("a path");
    spawn_local(async move { pump(&mut from, &mut to).await });
    let response = next::handle(onward).await?;
    let (status, headers) = (response.get_status_code(), response.get_headers().clone());
    let (_processed, is_processed) = wit_future::new(|| Ok(()));
    let (mut from, trailers) = Response::consume_body(response, is_processed);
    let (mut to, reader) = wit_stream::new();
    let (back, _sent) = Response::new(headers, Some(reader), trailers);
    spawn_local(async move { pump(&mut from, &mut to).await });
    back.set_status_code(status).expect("a status");
    Ok(back)
}

async fn pump(from: &mut wasip3::wit_bindgen::StreamReader<u8>, to: &mut StreamWriter<u8>) {
    loop {
        let (result, bytes) = from.read(Vec::with_capacity(16 << 10)).await;
        if !to.write_all(bytes).await.is_empty() || matches!(result, StreamResult::Dropped) {
            return;
        }
    }
}

async fn fetch(authority: &str) -> Answer {
    let (request, _sent) = Request::new(Fields::new(), None, no_trailers(), None);
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some(authority)).expect("an authority");
    request.set_path_with_query(Some("/fetched")).expect("a path");
    match client::send(request).await {
        Ok(response) => answer(response.get_status_code(), "fetched\n"),
        Err(error) => answer(403, &format!("{error:?}\n")),
    }
}

fn streams() -> ! {
    loop {
        let (writer, reader) = wit_stream::new::<u8>();
        std::mem::forget((writer, reader));
    }
}

fn flood(count: u32) -> Answer {
    let headers = Fields::new();
    let value = [b'v'; 1024];
    for n in 0..count {
        if let Err(error) = headers.append(&format!("x-flood-{n}"), &value) {
            return answer(507, &format!("{error:?}\n"));
        }
    }
    Ok(Response::new(headers, None, no_trailers()).0)
}
