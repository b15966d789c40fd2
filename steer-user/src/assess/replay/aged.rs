//! A table of bounded size: what is not used for longest is forgotten first, as in the kernel's LRU
//! maps, and as there not exactly in that order.

use std::{collections::HashMap, hash::Hash, mem};

/// Two generations: what is used in the older one moves to the younger, and where the younger one
/// is full the older one is forgotten.
pub(super) struct Aged<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
    n_forgotten: u64,
}

impl<K: Eq + Hash + Copy, V: Copy> Aged<K, V> {
    /// Room for `room` entries.
    pub(super) fn new(room: usize) -> Self {
        let half = (room / 2).max(1);
        Self { young: HashMap::new(), old: HashMap::new(), half, n_forgotten: 0 }
    }

    /// What is known of a key.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if !self.young.contains_key(key) {
            let value = self.old.remove(key)?;
            self.make_room();
            self.young.insert(*key, value);
        }
        self.young.get_mut(key)
    }

    /// Enters what is known of a key, in place of what was.
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        self.make_room();
        self.young.insert(key, value);
    }

    /// Forgets a key, and says what was known of it.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// Keeps only those keys.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.young.retain(|key, _| keep(key));
        self.old.retain(|key, _| keep(key));
    }

    /// All that is known.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.young.iter().chain(&self.old)
    }

    /// How many entries were forgotten for want of room.
    pub(super) fn n_forgotten(&self) -> u64 {
        self.n_forgotten
    }

    fn make_room(&mut self) {
        if self.young.len() >= self.half {
            let forgotten = mem::replace(&mut self.old, mem::take(&mut self.young));
            self.n_forgotten += forgotten.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_what_is_not_is_forgotten() {
        let mut table = Aged::new(100);
        (0..1000).for_each(|key| {
            table.insert(key, key);
            assert_eq!(table.get_mut(&0), Some(&mut 0), "used all the time");
        });
        assert!(table.iter().count() <= 100 && table.get_mut(&1).is_none());
        assert!((960..1000).all(|key| table.get_mut(&key).is_some()));
        assert!(table.n_forgotten() >= 900, "{}", table.n_forgotten());
    }
}
