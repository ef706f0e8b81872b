//! What a store holds, and how its outgoing requests leave.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, LazyLock},
};

use http::{HeaderName, HeaderValue, Request, Response, uri::Authority};
use http_body_util::BodyExt;
use sluice_egress::EgressError;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView,
    WasiHttpHooks, WasiHttpView,
    p2::{
        body::{HostFutureTrailers, HostIncomingBody, HostOutgoingBody},
        types::{
            HostFutureIncomingResponse, HostIncomingRequest, HostIncomingResponse, HostOutgoingRequest,
            HostOutgoingResponse, HostResponseOutparam,
        },
    },
    p3::{
        self,
        bindings::http::types::{DnsErrorPayload, ErrorCode},
    },
};

use crate::{
    Calls, Identity, NEXT_AUTHORITY, NextFuture, apart,
    bodies::{FromGuest, ToGuest},
    limiter::Limiter,
    logs::{Log, Logged},
    meter::Meter,
    store::Held,
};

/// Headers, bodies, streams that a guest may hold at once: each costs memory of the host.
pub(crate) const RESOURCES_MAX: usize = 1_024;
/// Bytes that a guest may hand to the host in one call.
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a body that the host takes from a guest at once.
const BODY_CHUNK_BYTES_MAX: usize = 128 << 10;

pub(crate) struct State {
    wasi: Wasi,
    http: WasiHttpCtx,
    hooks: Hooks,
    limiter: Limiter,
}

impl State {
    /// `is_concurrent`: for instances that run several tasks.
    pub(crate) fn new(identity: &Arc<Identity>, memory_bytes_max: u64, meter: Arc<Meter>, is_concurrent: bool) -> Self {
        Self {
            wasi: Wasi::new(identity),
            http: WasiHttpCtx::new(),
            limiter: Limiter::new(memory_bytes_max, meter.clone()),
            hooks: Hooks { meter, call: None, is_concurrent },
        }
    }
}

/// What every toolchain imports, and that gives nothing away.
pub(crate) struct Wasi {
    pub(crate) table: ResourceTable,
    ctx: WasiCtx,
    logged: Arc<Logged>,
}

impl Wasi {
    pub(crate) fn new(identity: &Arc<Identity>) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let logged = Arc::<Logged>::default();
        let log = |stream| Log { identity: identity.clone(), stream, logged: logged.clone() };
        let mut ctx = WasiCtx::builder();
        ctx.stdout(log("stdout"))
            .stderr(log("stderr"))
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false);
        Self { table, ctx: ctx.build(), logged }
    }

    /// Another call begins.
    pub(crate) fn begin(&self) {
        self.logged.begin();
    }

    pub(crate) fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }

    /// Whether its table might be too full for the next call.
    pub(crate) fn is_worn(&mut self) -> bool {
        self.table.iter_mut().count() > RESOURCES_MAX / 2
    }
}

impl Held for State {
    fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    fn meter(&self) -> &Arc<Meter> {
        &self.hooks.meter
    }

    fn meter_by(&mut self, meter: &Arc<Meter>) {
        self.hooks.meter.clone_from(meter);
        self.limiter.meter_by(meter);
        self.wasi.begin();
    }

    fn is_worn(&mut self) -> bool {
        self.limiter.is_half_used() || self.wasi.is_worn() || self.holds_messages()
    }
}

impl State {
    /// A call begins: the chain's side of it.
    pub(crate) fn serve(&mut self, call: Call) {
        self.hooks.call = Some(call);
    }

    /// The call is over: the chain's side of it is let go.
    pub(crate) fn rest(&mut self) {
        self.hooks.call = None;
    }

    /// Asks the rest of the chain.
    pub(crate) fn next(&mut self, request: Request<WasiBody>) -> impl Future<Output = Got> + Send + use<> {
        self.hooks.next(request)
    }

    /// The host that a guest gave a request by its authority: who only passes on the one that came says it by `Host`.
    pub(crate) fn rewritten_host(&self, authority: Option<&Authority>) -> Option<HeaderValue> {
        let served = self.hooks.call.as_ref().and_then(|call| call.authority.as_ref());
        let rewritten = authority.filter(|authority| served != Some(authority))?;
        HeaderValue::from_str(rewritten.as_str()).ok()
    }

    /// Bodies that the guest has begun and neither finished nor dropped.
    pub(crate) fn bodies_left(&mut self) -> usize {
        self.wasi.table.iter_mut().filter(|entry| entry.is::<HostOutgoingBody>()).count()
    }

    /// Whether the guest kept something of a call's messages: to let go of it, it must go.
    fn holds_messages(&mut self) -> bool {
        self.wasi.table.iter_mut().any(|entry| {
            entry.is::<HostIncomingRequest>()
                || entry.is::<HostIncomingResponse>()
                || entry.is::<HostIncomingBody>()
                || entry.is::<HostFutureIncomingResponse>()
                || entry.is::<HostFutureTrailers>()
                || entry.is::<HostOutgoingRequest>()
                || entry.is::<HostOutgoingResponse>()
                || entry.is::<HostOutgoingBody>()
                || entry.is::<HostResponseOutparam>()
                || entry.is::<p3::Request>()
                || entry.is::<p3::Response>()
        })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.view()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.wasi.table, hooks: &mut self.hooks }
    }
}

