//! What the two versions of `wasi:http` have in common: a worker that can be made an instance of, and that instance.

use wasmtime::{Engine, Store, component::InstancePre};
use wasmtime_wasi_http::{p2::bindings as v2, p3::bindings as v3};

use crate::{meter::Meter, state::State, store};

/// Linked, and of a contract's type.
#[derive(Clone)]
pub(crate) enum Pre {
    Proxy(v2::ProxyPre<State>),
    Handler(v3::ServicePre<State>),
}

impl Pre {
    pub(crate) fn instance_pre(&self) -> &InstancePre<State> {
        match self {
            Self::Proxy(pre) => pre.instance_pre(),
            Self::Handler(pre) => pre.instance_pre(),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.instance_pre().engine()
    }

    /// Whether its instances run several tasks.
    pub(crate) fn is_concurrent(&self) -> bool {
        matches!(self, Self::Handler(_))
    }

    pub(super) async fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Instance> {
        Ok(match self {
            Self::Proxy(pre) => Instance::Proxy(pre.instantiate_async(store).await?),
            Self::Handler(pre) => Instance::Handler(pre.instantiate_async(store).await?),
        })
    }
}

/// What can be called.
pub(crate) enum Instance {
    Proxy(v2::Proxy),
    Handler(v3::Service),
}

impl Instance {
    /// Whether nothing of the call that returned goes on in it.
    pub(super) fn is_at_rest(&self, store: &mut Store<State>, meter: &Meter) -> bool {
        match self {
            // What it still holds is in its table.
            Self::Proxy(_) => true,
            Self::Handler(_) => !meter.hands.holds() && store.concurrent_state_table_size() <= store::TASKS_MAX / 2,
        }
    }
}
