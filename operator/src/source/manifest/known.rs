//! Manifests that were read before: one whose bytes, and whose component's bytes, are the same is not read again.

use std::collections::{BTreeMap, BTreeSet};

use sluice_config::{Digest, Revision};

use super::{Files, Known};

/// Components of one repository whose check is remembered.
const COMPONENTS_MAX: usize = 10_000;

/// A manifest that was good. Its path tells the unit.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Its [`Files::content_id`].
    pub(super) id: String,
    /// Path of the component, and its content.
    pub(super) component: Option<(String, String)>,
    pub(super) revision: Revision,
    pub(super) digest: Digest,
}

impl Known {
    /// The manifest at this path, if it and its component are as they were.
    pub(super) fn manifest(&self, files: &dyn Files, path: &str, id: &str) -> Option<&Manifest> {
        let known = self.manifests.get(path).filter(|known| known.id == id)?;
        let is_same = |(path, id): &(String, String)| files.content_id(path).as_ref() == Some(id);
        known.component.as_ref().is_none_or(is_same).then_some(known)
    }

    /// Remembers a manifest that is good.
    pub(super) fn good(&mut self, path: &str, manifest: Manifest) {
        self.manifests.insert(path.to_owned(), manifest);
    }

    /// Forgets manifests at other paths.
    pub(super) fn keep<'a>(&mut self, paths: impl Iterator<Item = &'a String>) {
        let paths: BTreeSet<&String> = paths.collect();
        self.manifests.retain(|path, _| paths.contains(path));
        if self.components.len() > COMPONENTS_MAX {
            self.components = BTreeMap::new();
        }
    }
}
