//! Which connections were seen, and by which initial sequence numbers they are known.

use std::{collections::HashMap, mem, net::SocketAddr};

use super::frame::Segment;

/// Connections that are remembered at least; those unused for longest are forgotten first.
const REMEMBERED: usize = 1 << 16;

/// Both ends, the lower one first, so that both directions have one key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Pair {
    ends: [SocketAddr; 2],
}

/// What is remembered of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Number of its row.
    pub(super) number: u64,
    /// Initial sequence number of each end of the [`Pair`], where its SYN was seen.
    pub(super) isn: [Option<u32>; 2],
}

/// Two generations of connections: what is used in the older one moves to the younger, and where the younger one is
/// full the older one is forgotten.
#[derive(Default)]
pub(super) struct Known {
    young: HashMap<Pair, Entry>,
    old: HashMap<Pair, Entry>,
}

impl Pair {
    /// The pair of a segment, and which of its ends sent it.
    pub(super) fn of(segment: &Segment<'_>) -> (Self, usize) {
        if segment.source <= segment.destination {
            (Self { ends: [segment.source, segment.destination] }, 0)
        } else {
            (Self { ends: [segment.destination, segment.source] }, 1)
        }
    }
}

impl Known {
    /// The newest connection of this pair.
    pub(super) fn get(&mut self, pair: &Pair) -> Option<Entry> {
        if let Some(entry) = self.young.get(pair) {
            return Some(*entry);
        }
        let entry = self.old.remove(pair)?;
        self.insert(*pair, entry);
        Some(entry)
    }

    /// Remembers a connection instead of the one before of this pair.
    pub(super) fn insert(&mut self, pair: Pair, entry: Entry) {
        if self.young.len() >= REMEMBERED && !self.young.contains_key(&pair) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(pair, entry);
    }
}
