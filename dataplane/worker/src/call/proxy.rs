//! A call of a `wasi:http/proxy@0.2`.

use std::sync::Arc;

use http::Request;
use wasmtime::Store;
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::bindings::{Proxy, http::types::Scheme},
};

use super::Answer;
use crate::{bodies::ToGuest, meter::Meter, state::State};

pub(super) async fn handle(
    proxy: &Proxy,
    store: &mut Store<State>,
    meter: &Arc<Meter>,
    answer: Answer,
    request: Request<ToGuest>,
) -> wasmtime::Result<()> {
    let answers = meter.clone();
    let http = &mut store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request)?;
    let out = http.new_response_outparam_from_callback(move |response| {
        answer.set(&answers, response.map_err(|code| format!("{code:?}")));
    })?;
    let result = proxy.wasi_http_incoming_handler().call_handle(&mut *store, request, out).await;
    // With the store such a body would seem to end well.
    meter.left(store.data_mut().bodies_left());
    result
}
