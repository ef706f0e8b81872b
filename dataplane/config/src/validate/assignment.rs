//! Checks of an assignment as a whole.

use std::collections::BTreeSet;

use super::{Invalid, invalid, limits, name};
use crate::{Assignment, Entry, FORMAT};

impl Assignment {
    /// Checks the structure. An assignment that fails is refused whole: what runs keeps running.
    ///
    /// # Errors
    /// The first thing wrong.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.format != FORMAT {
            return Err(invalid("format", format!("{} is not {FORMAT}, the version read here", self.format)));
        }
        if self.stages.is_empty() || self.stages.len() > limits::STAGES {
            return Err(invalid(
                "stages",
                format!("{} stages; 1 to {} are allowed", self.stages.len(), limits::STAGES),
            ));
        }
        let mut stages = BTreeSet::new();
        for stage in &self.stages {
            name("stages", stage)?;
            if !stages.insert(stage) {
                return Err(invalid("stages", format!("`{stage}` is listed twice")));
            }
        }
        if self.entries.len() > limits::ENTRIES {
            return Err(invalid(
                "entries",
                format!("{} entries; at most {} are allowed", self.entries.len(), limits::ENTRIES),
            ));
        }
        let mut units = BTreeSet::new();
        for entry in &self.entries {
            self.validate_entry(entry)?;
            if !units.insert(entry.unit()) {
                return Err(invalid("entries", format!("{} is listed twice", entry.unit())));
            }
        }
        Ok(())
    }

    fn validate_entry(&self, entry: &Entry) -> Result<(), Invalid> {
        name("entries.namespace", &entry.namespace)?;
        name("entries.name", &entry.name)?;
        let field = || format!("entries[{}]", entry.unit());
        if entry.since > self.generation {
            return Err(invalid(field(), format!("since {} is after generation {}", entry.since, self.generation)));
        }
        if entry.revision.is_none() && entry.stable.is_none() {
            return Err(invalid(field(), "neither revision nor stable; leave the entry out"));
        }
        Ok(())
    }
}
