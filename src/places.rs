//! Looking things up by name, also by one that is misspelt.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use rustc_hash::FxBuildHasher;

/// Things by name. It answers for one name at a time and shows no order, so that nothing can come to depend on one. The hash is
/// the same in every process: names are those of hosts and requests, and choosing one takes the key of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ByName<K: Eq + Hash, V>(HashMap<K, V, FxBuildHasher>);

/// Where in a list something stands, by its name.
pub(crate) type Places<K> = ByName<K, usize>;

impl<K: Eq + Hash, V> ByName<K, V> {
    /// Remembers something. What was known by that name before is known no more.
    pub(crate) fn insert(&mut self, name: K, value: V) {
        self.0.insert(name, value);
    }

    /// What is known by a name.
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, name: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(name)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, name: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(name)
    }
}

impl<K: Eq + Hash> Places<K> {
    /// Where something stands.
    pub(crate) fn place<Q: Eq + Hash + ?Sized>(&self, name: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        self.get(name).copied()
    }
}

/// The known name that is most like this one, when one is.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The measure and the bound that clap has for its flags.
    let likeness = known.into_iter().map(|known| (strsim::jaro(name, known), known));
    likeness.filter(|(likeness, _)| *likeness > 0.7).max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known)
}

impl<K: Eq + Hash, V> Default for ByName<K, V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}
