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

    /// The unit whose object has this name; none where no unit's object is named so.
    #[must_use]
    pub fn of_object(namespace: &str, object_name: &str) -> Option<Self> {
        let (name, letter) = object_name.rsplit_once('-').filter(|(name, _)| !name.is_empty())?;
        let kinds = [UnitKind::Worker, UnitKind::Routes, UnitKind::Config];
        let kind = kinds.into_iter().find(|kind| letter == kind.letter().to_string())?;
        Some(Self::new(kind, namespace, name))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_after_one_unit_alone() {
        for (kind, name) in [(UnitKind::Worker, "shop"), (UnitKind::Routes, "shop"), (UnitKind::Config, "a-w")] {
            let unit = UnitRef::new(kind, "team", name);
            assert_eq!(UnitRef::of_object("team", &unit.object_name()), Some(unit));
        }
        for other in ["", "shop", "shop-x", "-w", "shop-wr"] {
            assert_eq!(UnitRef::of_object("team", other), None, "{other}");
        }
    }
}
