//! A call of a `wasi:http/service@0.3` or `wasi:http/middleware@0.3`.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, header::HOST, uri::PathAndQuery};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use wasmtime::{
    Store,
    component::{Accessor, Linker, Resource},
};
use wasmtime_wasi_http::{
    Error, WasiBody, WasiHttpView,
    p3::{
        self,
        bindings::{Service, http::types::ErrorCode},
    },
};

use super::Answer;
use crate::{
    NEXT_AUTHORITY,
    bodies::ToGuest,
    meter::Meter,
    state::{State, error_code},
};

/// The import of a `middleware` that is the rest of the chain.
const NEXT: &str = "wasi:http/handler@0.3.0";

/// What such workers may import.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    // Toolchains for 0.3 are built on what imports 0.2.
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi::p3::add_to_linker(linker)?;
    p3::add_to_linker(linker)?;
    linker.instance(NEXT)?.func_wrap_concurrent("handle", |accessor, (request,)| {
        Box::pin(async move { Ok((next(accessor, request).await?,)) })
    })
}

type Next = Result<Resource<p3::Response>, ErrorCode>;

async fn next(accessor: &Accessor<State>, request: Resource<p3::Request>) -> wasmtime::Result<Next> {
    let sent = accessor.with(|mut store| {
        let mut request = store.data_mut().http().table.delete(request)?;
        // None of these is needed to say where the request goes: it goes on.
        request.scheme = Some(http::uri::Scheme::HTTP);
        request.path_with_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
        let authority = request.authority.replace(http::uri::Authority::from_static(NEXT_AUTHORITY));
        match request.into_http(&mut store, async { Ok(()) }) {
            Ok((mut request, _options)) => {
                let state = store.data_mut();
                if let Some(host) = state.rewritten_host(authority.as_ref()) {
                    request.headers_mut().insert(HOST, host);
                }
                Ok(Ok(state.next(request)))
            }
            Err(error) => error.downcast().map(Err),
        }
    })?;
    let sent = match sent {
        Ok(sent) => sent,
        Err(code) => return Ok(Err(code)),
    };
    let response = match sent.await {
        Ok(response) => response,
        Err(error) => return Ok(Err(error_code(&error))),
    };
    accessor.with(|mut store| {
        let http = store.data_mut().http();
        let (response, _processed) = p3::Response::from_http(http.hooks, response);
        Ok(Ok(http.table.push(response)?))
    })
}

/// Runs until the guest has nothing left to do and nobody reads what it wrote any more: to its reader, a body whose store is
/// gone seems to end well.
pub(super) async fn handle(
    service: &Service,
    store: &mut Store<State>,
    meter: &Arc<Meter>,
    answer: Answer,
    request: Request<ToGuest>,
) -> wasmtime::Result<()> {
    let run = store.run_concurrent(async |accessor| {
        let request = accessor.with(|mut store| p3::Request::from_http(store.data_mut().http().hooks, request).0);
        match service.handle(accessor, request).await? {
            Ok(response) => {
                let (over, is_over) = oneshot::channel();
                let sent = async move {
                    let _read_or_given_up = is_over.await;
                    Ok(())
                };
                let response = accessor.with(|store| response.into_http(store, sent))?;
                answer.set(meter, Ok(response.map(|body| Written::new(body, meter.clone(), over).boxed_unsync())));
            }
            Err(code) => {
                answer.set(meter, Err(format!("{code:?}")));
            }
        }
        poll_fn(|cx| {
            ready!(accessor.poll_no_interesting_tasks(cx));
            meter.hands.let_go();
            meter.hands.poll_unread(cx)
        })
        .await;
        Ok(())
    });
    let result = run.await.flatten();
    if result.is_err() {
        // Before the store goes.
        meter.cut_off();
    }
    result
}

/// A response's body as the guest writes it.
struct Written {
    inner: WasiBody,
    meter: Arc<Meter>,
    /// Dropped when it has been read, or is read no more.
    over: Option<oneshot::Sender<()>>,
    /// Times in a row that the guest, which is gone, gave nothing.
    silent: u8,
}

/// What the guest began is passed on within so many looks, and mostly in one.
const SILENT_MAX: u8 = 8;

impl Written {
    fn new(inner: WasiBody, meter: Arc<Meter>, over: oneshot::Sender<()>) -> Self {
        meter.hands.reads();
        Self { inner, meter, over: Some(over), silent: 0 }
    }

    fn end(&mut self) {
        if self.over.take().is_some() {
            self.meter.hands.read();
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.end();
    }
}

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let waits = self.meter.body_waits();
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(None) if self.inner.size_hint().lower() > 0 => {
                // What breaks that promise is not always told in time.
                self.end();
                Poll::Ready(Some(Err(Error::HttpResponseBodySize(None))))
            }
            Poll::Ready(frame) => {
                self.silent = 0;
                if !matches!(frame, Some(Ok(_))) {
                    self.end();
                }
                Poll::Ready(frame)
            }
            // Another's body, which it only passes on; or it is still there to write more.
            Poll::Pending if self.meter.body_waits() != waits || !self.meter.hands.have_let_go() => Poll::Pending,
            Poll::Pending if self.silent < SILENT_MAX => {
                self.silent += 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => {
                self.end();
                Poll::Ready(Some(Err(Error::HttpResponseIncomplete)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
