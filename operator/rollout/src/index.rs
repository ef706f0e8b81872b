//! Looks things up by hash. Names of one team differ in their last letters: to compare them all the way down a tree, a dozen
//! times for each unit, was half of a plan's time.

#![allow(clippy::disallowed_types, reason = "nobody can go through an index, so that its order never shows")]

use std::{collections::HashMap, hash::Hash};

/// Values by name, each to be had by its name alone.
pub(crate) struct Index<'a, K, V>(HashMap<&'a K, V>);

impl<'a, K: Eq + Hash, V> Index<'a, K, V> {
    pub(crate) fn get(&self, name: &K) -> Option<&V> {
        self.0.get(name)
    }

    /// The same, with the name as long as what it names.
    pub(crate) fn get_key_value(&self, name: &K) -> Option<(&'a K, &V)> {
        self.0.get_key_value(name).map(|(name, value)| (*name, value))
    }

    /// The value of a name; a default one where there was none.
    pub(crate) fn entry(&mut self, name: &'a K) -> &mut V
    where
        V: Default,
    {
        self.0.entry(name).or_default()
    }
}

impl<K, V> Default for Index<'_, K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<'a, K: Eq + Hash, V> FromIterator<(&'a K, V)> for Index<'a, K, V> {
    fn from_iter<I: IntoIterator<Item = (&'a K, V)>>(named: I) -> Self {
        Self(named.into_iter().collect())
    }
}
