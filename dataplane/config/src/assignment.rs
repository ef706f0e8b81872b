//! What one group should run.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{Digest, Environment, UnitKind, UnitRef, limits};

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
    /// A line a unit, sorted: `Worker/edge-team/auth since=7 revision=<digest> stable=<digest or same>`. The generation at which
    /// the line last changed, what to run (none: it is being removed), and what to go back to (same: that very revision; none:
    /// it never succeeded).
    // One text, for the API server's sake: docs/decisions/0022-entries-are-lines.md.
    #[serde(with = "text")]
    #[schemars(schema_with = "text::schema")]
    pub entries: Vec<Entry>,
}

/// One unit in an assignment, as a line: `Worker/edge-team/auth since=7 revision=… stable=…`. What is stable and runs is not
/// written twice: `stable=same`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Kind of the unit.
    pub kind: UnitKind,
    /// Namespace of the unit.
    pub namespace: String,
    /// Name of the unit.
    pub name: String,
    /// What to run; absent while the unit is being removed.
    pub revision: Option<Digest>,
    /// What to go back to, kept compiled; absent until the unit has succeeded once.
    pub stable: Option<Digest>,
    /// Generation at which this entry last changed.
    pub since: u64,
}

/// A line that is no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{line}` is no entry ({why}): write Worker/edge-team/auth since=7 revision=<digest> stable=<digest or same>")]
pub struct NoEntry {
    line: String,
    why: &'static str,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{} since={}", self.kind, self.namespace, self.name, self.since)?;
        if let Some(revision) = &self.revision {
            write!(f, " revision={revision}")?;
        }
        match &self.stable {
            None => Ok(()),
            stable if *stable == self.revision => write!(f, " stable={SAME}"),
            Some(stable) => write!(f, " stable={stable}"),
        }
    }
}

/// In place of stable's digest, where that is the revision's.
const SAME: &str = "same";

impl FromStr for Entry {
    type Err = NoEntry;

    fn from_str(line: &str) -> Result<Self, NoEntry> {
        parse(line).map_err(|why| NoEntry { line: line.chars().take(100).collect(), why })
    }
}

fn parse(line: &str) -> Result<Entry, &'static str> {
    let mut words = line.split(' ');
    let unit: Vec<&str> = words.next().unwrap_or_default().split('/').collect();
    let [kind, namespace, name] = unit[..] else { return Err("it begins with no unit") };
    let kinds = [UnitKind::Worker, UnitKind::Routes, UnitKind::Config];
    let kind = kinds.into_iter().find(|known| known.to_string() == kind).ok_or("there is no such kind of unit")?;
    let (mut since, mut revision, mut stable) = (None, None, None);
    for word in words {
        let (key, value) = word.split_once('=').ok_or("a word is no key=value")?;
        let is_new = match key {
            "since" => since.replace(value.parse::<u64>().map_err(|_| "since is no number")?).is_none(),
            "revision" => revision.replace(value.parse::<Digest>().map_err(|_| "revision is no digest")?).is_none(),
            "stable" => stable.replace(value).is_none(),
            _ => return Err("there is no such key"),
        };
        if !is_new {
            return Err("a key stands there twice");
        }
    }
    let since = since.ok_or("since is missing")?;
    let stable = match stable {
        None => None,
        Some(SAME) => Some(revision.clone().ok_or("stable is the same as a revision that is missing")?),
        Some(digest) => Some(digest.parse::<Digest>().map_err(|_| "stable is no digest")?),
    };
    Ok(Entry { kind, namespace: namespace.to_owned(), name: name.to_owned(), revision, stable, since })
}

/// A unit of the longest names, and two digests.
const ENTRY_BYTES_MAX: usize = 600;

/// Entries as one text, each on a line of its own.
mod text {
    use std::fmt::Write;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{ENTRY_BYTES_MAX, Entry, Schema, SchemaGenerator, json_schema, limits};

    pub(super) fn serialize<S: Serializer>(entries: &[Entry], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for entry in entries {
            // Text can always be written to memory.
            let _infallible = writeln!(text, "{entry}");
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.lines().map(|line| line.parse().map_err(D::Error::custom)).collect()
    }

    pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": limits::ENTRIES * (ENTRY_BYTES_MAX + 1),
        })
    }
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
