//! Which bytes of a client's stream are buffered: a small sorted set of ranges.

use crate::shared::{PENDING_RANGES, Range};

/// Outcome of an insertion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// At least one byte was new. Where the set tells no more holes apart its highest range is
    /// forgotten: the lowest bytes are what the client repeats first and what a decision waits for.
    Grown,
    /// Everything was there already.
    Known,
    /// The highest of more ranges than the set tells apart: nothing was changed.
    Full,
}

/// Adds `[start, end)`; touching and overlapping ranges become one.
///
/// Slots have constant indices: for a loop over a slice LLVM negates a counter, of which the
/// verifier of Linux 6.1 then knows no bounds.
#[inline(always)]
pub fn insert(ranges: &mut [Range; PENDING_RANGES], start: u32, end: u32) -> Inserted {
    let old = *ranges;
    let [a, b, c, d] = old;
    let mut merged = Range { start, end };
    let (mut place, mut absorbed) = (0, 0);
    for range in old {
        if range.end == 0 || merged.end < range.start {
            continue;
        }
        if range.end < merged.start {
            place += 1;
            continue;
        }
        if range.start <= start && end <= range.end {
            return Inserted::Known;
        }
        merged = Range { start: merged.start.min(range.start), end: merged.end.max(range.end) };
        absorbed += 1;
    }
    if place == PENDING_RANGES {
        return Inserted::Full;
    }
    // What stood at slots 1 to 3 and lies behind the new range, moved by the slots that were
    // absorbed, less its own.
    let none = Range { start: 0, end: 0 };
    let [b, c, d] = match absorbed {
        0 => [a, b, c],
        1 => [b, c, d],
        2 => [c, d, none],
        3 => [d, none, none],
        _ => [none; 3],
    };
    let at = |slot: usize, behind: Range| match slot {
        _ if slot < place => old[slot],
        _ if slot == place => merged,
        _ => behind,
    };
    *ranges = [at(0, none), at(1, b), at(2, c), at(3, d)];
    Inserted::Grown
}

/// Bytes from the first one that are there without a hole.
#[inline(always)]
pub fn contiguous(ranges: &[Range; PENDING_RANGES]) -> u32 {
    if ranges[0].start == 0 { ranges[0].end } else { 0 }
}

/// One past the last byte that is there.
#[inline(always)]
pub fn highest(ranges: &[Range; PENDING_RANGES]) -> u32 {
    let mut end = 0;
    for range in ranges {
        end = end.max(range.end);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(pieces in proptest::collection::vec((0u32..64, 1u32..32), 1..40)) {
            let (mut set, mut bitmap) = ([Range::default(); PENDING_RANGES], [false; 128]);
            for (start, len) in pieces {
                let end = start + len;
                let before = bitmap;
                let mut wanted = bitmap;
                wanted[start as usize..end as usize].fill(true);
                let too_many = (0..128).filter(|&i| wanted[i] && (i == 0 || !wanted[i - 1])).nth(PENDING_RANGES);
                if let Some(highest) = too_many {
                    wanted[highest..].fill(false);
                }
                match insert(&mut set, start, end) {
                    Inserted::Grown => { prop_assert_ne!(wanted, before); bitmap = wanted; }
                    Inserted::Known => prop_assert_eq!(wanted, before),
                    Inserted::Full => { prop_assert_eq!(wanted, before); prop_assert!(too_many.is_some()); }
                }
                let prefix = bitmap.iter().take_while(|b| **b).count() as u32;
                let top = bitmap.iter().rposition(|b| *b).map_or(0, |i| i as u32 + 1);
                prop_assert_eq!(contiguous(&set), prefix);
                prop_assert_eq!(highest(&set), top);
            }
        }
    }
}
