//! Passes a request on to the rest of the chain and its response back, bodies streamed.

use wasip2::{
    http::{
        outgoing_handler,
        types::{
            ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingRequest, IncomingResponse, OutgoingBody,
            OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
        },
    },
    io::{
        poll::{self, Pollable},
        streams::{InputStream, OutputStream, StreamError},
    },
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
    onward.set_path_with_query(request.path_with_query().as_deref()).expect("a path");
    onward
}

/// Calls the rest of the chain and answers with its response, once `edit` has seen the headers. Both
/// bodies are streamed, at the same time: a response may begin while the request still comes.
pub fn forward(request: IncomingRequest, onward: OutgoingRequest, out: ResponseOutparam, edit: impl FnOnce(&Fields)) {
    forward_changed(request, onward, out, |headers| {
        edit(headers);
        None
    });
}

/// Makes one body of another, piece by piece.
pub trait Change {
    /// What can be passed on with this piece.
    fn piece(&mut self, piece: &[u8]) -> Vec<u8>;
    /// What can be passed on when no more comes.
    fn rest(&mut self) -> Vec<u8>;
}

/// The same where the response's body changes, too, if `edit` says how. A body of another length has to lose its
/// `content-length` there.
pub fn forward_changed(
    request: IncomingRequest,
    onward: OutgoingRequest,
    out: ResponseOutparam,
    edit: impl FnOnce(&Fields) -> Option<Box<dyn Change>>,
) {
    let mut upload = match Upload::start(&request, onward) {
        Ok(upload) => upload,
        Err(error) => return ResponseOutparam::set(out, Err(error)),
    };
    let response = match upload.response() {
        Ok(response) => response,
        Err(error) => return ResponseOutparam::set(out, Err(error)),
    };
    let headers = response.headers().clone();
    let change = edit(&headers);
    let answer = OutgoingResponse::new(headers);
    answer.set_status_code(response.status()).expect("a status");
    let body = answer.body().expect("a body");
    ResponseOutparam::set(out, Ok(answer));
    let incoming = response.consume().expect("a body");
    let mut download = Pump { change, ..Pump::new(&incoming, body) };
    loop {
        let waits: Vec<Pollable> = [upload.step(), download.step()].into_iter().flatten().collect();
        if download.is_over() {
            break;
        }
        let waits: Vec<&Pollable> = waits.iter().collect();
        poll::poll(&waits);
    }
}

/// Calls the rest of the chain: sends `onward` with the request's body, then waits for the response.
pub fn next(request: &IncomingRequest, onward: OutgoingRequest) -> Result<IncomingResponse, ErrorCode> {
    Upload::start(request, onward)?.response()
}

/// A request on its way to the rest of the chain.
pub struct Upload {
    pump: Option<Pump>,
    // After the pump: a body outlives its streams.
    _body: Option<IncomingBody>,
    response: FutureIncomingResponse,
}

impl Upload {
    /// Sends the head.
    pub fn start(request: &IncomingRequest, onward: OutgoingRequest) -> Result<Self, ErrorCode> {
        let only_head =
            |onward| Ok(Self { pump: None, _body: None, response: outgoing_handler::handle(onward, None)? });
        let Ok(body) = request.consume() else {
            return only_head(onward);
        };
        let input = body.stream().expect("a stream");
        // A body of nothing is closed at once; only then is there no outgoing body to make.
        let first = match input.read(CHUNK_BYTES) {
            Ok(first) => first,
            Err(StreamError::Closed) => return only_head(onward),
            Err(StreamError::LastOperationFailed(_)) => return Err(ErrorCode::HttpProtocolError),
        };
        let out = onward.body().expect("a body");
        let response = outgoing_handler::handle(onward, None)?;
        Ok(Self { pump: Some(Pump::with(input, out, first)), _body: Some(body), response })
    }

    /// Moves what can be moved; what to wait for, if anything.
    pub fn step(&mut self) -> Option<Pollable> {
        self.pump.as_mut()?.step()
    }

    /// Sends the body until the response comes.
    pub fn response(&mut self) -> Result<IncomingResponse, ErrorCode> {
        loop {
            let sent = self.step();
            if let Some(ready) = self.response.get() {
                return ready.expect("taken once");
            }
            let answered = self.response.subscribe();
            match &sent {
                Some(sent) => drop(poll::poll(&[sent, &answered])),
                None => answered.block(),
            }
        }
    }
}

/// Moves one body into another.
pub struct Pump {
    streams: Option<(InputStream, OutputStream)>,
    body: Option<OutgoingBody>,
    left: Vec<u8>,
    /// Until its rest has been asked for.
    change: Option<Box<dyn Change>>,
}

/// Bytes moved at once.
const CHUNK_BYTES: u64 = 32 << 10;

impl Pump {
    /// From the body's beginning.
    pub fn new(from: &IncomingBody, to: OutgoingBody) -> Self {
        Self::with(from.stream().expect("a stream"), to, Vec::new())
    }

    fn with(input: InputStream, to: OutgoingBody, first: Vec<u8>) -> Self {
        let output = to.write().expect("a stream");
        Self { streams: Some((input, output)), body: Some(to), left: first, change: None }
    }

    /// Whether there is nothing more to move.
    pub fn is_over(&self) -> bool {
        self.streams.is_none()
    }

    /// Moves all that can be moved without waiting; what to wait for, if anything.
    pub fn step(&mut self) -> Option<Pollable> {
        let (input, output) = self.streams.as_ref()?;
        let whole = loop {
            if self.left.is_empty() {
                match input.read(CHUNK_BYTES) {
                    Ok(bytes) if bytes.is_empty() => return Some(input.subscribe()),
                    Ok(bytes) => match &mut self.change {
                        Some(change) => self.left = change.piece(&bytes),
                        None => self.left = bytes,
                    },
                    Err(StreamError::Closed) => match self.change.take() {
                        Some(mut change) => self.left = change.rest(),
                        None => break true,
                    },
                    Err(StreamError::LastOperationFailed(_)) => break false,
                }
                if self.left.is_empty() {
                    continue;
                }
            }
            let room = match output.check_write() {
                Ok(0) => return Some(output.subscribe()),
                Ok(room) => usize::try_from(room).unwrap_or(usize::MAX),
                // Whoever reads has what it wants.
                Err(_) => break false,
            };
            let rest = self.left.split_off(self.left.len().min(room));
            if output.write(&self.left).is_err() {
                break false;
            }
            self.left = rest;
        };
        self.streams = None;
        let body = self.body.take();
        // Dropped without `finish`, a body counts as broken off.
        if whole && let Some(body) = body {
            let _too_short = OutgoingBody::finish(body, None);
        }
        None
    }

    /// Moves the rest, waiting as it takes.
    pub fn run(mut self) {
        while let Some(wait) = self.step() {
            wait.block();
        }
    }
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

/// Writes all of it.
pub fn write(to: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    for chunk in bytes.chunks(4096) {
        to.blocking_write_and_flush(chunk)?;
    }
    Ok(())
}
