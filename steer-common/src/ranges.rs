//! Which bytes of a client's stream are buffered: a small sorted set of ranges.

use crate::shared::{PENDING_RANGES, Range};

/// Outcome of an insertion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// At least one byte was new. Where the set tells no more holes apart its highest range is forgotten: the lowest
    /// bytes are what the client repeats first and what a decision waits for.
    Grown,
    /// Everything was there already.
    Known,
    /// The highest of more ranges than the set tells apart: nothing was changed.
    Full,
}

/// Adds `[start, end)`; touching and overlapping ranges become one.
#[inline(always)]
pub fn insert(ranges: &mut [Range; PENDING_RANGES], start: u32, end: u32) -> Inserted {
    let mut merged = Range { start, end };
    let mut kept = [Range { start: 0, end: 0 }; PENDING_RANGES];
    let (mut n, mut placed) = (0, false);
    for range in ranges.iter() {
        if range.end == 0 {
            continue;
        }
        if range.start <= start && end <= range.end {
            return Inserted::Known;
        }
        if range.start <= merged.end && merged.start <= range.end {
            merged.start = merged.start.min(range.start);
            merged.end = merged.end.max(range.end);
            continue;
        }
        if !placed && merged.end < range.start {
            if n < PENDING_RANGES {
                kept[n] = merged;
            }
            n += 1;
            placed = true;
        }
        if n < PENDING_RANGES {
            kept[n] = *range;
        }
        n += 1;
    }
    if !placed {
        if n < PENDING_RANGES {
            kept[n] = merged;
        }
        n += 1;
    }
    if n > PENDING_RANGES && kept[PENDING_RANGES - 1].start < merged.start {
        return Inserted::Full;
    }
    *ranges = kept;
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
