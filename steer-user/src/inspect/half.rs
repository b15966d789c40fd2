//! One direction of a connection, put together from its segments.

/// Bytes of a stream that are looked at: no handshake in clear is longer.
pub(super) const STREAM_MAX: u32 = 64 * 1024;
/// Pieces of a stream that are told apart; where there are more, what is new is taken for lost.
const RANGES_MAX: usize = 4096;
/// Segments behind [`STREAM_MAX`] after which nothing in front of it is waited for.
const BEHIND_MAX: u8 = 64;

/// A sender's stream as far as it was captured. Offsets are bytes from its first one.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// Sequence number of the first byte.
    base: Option<u32>,
    /// Whether a SYN said so; else it is the lowest that was seen.
    sure: bool,
    /// The bytes at their offsets; nothing is known of those outside of `ranges`.
    data: Vec<u8>,
    /// What is there, sorted, apart from each other: `[start, end)`.
    ranges: Vec<(u32, u32)>,
    /// For each segment that brought something new, the offset of its first new byte.
    firsts: Vec<u32>,
    behind: u8,
    /// Nothing more is wanted.
    closed: bool,
}

/// What a segment changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that could be read.
    None,
    /// There may be more bytes from the first one on.
    Grown,
    /// The stream starts earlier than was thought: what was read of it was something else.
    Moved,
}

impl Half {
    /// Sequence number of the first byte.
    pub(super) fn base(&self) -> Option<u32> {
        self.base
    }

    /// Whether any byte is there.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether it is certain where the stream begins.
    pub(super) fn is_sure(&self) -> bool {
        self.sure
    }

    /// Whether what is missing will not come any more.
    pub(super) fn is_over(&self) -> bool {
        self.behind >= BEHIND_MAX || self.contiguous().len() >= STREAM_MAX as usize
    }

    /// A SYN or its acknowledgement says where the stream begins. What an earlier one said of an empty stream is
    /// forgotten.
    pub(super) fn begin(&mut self, base: u32) -> Change {
        if self.is_empty() {
            self.base = Some(base);
        }
        let moved = self.base.is_some_and(|now| now != base) && !self.sure && !self.closed;
        self.sure = true;
        if moved && self.move_to(base) { Change::Moved } else { Change::None }
    }

    /// Takes a segment's payload at `seq`.
    pub(super) fn insert(&mut self, seq: u32, payload: &[u8]) -> Change {
        let mut change = Change::Grown;
        let base = *self.base.get_or_insert(seq);
        let offset = seq.wrapping_sub(base) as i32;
        if self.closed || payload.is_empty() {
            return Change::None;
        }
        let offset = match u32::try_from(offset) {
            Ok(offset) => offset,
            Err(_) if !self.sure && self.move_to(seq) => {
                change = Change::Moved;
                0
            }
            Err(_) => {
                // Bytes before the first one: keepalives, or another connection's.
                let before = offset.unsigned_abs();
                return match payload.get(before as usize..) {
                    Some(rest) if !rest.is_empty() => self.insert_at(0, rest, change),
                    _ => Change::None,
                };
            }
        };
        self.insert_at(offset, payload, change)
    }

    fn insert_at(&mut self, start: u32, payload: &[u8], change: Change) -> Change {
        if start >= STREAM_MAX {
            self.behind = self.behind.saturating_add(1);
            return change;
        }
        let end = STREAM_MAX.min(start.saturating_add(payload.len().min(STREAM_MAX as usize) as u32));
        let payload = &payload[..(end - start) as usize];
        if self.data.len() < end as usize {
            self.data.resize(end as usize, 0);
        }
        // From the first range that touches the new one to the last.
        let from = self.ranges.partition_point(|range| range.1 < start);
        let to = self.ranges.partition_point(|range| range.0 <= end);
        if from == to && self.ranges.len() >= RANGES_MAX {
            return change;
        }
        let (mut at, mut first) = (start, None);
        for &(known_start, known_end) in &self.ranges[from..to] {
            fill(&mut self.data, start, payload, at, known_start, &mut first);
            at = at.max(known_end);
        }
        fill(&mut self.data, start, payload, at, end, &mut first);
        let Some(first) = first else { return if change == Change::Moved { change } else { Change::None } };
        self.firsts.push(first);
        let touched = &self.ranges[from..to];
        let merged = (
            touched.first().map_or(start, |range| range.0.min(start)),
            touched.last().map_or(end, |range| range.1.max(end)),
        );
        self.ranges.splice(from..to, [merged]);
        change
    }