/// What a call is about.
pub(crate) struct Call {
    pub(crate) calls: Arc<dyn Calls>,
    /// Of the request that is served.
    pub(crate) authority: Option<Authority>,
}

struct Hooks {
    meter: Arc<Meter>,
    /// Nothing between two calls.
    call: Option<Call>,
    is_concurrent: bool,
}

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Box<dyn Future<Output = Result<(Response<WasiBody>, Done), Error>> + Send>;

/// Made once: the default allocates one for each header that is looked at.
static FORBIDDEN: LazyLock<ForbiddenHeaderFilter> = LazyLock::new(|| Arc::new(is_forbidden));

/// `Host` is the guest's: setting it is how a worker rewrites the host.
fn is_forbidden(name: &HeaderName) -> bool {
    *name != http::header::HOST && DEFAULT_FORBIDDEN_HEADERS.contains(name)
}

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        FORBIDDEN.clone()
    }

    fn set_host_header(&mut self) -> bool {
        false
    }

    /// A guest that names no scheme means this one: nothing else is spoken.
    fn default_scheme(&mut self) -> Option<http::uri::Scheme> {
        Some(http::uri::Scheme::HTTP)
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }

    fn send_request(&mut self, request: Request<WasiBody>, _options: Option<RequestOptions>, _done: Done) -> Sent {
        let is_next = request.uri().host().is_some_and(|host| host.eq_ignore_ascii_case(NEXT_AUTHORITY));
        if is_next { Box::new(sent(self.next(request))) } else { Box::new(sent(self.fetch(request))) }
    }
}

/// What comes back to a guest.
type Got = Result<Response<WasiBody>, EgressError>;

async fn sent(got: impl Future<Output = Got>) -> Result<(Response<WasiBody>, Done), Error> {
    let response = got.await.map_err(|e| Error::from(error_code(&e)))?;
    Ok((response, Box::new(async { Ok(()) })))
}

impl Hooks {
    fn next(&mut self, request: Request<WasiBody>) -> impl Future<Output = Got> + Send + use<> {
        let open = NextOpen::new(self.meter.clone());
        let request = request.map(|body| FromGuest::served(body, self.meter.clone()).boxed_unsync());
        let response = self.call.as_ref().map_or_else(nowhere, |call| call.calls.next(request));
        // Whoever drives that response's body must not be an event loop.
        let response = if self.is_concurrent { apart::called(response) } else { response };
        async move {
            let response = response.await?;
            let meter = open.0.0.clone();
            Ok(response.map(|body| ToGuest::served(body, meter).boxed_unsync()))
        }
    }

    fn fetch(&mut self, request: Request<WasiBody>) -> impl Future<Output = Got> + Send + use<> {
        let asked = Asked::new(self.meter.clone());
        let request = request.map(|body| FromGuest::fetching(body, self.meter.clone()).boxed_unsync());
        let response = self.call.as_ref().map_or_else(nowhere, |call| call.calls.fetch(request));
        async move {
            let response = response.await?;
            let meter = asked.0.clone();
            Ok(response.map(|body| ToGuest::fetched(body, meter).boxed_unsync()))
        }
    }
}

/// No call runs.
fn nowhere() -> NextFuture {
    Box::pin(async { Err(EgressError::Budget) })
}

/// What a guest of either version is told. No more than it needs: errors name no addresses.
pub(crate) fn error_code(error: &EgressError) -> ErrorCode {
    match error {
        EgressError::NotGranted { .. } => ErrorCode::HttpRequestDenied,
        EgressError::AddressDenied { .. } => ErrorCode::DestinationIpProhibited,
        EgressError::Unnamed { .. } => ErrorCode::HttpRequestUriInvalid,
        EgressError::Budget => ErrorCode::LoopDetected,
        EgressError::Unknown { .. } | EgressError::Resolve { .. } => {
            ErrorCode::DnsError(DnsErrorPayload { rcode: None, info_code: None })
        }
        EgressError::Connect { .. } => ErrorCode::ConnectionRefused,
        EgressError::ConnectTimeout { .. } => ErrorCode::ConnectionTimeout,
        EgressError::ResponseTimeout { .. } => ErrorCode::HttpResponseTimeout,
        EgressError::Broken { .. } | EgressError::Request(_) => ErrorCode::ConnectionTerminated,
    }
}

/// A request whose response is not there yet, also when it is given up.
struct Asked(Arc<Meter>);

impl Asked {
    fn new(meter: Arc<Meter>) -> Self {
        meter.hands.take();
        Self(meter)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.hands.give();
    }
}

/// The same to `next`.
struct NextOpen(Asked);

impl NextOpen {
    fn new(meter: Arc<Meter>) -> Self {
        meter.next_began();
        Self(Asked::new(meter))
    }
}

impl Drop for NextOpen {
    fn drop(&mut self) {
        self.0.0.next_ended();
    }
}

/// A boxed future, for signatures.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
