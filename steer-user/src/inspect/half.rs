//! One direction of a connection, put together from its segments.

/// Bytes of a stream that are looked at: no handshake in clear is longer.
pub(super) const STREAM_MAX: u32 = 64 * 1024;
/// Pieces of a stream that are told apart; where there are more, what is new is taken for lost.
const RANGES_MAX: usize = 4096;
/// Segments behind [`STREAM_MAX`] after which nothing in front of it is waited for.
const BEHIND_MAX: u8 = 64;

/// A sender's stream as far as it was captured. Offsets are bytes from its first one.
#[derive(Debug, Default)]
pub(crate) struct Half {
    /// Sequence number of the first byte.
    base: Option<u32>,
    /// Who said so.
    begin: Begin,
    /// The bytes at their offsets; nothing is known of those outside of `ranges`.
    data: Vec<u8>,
    /// What is there, sorted, apart from each other: `[start, end)`.
    ranges: Vec<(u32, u32)>,
    /// For each segment that brought something new, the offsets of its first new byte and of the
    /// one behind its last new one.
    segments: Vec<(u32, u32)>,
    /// Offset of the byte behind the last one, where the sender said that it sends no more.
    end: Option<u32>,
    behind: u8,
    /// Nothing more is wanted.
    closed: bool,
}

/// Who says where a stream begins; what stands below knows better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Begin {
    /// Nobody: it is the lowest number that was seen.
    #[default]
    Lowest,
    /// The other end's SYN, which acknowledges what came with the sender's, if anything did.
    Acknowledged,
    /// The sender's SYN.
    Syn,
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
    /// Whether any byte is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether bytes are missing in front of others that are there.
    pub(crate) fn has_hole(&self) -> bool {
        self.ranges.len() > 1 || self.ranges.first().is_some_and(|range| range.0 != 0)
    }

    /// How many segments brought something new.
    pub(crate) fn n_pieces(&self) -> usize {
        self.segments.len()
    }

    /// Whether it is certain where the stream begins.
    pub(super) fn is_sure(&self) -> bool {
        self.begin != Begin::Lowest
    }

    /// Whether what is missing will not come any more.
    pub(super) fn is_over(&self) -> bool {
        let have = self.contiguous().len() as u32;
        self.behind >= BEHIND_MAX || have >= STREAM_MAX || self.end.is_some_and(|end| have >= end)
    }

    /// Whether it is over, and not a byte was sent.
    pub(super) fn is_void(&self) -> bool {
        self.end == Some(0) && self.is_empty()
    }

    /// Somebody says where the stream begins. What an earlier one said of an empty stream is
    /// forgotten.
    pub(super) fn begin(&mut self, base: u32, begin: Begin) -> Change {
        if self.closed || begin < self.begin {
            return Change::None;
        }
        let knew_better = self.begin == begin;
        self.begin = begin;
        if self.is_empty() {
            (self.base, self.end) = (Some(base), None);
        }
        let moved = self.base.is_some_and(|now| now != base) && !knew_better;
        if moved && self.move_to(base) { Change::Moved } else { Change::None }
    }

    /// The sender says that nothing is behind the byte before `seq`. Where nobody said where the
    /// stream begins, there may be more in front.
    pub(super) fn end(&mut self, seq: u32) {
        let end = self.base.filter(|_| self.is_sure()).map(|base| seq.wrapping_sub(base));
        if end.is_some_and(|end| end < STREAM_MAX) && !self.closed {
            self.end = end;
        }
    }

    /// Whether a reset with this number ends the stream: it is the one that is expected (RFC 5961
    /// 3.2), or no other is.
    pub(super) fn is_next(&self, seq: u32) -> bool {
        self.base.is_none_or(|base| base.wrapping_add(self.contiguous().len() as u32) == seq)
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
            Err(_) if !self.is_sure() && self.move_to(seq) => {
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
        let end =
            STREAM_MAX.min(start.saturating_add(payload.len().min(STREAM_MAX as usize) as u32));
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
        let (mut at, mut new) = (start, None);
        for &(known_start, known_end) in &self.ranges[from..to] {
            fill(&mut self.data, start, payload, at, known_start, &mut new);
            at = at.max(known_end);
        }
        fill(&mut self.data, start, payload, at, end, &mut new);
        let Some(new) = new else {
            return if change == Change::Moved { change } else { Change::None };
        };
        self.segments.push(new);
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
        for segment in &mut self.segments {
            *segment = (segment.0 + by, segment.1 + by);
        }
        self.end = self.end.map(|end| end + by);
        self.base = Some(base);
        true
    }

    /// The bytes from the first one on without a hole.
    pub(crate) fn contiguous(&self) -> &[u8] {
        match self.ranges.first() {
            Some(&(0, end)) => &self.data[..end as usize],
            _ => &[],
        }
    }

    /// Where segments began that stand behind the first hole, with their offsets; with `all`, those
    /// in front of it as well. Each goes on to where the next hole is.
    pub(super) fn pieces(&self, all: bool) -> impl Iterator<Item = (u32, &[u8])> {
        let mut starts: Vec<u32> = self.segments.iter().map(|segment| segment.0).collect();
        starts.sort_unstable();
        starts.dedup();
        let ranges = self.ranges.iter().filter(move |range| all || range.0 != 0);
        ranges.flat_map(move |&(start, end)| {
            let from = starts.partition_point(|at| *at < start);
            let to = starts.partition_point(|at| *at < end);
            let starts = starts[from..to].to_vec();
            starts.into_iter().map(move |at| (at, &self.data[at as usize..end as usize]))
        })
    }

    /// How many segments brought something new of the bytes from `start` to `end`.
    pub(super) fn n_segments(&self, start: u32, end: u32) -> u32 {
        self.segments.iter().filter(|segment| segment.0 < end && segment.1 > start).count() as u32
    }

    /// Nothing more is wanted: gives back what is held.
    pub(super) fn close(&mut self) {
        *self = Self { base: self.base, begin: self.begin, closed: true, ..Self::default() };
    }

    /// Whether nothing more is wanted.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes of memory held, about.
    pub(super) fn held(&self) -> usize {
        self.data.capacity() + self.ranges.capacity() * 8 + self.segments.capacity() * 8
    }
}

