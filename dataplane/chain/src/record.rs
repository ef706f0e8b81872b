//! What the chain tells whoever counts.

use std::{sync::Arc, time::Duration};

use sluice_config::{Digest, UnitRef};
use sluice_worker::{Outcome, Phase};

/// Whoever counts. Implemented by the binary.
pub trait Recorder: Send + Sync + 'static {
    /// The counters of one revision of a unit, worker or routes. Asked for once per snapshot and unit: series start
    /// here, at zero, and may end some time after the last clone is dropped. `phases` are those of its calls; a route
    /// table has none.
    fn unit(&self, unit: &UnitRef, revision: &Digest, phases: &[Phase]) -> Arc<dyn UnitRecorder>;
    /// A request that no route matched or that was refused: no unit is charged.
    fn unrouted(&self, _class: Class) {}
}

/// The counters of one revision. Called on serving threads: must not block.
pub trait UnitRecorder: Send + Sync + 'static {
    /// A call of the worker ended.
    fn call(&self, record: CallRecord);
    /// A request that went through the unit has its response's head, or its client left before.
    fn request(&self, record: RequestRecord);
    /// The unit failed in a request that was recorded as without its fault: its response broke off after the head.
    /// Told once a request.
    fn broke_off(&self);
}

/// `sluice_worker_calls_total`, `sluice_worker_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRecord {
    /// Which part of the request.
    pub phase: Phase,
    /// What the call ended in.
    pub outcome: Outcome,
    /// Its own time.
    pub own: Duration,
}

/// `sluice_unit_requests_total`, `sluice_unit_request_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// Class of the response's status.
    pub class: Class,
    /// Who made the response, as this unit sees it.
    pub origin: Origin,
    /// The unit itself failed in this request: trap, limit, invalid, not loaded, aborted; a route that
    /// names what nobody can reach. Also where `onFailure: open` hid it.
    pub fault: bool,
    /// From the request's head to the response's head.
    pub duration: Duration,
}

/// Class of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// 1xx and 2xx.
    C2xx,
    /// 3xx.
    C3xx,
    /// 4xx.
    C4xx,
    /// The client left before the response's head.
    C499,
    /// 5xx.
    C5xx,
}

impl Class {
    /// Of a status; what is above 5xx counts as 5xx.
    #[must_use]
    pub fn of(status: http::StatusCode) -> Self {
        match status.as_u16() {
            0..300 => Self::C2xx,
            300..400 => Self::C3xx,
            400..500 => Self::C4xx,
            500.. => Self::C5xx,
        }
    }

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::C2xx => "2xx",
            Self::C3xx => "3xx",
            Self::C4xx => "4xx",
            Self::C499 => "499",
            Self::C5xx => "5xx",
        }
    }
}

/// Who made a response, as one unit sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The unit itself, also by failing.
    Own,
    /// Another unit.
    Other,
    /// The upstream, also by not answering.
    Upstream,
    /// The proxy.
    Proxy,
}

impl Origin {
    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "self",
            Self::Other => "other",
            Self::Upstream => "upstream",
            Self::Proxy => "proxy",
        }
    }
}
