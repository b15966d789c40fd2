//! Which connections were seen, by their sockets.

use std::{
    collections::HashMap,
    mem,
    net::{IpAddr, SocketAddr},
};

use smallvec::SmallVec;

use super::{frame::Segment, space::Entry};

/// Connections that are remembered at least; those unused for longest are forgotten first.
const REMEMBERED: usize = 1 << 16;
/// Connections of one pair that are remembered, the newest of them.
const OF_A_PAIR: usize = 64;

/// Both ends, the lower one first, so that both directions have one key. IPv4 addresses are mapped
/// to IPv6 (RFC 4291 2.5.5.2), under which nobody sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pair {
    addresses: [u128; 2],
    ports: [u16; 2],
}

/// The connections of a pair, in the order in which they began; nearly always one.
type Entries = SmallVec<[Entry; 1]>;

/// Two generations of connections: what is used in the older one moves to the younger, and where
/// the younger one is full the older one is forgotten.
#[derive(Default)]
pub(crate) struct Known {
    young: HashMap<Pair, Entries>,
    n_young: usize,
    old: HashMap<Pair, Entries>,
}

impl Pair {
    /// The pair of a segment, and which of its ends sent it.
    pub(crate) fn of(segment: &Segment<'_>) -> (Self, usize) {
        let (from, to) = (end(segment.source), end(segment.destination));
        let (low, high, sender) = if from <= to { (from, to, 0) } else { (to, from, 1) };
        (Self { addresses: [low.0, high.0], ports: [low.1, high.1] }, sender)
    }
}

impl Pair {
    /// The pair of two ends.
    pub(crate) fn between(one: SocketAddr, other: SocketAddr) -> Self {
        let (from, to) = (end(one), end(other));
        let (low, high) = if from <= to { (from, to) } else { (to, from) };
        Self { addresses: [low.0, high.0], ports: [low.1, high.1] }
    }
}

fn end(address: SocketAddr) -> (u128, u16) {
    let bits = match address.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    (bits, address.port())
}

impl Known {
    /// The connections of this pair.
    pub(crate) fn of(&mut self, pair: &Pair) -> &mut [Entry] {
        if !self.old.is_empty()
            && !self.young.contains_key(pair)
            && let Some(entries) = self.old.remove(pair)
        {
            self.make_room();
            self.n_young += entries.len();
            self.young.insert(*pair, entries);
        }
        self.young.get_mut(pair).map(|entries| entries.as_mut_slice()).unwrap_or_default()
    }

    /// Remembers a connection of this pair.
    pub(crate) fn insert(&mut self, pair: Pair, entry: Entry) {
        self.make_room();
        let entries = self.young.entry(pair).or_default();
        if entries.len() < OF_A_PAIR {
            self.n_young += 1;
        } else {
            entries.remove(0);
        }
        entries.push(entry);
    }

    /// How many connections are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.values().chain(self.old.values()).map(|entries| entries.len()).sum()
    }

    fn make_room(&mut self) {
        if self.n_young >= REMEMBERED {
            self.old = mem::take(&mut self.young);
            self.n_young = 0;
        }
    }
}
