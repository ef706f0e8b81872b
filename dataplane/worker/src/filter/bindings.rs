//! What the engine makes of `wit/`.

#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]

/// A guest's request: there is one in a call, and the store holds it.
pub struct RequestHandle;

/// A guest's response: there is one in a call, and the store holds it.
pub struct ResponseHandle;

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "sluice:worker/filter",
    imports: {
        "sluice:worker/types.[method]request.body": async | trappable,
        "sluice:worker/types.[method]response.body": async | trappable,
        "sluice:worker/fetch.send": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: {
        "sluice:worker/types.request": RequestHandle,
        "sluice:worker/types.response": ResponseHandle,
    },
});

use wasmtime::component::Resource;

/// Each phase is exported or not, and the world says that both are: what a phase's function is, is said here again.
pub(super) const ON_REQUEST: &str = "sluice:worker/on-request@0.1.0";
pub(super) const ON_RESPONSE: &str = "sluice:worker/on-response@0.1.0";
pub(super) type OnRequestParams = (Resource<RequestHandle>,);
pub(super) type OnRequestResults = (sluice::worker::types::Action,);
pub(super) type OnResponseParams = (Resource<ResponseHandle>,);
pub(super) type OnResponseResults = ();
