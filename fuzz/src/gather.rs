//! A client's data in any order: what is said to be there is there.

use steer_common::{
    decide::Verdict,
    flow::{State, StateWord},
    ranges::{Inserted, contiguous, highest, insert},
    rehome::{ClientAct, DataAct, Progress, client, data},
    shared::{Flow, PENDING_MAX, PENDING_RANGES, Range},
    wire::tcp::{Segment, flags},
};

/// Numbers wrap inside the client's data.
const ISN: u32 = u32::MAX - 5000;

/// Four bytes are a segment: offset, length.
pub fn run(bytes: &[u8]) {
    let flow = Flow {
        word: StateWord::new(State::Gather, ISN).0,
        first_window: 65_000,
        ..Flow::default()
    };
    let mut ranges = [Range::default(); PENDING_RANGES];
    let mut there = vec![false; PENDING_MAX];
    for entry in bytes.chunks_exact(4).take(512) {
        // Offsets from 256 before the first byte on.
        let offset = i32::from(u16::from_be_bytes([entry[0], entry[1]])) - 256;
        let payload_len = usize::from(u16::from_be_bytes([entry[2], entry[3]]));
        let act =
            client(&flow, State::Gather, &segment(offset, payload_len), false, highest(&ranges));
        let ClientAct::Data(piece) = act else {
            // A keepalive stands one before the first byte, and nothing further before it.
            let seen =
                offset >= -1 && offset + (payload_len as i32) > 0 && offset < PENDING_MAX as i32;
            assert!(!seen || payload_len == 0, "data at {offset}, {payload_len} bytes: {act:?}");
            continue;
        };
        let end = piece.offset + piece.len;
        assert!(piece.len > 0 && end as usize <= PENDING_MAX);
        assert_eq!(piece.offset as i32, offset + piece.skip as i32);
        assert!(piece.skip as usize + piece.len as usize <= payload_len);
        let inserted = insert(&mut ranges, piece.offset, end);
        mark(&mut there, piece.offset as usize, end as usize, inserted);
        agrees(&ranges, &there);
        progress(&flow, piece.offset, inserted, contiguous(&ranges));
    }
}

fn segment(offset: i32, payload_len: usize) -> Segment {
    Segment {
        source_port: [0; 2],
        destination_port: [0; 2],
        seq: ISN.wrapping_add(1).wrapping_add_signed(offset),
        ack: 1,
        window: 500,
        flags: flags::ACK,
        accurate_ecn: false,
        header_len: 20,
        payload_len,
    }
}

/// Enters a piece into the bitmap, and forgets what the set cannot tell apart: its highest range.
fn mark(there: &mut [bool], start: usize, end: usize, inserted: Inserted) {
    let before = there.to_vec();
    there[start..end].fill(true);
    let highest = starts(there).nth(PENDING_RANGES);
    if let Some(highest) = highest {
        there[highest..].fill(false);
    }
    assert_eq!(inserted == Inserted::Grown, there != before);
    assert!(inserted != Inserted::Full || highest.is_some());
}

fn starts(there: &[bool]) -> impl Iterator<Item = usize> {
    (0..there.len()).filter(|&at| there[at] && (at == 0 || !there[at - 1]))
}

fn agrees(ranges: &[Range; PENDING_RANGES], there: &[bool]) {
    let prefix = there.iter().take_while(|there| **there).count();
    let top = there.iter().rposition(|there| *there).map_or(0, |at| at + 1);
    assert_eq!((contiguous(ranges) as usize, highest(ranges) as usize), (prefix, top));
}

fn progress(flow: &Flow, offset: u32, inserted: Inserted, contiguous: u32) {
    let grown = inserted == Inserted::Grown;
    let progress = Progress {
        offset,
        grown,
        contiguous,
        grown_at: 0,
        now: 0,
        verdict: Verdict::NeedMore,
        owner_tries: 3,
    };
    let full = contiguous as usize >= PENDING_MAX;
    assert_eq!(matches!(data(flow, State::Gather, &progress), DataAct::Flush(_)), full);
}
