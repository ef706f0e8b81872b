//! What a node counted, as the operator reads it from the admin listener.

use serde::{Deserialize, Serialize};

use crate::{Digest, UnitRef};

/// Upper bounds of the latency buckets, in milliseconds; a last bucket has no bound.
pub const LATENCY_BUCKETS_MS: [u64; 9] = [1, 5, 10, 25, 50, 100, 250, 1_000, 30_000];

/// All counters of a node since its process started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Version of this format, see [`crate::FORMAT`].
    pub format: u32,
    /// Name of the node.
    pub node: String,
    /// See [`crate::NodeReport::boot`].
    pub boot: String,
    /// Group of the node.
    pub group: String,
    /// Generation of the assignment in force.
    pub generation: u64,
    /// One row a unit and revision.
    pub units: Vec<UnitCounters>,
}

/// What one revision of one unit did on a node since the process started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitCounters {
    /// Which unit.
    pub unit: UnitRef,
    /// Which revision.
    pub revision: Digest,
    /// Requests that passed through it.
    pub requests: u64,
    /// Requests in which the worker itself failed: trap, limit, invalid answer, not loaded; counted
    /// also where `onFailure: open` hid it from the client.
    pub faults: u64,
    /// Requests that it answered itself with 5xx, without fault.
    pub errors_self: u64,
    /// Requests that ended in 5xx for which an upstream, the proxy or another worker answers.
    pub errors_other: u64,
    /// Requests by latency, see [`LATENCY_BUCKETS_MS`]; not cumulative.
    pub latency: Vec<u64>,
}
