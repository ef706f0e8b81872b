//! What a node says it runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Digest, UnitKind};

/// A report names at most this many exceptions; `exceptionsTotal` tells how many there are.
pub const MAX_EXCEPTIONS: usize = 50;

/// A node's report: everything is as assigned, but for the exceptions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Group whose assignment the node follows.
    #[serde(default)]
    pub group: String,
    /// Changes at each start of the process: counters of another boot start at zero.
    #[serde(default)]
    pub boot: String,
    /// Pod that writes this report.
    #[serde(default)]
    pub pod: String,
    /// `host:port` of the admin listener, where the counters are.
    #[serde(default)]
    pub admin: String,
    /// Generation of the assignment that is in force; 0 before the first.
    #[serde(default)]
    pub applied_generation: u64,
    /// Units that do not run as assigned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<Exception>,
    /// How many exceptions there are, also those not listed.
    #[serde(default)]
    #[schemars(range(max = 4_294_967_295_u32))]
    pub exceptions_total: u32,
    /// Why the newest assignment as a whole is not in force, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Versions of the wire format that this node reads.
    #[serde(default)]
    #[schemars(inner(range(max = 4_294_967_295_u32)))]
    pub formats: Vec<u32>,
    /// Contracts that this node runs, e.g. `wasi:http/proxy@0.2`.
    #[serde(default)]
    pub contracts: Vec<String>,
}

/// One unit that does not run as assigned on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exception {
    /// Kind of the unit.
    pub kind: UnitKind,
    /// Namespace of the unit.
    pub namespace: String,
    /// Name of the unit.
    pub name: String,
    /// What was assigned.
    pub revision: Digest,
    /// Whose fault it is.
    pub reason: ExceptionKind,
    /// What happened, and what to do.
    pub message: String,
}

/// Whose fault an exception is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExceptionKind {
    /// The revision's: it does not compile, imports what nothing grants, is invalid. No node could run it.
    Refused,
    /// The node's: disk full, artifact unreachable. The same revision may run elsewhere or later.
    LocalTrouble,
}
