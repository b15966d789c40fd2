//! LEARN's end: what is held is published at the backend's ChangeCipherSpec and never before, however the backend's
//! stream is cut into segments, repeated and reordered.

use proptest::prelude::*;
use steer_common::{
    counters::Counter,
    learn::{GIVE_UP, Lesson, Place, RECORDS_PER_SEGMENT, lesson, place},
};

const ISN: u32 = u32::MAX - 2000;

/// What a stream taught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Held,
    Published,
    Ended,
}

/// Follows a backend's segments as the programs do.
struct Follower {
    next_record: u32,
    outcome: Outcome,
}

impl Follower {
    fn new() -> Self {
        Self { next_record: ISN.wrapping_add(1), outcome: Outcome::Held }
    }

    fn segment(&mut self, offset: usize, payload: &[u8]) {
        let seq = ISN.wrapping_add(1).wrapping_add(offset as u32);
        for _ in 0..RECORDS_PER_SEGMENT {
            if self.outcome != Outcome::Held {
                return;
            }
            let place = place(self.next_record, seq);
            let Some(look) = payload.get(place.at as usize..).and_then(|rest| rest.first_chunk()) else { return };
            match lesson(place, look) {
                Lesson::Publish => self.outcome = Outcome::Published,
                Lesson::Follow(len) => self.next_record = self.next_record.wrapping_add(len),
                Lesson::Ignore => return,
                Lesson::End(_) => self.outcome = Outcome::Ended,
            }
        }
    }
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3], &(body.len() as u16).to_be_bytes()[..], body].concat()
}

/// ServerHello, a certificate whose bytes are all ChangeCipherSpecs, ServerHelloDone.
fn first_flight() -> Vec<u8> {
    let certificate: Vec<u8> = [0x14, 3, 3, 0, 1, 1].repeat(400);
    let hello = [&[2, 0, 0, 40][..], &[3; 40]].concat();
    let certificate = [&[11, 0, 9, 96][..], &certificate].concat();
    [record(0x16, &hello), record(0x16, &certificate), record(0x16, &[14, 0, 0, 0])].concat()
}

fn change_cipher_spec() -> Vec<u8> {
    [record(0x14, &[1]), record(0x16, &[7; 40])].concat()
}

fn in_pieces(stream: &[u8], piece: usize, mut take: impl FnMut(usize, &[u8])) {
    for (number, bytes) in stream.chunks(piece).enumerate() {
        take(number * piece, bytes);
    }
}

#[test]
fn a_flight_without_change_cipher_spec_publishes_nothing_in_any_segmentation() {
    let flight = first_flight();
    for piece in 6..flight.len() {
        let mut follower = Follower::new();
        in_pieces(&flight, piece, |offset, bytes| {
            // A segment whose header the boundary lies in is followed no further, and bytes behind it may be misread:
            // so the rule for what is behind must not see the certificate. Cuts that do this are the next test's.
            if follower.next_record.wrapping_sub(ISN.wrapping_add(1)) as usize >= offset {
                follower.segment(offset, bytes);
            }
        });
        assert_ne!(follower.outcome, Outcome::Published, "pieces of {piece}");
    }
}

#[test]
fn the_second_flight_publishes() {
    let (flight, second) = (first_flight(), change_cipher_spec());
    for piece in [100, 536, 1448, 9000] {
        let mut follower = Follower::new();
        in_pieces(&flight, piece, |offset, bytes| follower.segment(offset, bytes));
        follower.segment(flight.len(), &second);
        assert_eq!(follower.outcome, Outcome::Published, "pieces of {piece}");
    }
}

#[test]
fn a_resumption_publishes_in_the_servers_first_segment() {
    let hello = record(0x16, &[&[2, 0, 0, 40][..], &[3; 40]].concat());
    let mut follower = Follower::new();
    follower.segment(0, &[hello, change_cipher_spec()].concat());
    assert_eq!(follower.outcome, Outcome::Published);
}

#[test]
fn a_ticket_before_the_change_cipher_spec_is_followed() {
    let flight = first_flight();
    let mut follower = Follower::new();
    follower.segment(0, &flight);
    let ticket = record(0x16, &[&[4, 0, 0, 100][..], &[9; 100]].concat());
    follower.segment(flight.len(), &[ticket, change_cipher_spec()].concat());
    assert_eq!(follower.outcome, Outcome::Published);
}

#[test]
fn a_lost_certificate_costs_no_lesson() {
    let flight = first_flight();
    let mut follower = Follower::new();
    follower.segment(0, &flight[..60]);
    follower.segment(flight.len(), &change_cipher_spec());
    assert_eq!(follower.outcome, Outcome::Published);
}

#[test]
fn an_alert_ends_it() {
    let alert = record(0x15, &[2, 40]);
    assert_eq!(
        lesson(Place { at: 0, behind: false }, alert[..6].first_chunk().expect("six bytes")),
        Lesson::End(Some(Counter::NotAuthenticated))
    );
}

#[test]
fn the_limit_is_what_the_design_says() {
    assert_eq!(GIVE_UP, 65536);
}

proptest! {
    #[test]
    fn repeated_segments_change_nothing(piece in 6usize..2000, repeats in proptest::collection::vec(0usize..8, 0..8)) {
        let stream = [first_flight(), change_cipher_spec()].concat();
        let segments: Vec<(usize, &[u8])> = stream.chunks(piece).enumerate().map(|(n, b)| (n * piece, b)).collect();
        let mut follower = Follower::new();
        for (number, (offset, bytes)) in segments.iter().enumerate() {
            follower.segment(*offset, bytes);
            // A repeat of something that was followed already lies before the next record: nothing in it is looked at.
            if repeats.contains(&number) && follower.outcome == Outcome::Held {
                let before = follower.next_record;
                let end = ISN.wrapping_add(1).wrapping_add((offset + bytes.len()) as u32);
                if before.wrapping_sub(end) as i32 >= 0 {
                    follower.segment(*offset, bytes);
                    prop_assert_eq!(follower.next_record, before);
                    prop_assert_eq!(follower.outcome, Outcome::Held);
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(next in any::<u32>(), seq in any::<u32>(), look in any::<[u8; 6]>()) {
        let _ = lesson(place(next, seq), &look);
    }
}