/// Copies what `payload`, which starts at `start`, has of `[at, end)`, and notes from where to
/// where bytes are new.
fn fill(
    data: &mut [u8],
    start: u32,
    payload: &[u8],
    at: u32,
    end: u32,
    new: &mut Option<(u32, u32)>,
) {
    let end = end.min(start + payload.len() as u32);
    if at >= end {
        return;
    }
    *new = Some((new.map_or(at, |new| new.0), end));
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
            half.begin(base, Begin::Syn);
            for (start, len) in pieces {
                let range = start as usize..(start + len) as usize;
                n += u32::from(there[range.clone()].contains(&false));
                there[range.clone()].fill(true);
                half.insert(base.wrapping_add(start), &stream[range]);
                let prefix = there.iter().take_while(|there| **there).count();
                prop_assert_eq!(half.contiguous(), &stream[..prefix]);
                prop_assert_eq!(half.n_segments(0, 400), n);
                for (at, piece) in half.pieces(false) {
                    prop_assert!(at as usize > prefix);
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
            prop_assert_eq!(half.n_segments(0, 200), 20);
        }
    }

    #[test]
    fn the_bytes_that_came_first_stay() {
        let mut half = Half::default();
        half.begin(1, Begin::Syn);
        half.insert(3, b"cd");
        half.insert(1, b"ABXXEF");
        assert_eq!(half.contiguous(), b"ABcdEF");
        assert_eq!(half.n_segments(0, 6), 2);
    }

    #[test]
    fn a_keepalive_brings_nothing() {
        let mut half = Half::default();
        half.begin(1, Begin::Syn);
        assert_eq!(half.insert(0, b"x"), Change::None);
        assert_eq!(half.insert(0, b"xab"), Change::Grown);
        assert_eq!(half.contiguous(), b"ab");
    }
}
