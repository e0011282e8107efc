//! Where in a list something stands, by its name.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash};

/// The places of named things in a list. It answers for one name at a time and shows no order, so that nothing can come to
/// depend on one; the hash is the same in every process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places<K: Eq + Hash>(HashMap<K, usize, BuildHasherDefault<DefaultHasher>>);

impl<K: Eq + Hash> Places<K> {
    /// Takes down where something stands. What was known by that name before stands nowhere any more.
    pub(super) fn insert(&mut self, name: K, place: usize) {
        self.0.insert(name, place);
    }

    /// Where something stands.
    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, name: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        self.0.get(name).copied()
    }
}

impl<K: Eq + Hash> Default for Places<K> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}
