//! Passes a request on to the rest of the chain and its response back, bodies streamed.

use wasip2::{
    http::{
        outgoing_handler,
        types::{
            ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingRequest,
            IncomingResponse, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
            Scheme,
        },
    },
    io::streams::{InputStream, OutputStream, StreamError},
};

pub use wasip2;

/// The authority that stands for the rest of the chain.
pub const NEXT: &str = "next.sluice";

/// A request to `next.sluice` like the one that came in, with these headers.
pub fn onward(request: &IncomingRequest, headers: Fields) -> OutgoingRequest {
    let onward = OutgoingRequest::new(headers);
    onward.set_method(&request.method()).expect("a method");
    onward.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    onward.set_authority(Some(NEXT)).expect("an authority");
    onward
        .set_path_with_query(request.path_with_query().as_deref())
        .expect("a path");
    onward
}

/// Calls the rest of the chain: sends `onward` with what is left of the request's body.
pub fn next(request: &IncomingRequest, onward: OutgoingRequest) -> Result<IncomingResponse, ErrorCode> {
    let response = start(request, onward)?;
    wait(&response)
}

/// Sends `onward` and the body, without waiting for the response.
pub fn start(
    request: &IncomingRequest,
    onward: OutgoingRequest,
) -> Result<FutureIncomingResponse, ErrorCode> {
    let Ok(body) = request.consume() else {
        return outgoing_handler::handle(onward, None);
    };
    let input = body.stream().expect("a stream");
    // A body of nothing is closed at once; only then is there no outgoing body to make.
    let first = match input.read(64 << 10) {
        Ok(first) => first,
        Err(StreamError::Closed) => return outgoing_handler::handle(onward, None),
        Err(StreamError::LastOperationFailed(_)) => return Err(ErrorCode::HttpProtocolError),
    };
    let out = onward.body().expect("a body");
    let response = outgoing_handler::handle(onward, None)?;
    let stream = out.write().expect("a stream");
    let sent = write(&stream, &first).and_then(|()| splice(&input, &stream));
    drop(stream);
    match sent {
        Ok(()) => OutgoingBody::finish(out, None)?,
        // The other side has what it wants, or the client left: what comes back tells.
        Err(_) => drop(out),
    }
    drop(input);
    drop(body);
    Ok(response)
}

/// Waits for a response.
pub fn wait(response: &FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    loop {
        if let Some(ready) = response.get() {
            return ready.expect("taken once");
        }
        response.subscribe().block();
    }
}

/// Answers with a response from `next`, with these headers, its body streamed.
pub fn pass_back(out: ResponseOutparam, response: IncomingResponse, headers: Fields) {
    let answer = OutgoingResponse::new(headers);
    answer.set_status_code(response.status()).expect("a status");
    let body = answer.body().expect("a body");
    ResponseOutparam::set(out, Ok(answer));
    let incoming = response.consume().expect("a body");
    pipe(&incoming, body);
}

/// Streams a body into another, to its end.
pub fn pipe(from: &IncomingBody, to: OutgoingBody) {
    let input = from.stream().expect("a stream");
    let stream = to.write().expect("a stream");
    let sent = splice(&input, &stream);
    drop(stream);
    drop(input);
    // Dropped without `finish`, a body counts as broken off.
    if sent.is_ok() {
        let _too_short = OutgoingBody::finish(to, None);
    }
}

/// Answers at once.
pub fn answer(out: ResponseOutparam, status: u16, text: &str) {
    answer_with(out, status, Fields::new(), text);
}

/// Answers at once, with headers.
pub fn answer_with(out: ResponseOutparam, status: u16, headers: Fields, text: &str) {
    let answer = OutgoingResponse::new(headers);
    answer.set_status_code(status).expect("a status");
    let body = answer.body().expect("a body");
    ResponseOutparam::set(out, Ok(answer));
    let stream = body.write().expect("a stream");
    let _client_left = write(&stream, text.as_bytes());
    drop(stream);
    let _too_short = OutgoingBody::finish(body, None);
}

/// Copies to the input's end.
pub fn splice(from: &InputStream, to: &OutputStream) -> Result<(), StreamError> {
    loop {
        match to.blocking_splice(from, 64 << 10) {
            Ok(_) => {}
            Err(StreamError::Closed) => return closed(from),
            Err(failed) => return Err(failed),
        }
    }
}

/// `splice` says "closed" of either side; the input knows whether it was its end.
fn closed(from: &InputStream) -> Result<(), StreamError> {
    match from.read(1) {
        Err(StreamError::Closed) => Ok(()),
        Err(failed) => Err(failed),
        Ok(_) => Err(StreamError::Closed),
    }
}

/// Writes all of it.
pub fn write(to: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    for chunk in bytes.chunks(4096) {
        to.blocking_write_and_flush(chunk)?;
    }
    Ok(())
}
