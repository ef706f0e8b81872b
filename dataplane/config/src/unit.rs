//! Which unit: kind, namespace, name.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a unit of release is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum UnitKind {
    /// A component and its manifest.
    Worker,
    /// A route table: hosts and paths to upstreams.
    Routes,
    /// A bundle of keys and values that workers read.
    Config,
}

impl UnitKind {
    /// The letter that stands for the kind in names of objects.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Worker => 'w',
            Self::Routes => 'r',
            Self::Config => 'c',
        }
    }
}

impl fmt::Display for UnitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "Worker",
            Self::Routes => "Routes",
            Self::Config => "Config",
        })
    }
}

/// A unit's identity in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct UnitRef {
    /// Worker, Routes or Config.
    pub kind: UnitKind,
    /// Namespace of the Repository that it comes from.
    pub namespace: String,
    /// Name in its manifest.
    pub name: String,
}

impl UnitRef {
    /// A unit's identity.
    pub fn new(kind: UnitKind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// Name of the unit's object, `<name>-<w|r|c>`: a worker and a route table may share a name.
    #[must_use]
    pub fn object_name(&self) -> String {
        format!("{}-{}", self.name, self.kind.letter())
    }
}

/// `edge-team/shop` for a worker, `edge-team/shop (routes)` otherwise.
impl fmt::Display for UnitRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        match self.kind {
            UnitKind::Worker => Ok(()),
            UnitKind::Routes => f.write_str(" (routes)"),
            UnitKind::Config => f.write_str(" (config)"),
        }
    }
}
