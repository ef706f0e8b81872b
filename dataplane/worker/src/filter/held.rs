//! What a store holds.

use std::{mem, sync::Arc};

use wasmtime_wasi::{WasiCtxView, WasiView};

use super::{
    Bindings, Exchange,
    message::{RequestHeld, ResponseHeld},
    notes::Written,
};
use crate::{Identity, failure::Invalid, limiter::Limiter, meter::Meter, state::Wasi, store::Held};

/// What a call may keep for its response phase.
const STATE_BYTES_MAX: usize = 4 << 10;

/// What a call is about.
pub(super) struct About {
    pub(super) subject: Subject,
    pub(super) exchange: Arc<Exchange>,
    pub(super) bindings: Bindings,
    /// What the request phase kept.
    pub(super) kept: Vec<u8>,
}

/// The message of a call. It is handed on often, and large.
pub(super) enum Subject {
    Request(Box<RequestHeld>),
    Response(Box<ResponseHeld>),
    /// No call: a dry start, or an instance that waits for the next one.
    Nothing,
}

/// A call's request or response, and what the guest has written so far.
pub(crate) struct State {
    pub(super) subject: Subject,
    pub(super) exchange: Option<Arc<Exchange>>,
    pub(super) bindings: Option<Bindings>,
    pub(super) written: Written,
    pub(super) kept: Vec<u8>,
    pub(super) identity: Arc<Identity>,
    pub(super) meter: Arc<Meter>,
    limiter: Limiter,
    /// Most guests never ask for it.
    wasi: Option<Box<Wasi>>,
}

/// What a call leaves.
pub(super) struct Left {
    pub(super) subject: Subject,
    pub(super) written: Written,
    pub(super) kept: Vec<u8>,
}

impl State {
    /// For no call yet.
    pub(super) fn new(identity: &Arc<Identity>, memory_bytes_max: u64, meter: Arc<Meter>) -> Self {
        Self {
            subject: Subject::Nothing,
            exchange: None,
            bindings: None,
            written: Written::default(),
            kept: Vec::new(),
            identity: identity.clone(),
            limiter: Limiter::new(memory_bytes_max, meter.clone()),
            meter,
            wasi: None,
        }
    }

    /// A call begins.
    pub(super) fn begin(&mut self, about: About) {
        let About { subject, exchange, bindings, kept } = about;
        self.subject = subject;
        self.exchange = Some(exchange);
        self.bindings = Some(bindings);
        self.kept = kept;
    }

    /// The call is over: nothing of it stays.
    pub(super) fn end(&mut self) -> Left {
        self.exchange = None;
        self.bindings = None;
        Left {
            subject: mem::replace(&mut self.subject, Subject::Nothing),
            written: mem::take(&mut self.written),
            kept: mem::take(&mut self.kept),
        }
    }

    pub(super) fn request(&mut self) -> Result<&mut RequestHeld, Invalid> {
        match &mut self.subject {
            Subject::Request(request) => Ok(request),
            Subject::Response(_) | Subject::Nothing => Err(Invalid("there is no request in this call".to_owned())),
        }
    }

    pub(super) fn response(&mut self) -> Result<&mut ResponseHeld, Invalid> {
        match &mut self.subject {
            Subject::Response(response) => Ok(response),
            Subject::Request(_) | Subject::Nothing => Err(Invalid("there is no response in this call".to_owned())),
        }
    }

    pub(super) fn exchange(&self) -> Result<&Arc<Exchange>, Invalid> {
        self.exchange.as_ref().ok_or_else(|| Invalid("no request runs".to_owned()))
    }

    pub(super) fn bindings(&self) -> Result<&Bindings, Invalid> {
        self.bindings.as_ref().ok_or_else(|| Invalid("no request runs".to_owned()))
    }

    pub(super) fn keep(&mut self, value: Vec<u8>) -> Result<(), Invalid> {
        if value.len() > STATE_BYTES_MAX {
            return Err(Invalid(format!("it keeps {} bytes of state: it may keep 4 KiB", value.len())));
        }
        self.kept = value;
        Ok(())
    }
}

impl Held for State {
    fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    fn meter_by(&mut self, meter: &Arc<Meter>) {
        self.meter.clone_from(meter);
        self.limiter.meter_by(meter);
        if let Some(wasi) = &self.wasi {
            wasi.begin();
        }
    }

    fn is_worn(&mut self) -> bool {
        self.limiter.is_half_used() || self.wasi.as_mut().is_some_and(|wasi| wasi.is_worn())
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let identity = &self.identity;
        self.wasi.get_or_insert_with(|| Box::new(Wasi::new(identity))).view()
    }
}
