//! What one group should run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Digest, Environment, UnitKind, UnitRef};

/// What one deployment group should run. Written only by the operator, watched by the group's nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// Version of this format, see [`crate::FORMAT`].
    pub format: u32,
    /// Whose overlay of each revision applies.
    pub environment: Environment,
    /// Counts the changes of this assignment; nodes ignore one that is lower than what they run.
    pub generation: u64,
    /// Stages of the chain, in order.
    pub stages: Vec<String>,
    /// One entry a unit, sorted by kind, namespace, name.
    pub entries: Vec<Entry>,
}

/// One unit in an assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Kind of the unit.
    pub kind: UnitKind,
    /// Namespace of the unit.
    pub namespace: String,
    /// Name of the unit.
    pub name: String,
    /// What to run; absent while the unit is being removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Digest>,
    /// What to go back to, kept compiled; absent until the unit has succeeded once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<Digest>,
    /// Generation at which this entry last changed.
    pub since: u64,
}

impl Entry {
    /// Whose entry this is.
    #[must_use]
    pub fn unit(&self) -> UnitRef {
        UnitRef::new(self.kind, self.namespace.clone(), self.name.clone())
    }
}

impl Assignment {
    /// The entry of a unit.
    #[must_use]
    pub fn entry(&self, unit: &UnitRef) -> Option<&Entry> {
        self.entries.iter().find(|e| e.kind == unit.kind && e.namespace == unit.namespace && e.name == unit.name)
    }
}