    /// Makes `base` the first byte, where that is near before the one so far.
    fn move_to(&mut self, base: u32) -> bool {
        let Some(old) = self.base else { return false };
        let by = old.wrapping_sub(base);
        let end = self.data.len() as u32;
        if by > STREAM_MAX || end + by > STREAM_MAX {
            return false;
        }
        self.data.splice(0..0, std::iter::repeat_n(0, by as usize));
        for range in &mut self.ranges {
            *range = (range.0 + by, range.1 + by);
        }
        for first in &mut self.firsts {
            *first += by;
        }
        self.base = Some(base);
        true
    }

    /// The bytes from the first one on without a hole.
    pub(super) fn contiguous(&self) -> &[u8] {
        match self.ranges.first() {
            Some(&(0, end)) => &self.data[..end as usize],
            _ => &[],
        }
    }

    /// The pieces behind the first hole, with their offsets. Each begins where a segment began.
    pub(super) fn behind_holes(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let pieces = self.ranges.iter().filter(|range| range.0 != 0);
        pieces.map(|&(start, end)| (start, &self.data[start as usize..end as usize]))
    }

    /// How many segments brought something new of the first `end` bytes.
    pub(super) fn n_segments(&self, end: u32) -> u32 {
        self.firsts.iter().filter(|first| **first < end).count() as u32
    }

    /// Nothing more is wanted: gives back what is held.
    pub(super) fn close(&mut self) {
        *self = Self { base: self.base, sure: self.sure, closed: true, ..Self::default() };
    }

    /// Whether nothing more is wanted.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes of memory held, about.
    pub(super) fn held(&self) -> usize {
        self.data.capacity() + self.ranges.capacity() * 8 + self.firsts.capacity() * 4
    }
}

/// Copies what `payload`, which starts at `start`, has of `[at, end)`, and notes the first byte that is new.
fn fill(data: &mut [u8], start: u32, payload: &[u8], at: u32, end: u32, first: &mut Option<u32>) {
    let end = end.min(start + payload.len() as u32);
    if at >= end {
        return;
    }
    first.get_or_insert(at);
    let (to, from) = (at as usize..end as usize, (at - start) as usize..(end - start) as usize);
    data[to].copy_from_slice(&payload[from]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_map_of_bytes(base: u32, pieces in prop::collection::vec((0u32..300, 1u32..80), 1..60)) {
            let stream: Vec<u8> = (0..400u32).map(|i| (i * 7 % 251) as u8).collect();
            let (mut half, mut there, mut n) = (Half::default(), vec![false; 400], 0);
            half.begin(base);
            for (start, len) in pieces {
                let range = start as usize..(start + len) as usize;
                n += u32::from(there[range.clone()].contains(&false));
                there[range.clone()].fill(true);
                half.insert(base.wrapping_add(start), &stream[range]);
                let prefix = there.iter().take_while(|there| **there).count();
                prop_assert_eq!(half.contiguous(), &stream[..prefix]);
                prop_assert_eq!(half.n_segments(400), n);
                for (at, piece) in half.behind_holes() {
                    prop_assert_eq!(piece, &stream[at as usize..at as usize + piece.len()]);
                }
            }
        }

        #[test]
        fn without_a_syn_the_lowest_byte_is_the_first(
            base: u32,
            mut order in Just((0..20u32).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut half = Half::default();
            for piece in order.drain(..) {
                half.insert(base.wrapping_add(piece * 10), &[piece as u8; 10]);
            }
            let stream: Vec<u8> = (0..20u8).flat_map(|piece| [piece; 10]).collect();
            prop_assert_eq!(half.contiguous(), &stream[..]);
            prop_assert_eq!(half.n_segments(200), 20);
        }
    }

    #[test]
    fn the_bytes_that_came_first_stay() {
        let mut half = Half::default();
        half.begin(1);
        half.insert(3, b"cd");
        half.insert(1, b"ABXXEF");
        assert_eq!(half.contiguous(), b"ABcdEF");
        assert_eq!(half.n_segments(6), 2);
    }

    #[test]
    fn a_keepalive_brings_nothing() {
        let mut half = Half::default();
        half.begin(1);
        assert_eq!(half.insert(0, b"x"), Change::None);
        assert_eq!(half.insert(0, b"xab"), Change::Grown);
        assert_eq!(half.contiguous(), b"ab");
    }
}
