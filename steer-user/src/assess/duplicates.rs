//! Packets that a mirror port shows twice: once where they come in and once where they leave.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash as _, Hasher as _};

use steer_common::wire::tcp::flags;

use crate::inspect::frame::Segment;

/// How far apart the two copies of a packet are at most, nanoseconds. No stack repeats a segment as
/// soon as that.
const APART: u64 = 2_000_000;
/// Packets that are remembered: more than pass in that time. A power of two.
const PLACES: usize = 1 << 14;

/// The packets of the last moment.
pub(super) struct Duplicates {
    places: Vec<(u64, u64)>,
    hasher: BuildHasherDefault<DefaultHasher>,
}

impl Duplicates {
    pub(super) fn new() -> Self {
        Self { places: vec![(0, 0); PLACES], hasher: BuildHasherDefault::default() }
    }

    /// Whether the same packet passed a moment ago, whatever tags and tunnels either was found in.
    /// Acknowledgements alone are not asked for: they say the same several times on purpose.
    pub(super) fn has(&mut self, segment: &Segment<'_>, now: u64) -> bool {
        const ENDS: u8 = flags::SYN | flags::FIN | flags::RST;
        if segment.payload.is_empty() && segment.flags & ENDS == 0 {
            return false;
        }
        let hash = self.hash(segment);
        let place = &mut self.places[hash as usize & (PLACES - 1)];
        if place.0 == hash && now.abs_diff(place.1) <= APART {
            return true;
        }
        *place = (hash, now);
        false
    }

    fn hash(&self, segment: &Segment<'_>) -> u64 {
        /// Bytes of the payload that count: others of the same numbers are not sent.
        const LOOK: usize = 16;
        let mut hasher = self.hasher.build_hasher();
        (segment.source, segment.destination).hash(&mut hasher);
        let numbers = u64::from(segment.seq) << 32 | u64::from(segment.ack);
        hasher.write_u64(numbers);
        hasher.write_u64((segment.payload.len() as u64) << 8 | u64::from(segment.flags));
        hasher.write(&segment.payload[..segment.payload.len().min(LOOK)]);
        // An empty place is no packet's.
        hasher.finish() | 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::frame::Path;

    fn segment(seq: u32, payload: &[u8]) -> Segment<'_> {
        Segment {
            source: "192.0.2.1:40000".parse().unwrap(),
            destination: "198.51.100.10:443".parse().unwrap(),
            seq,
            ack: 7,
            flags: flags::ACK,
            window: 500,
            accurate_ecn: false,
            options: Some(&[]),
            payload,
            path: Path::default(),
        }
    }

    #[test]
    fn the_same_packet_within_two_milliseconds_is_a_duplicate() {
        let mut seen = Duplicates::new();
        assert!(!seen.has(&segment(1, b"hello"), 10_000_000));
        assert!(seen.has(&segment(1, b"hello"), 11_999_999));
        assert!(!seen.has(&segment(1, b"hello"), 12_000_001), "it was sent again");
    }

    #[test]
    fn what_differs_is_another_packet() {
        let mut seen = Duplicates::new();
        assert!(!seen.has(&segment(1, b"hello"), 0));
        assert!(!seen.has(&segment(2, b"hello"), 0));
        assert!(!seen.has(&segment(1, b"other"), 0));
        let reset = Segment { flags: flags::RST, ..segment(1, b"hello") };
        assert!(!seen.has(&reset, 0));
    }

    #[test]
    fn acknowledgements_are_not_asked_for() {
        let mut seen = Duplicates::new();
        assert!(!seen.has(&segment(1, b""), 0) && !seen.has(&segment(1, b""), 0));
    }
}
