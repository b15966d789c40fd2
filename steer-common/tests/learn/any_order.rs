//! Any segments in any order: what is learned is what was sent, or nothing.

use proptest::prelude::*;
use steer_common::learn::Outcome;

use crate::{
    Follower, Lesson,
    flights::{all, finished},
};

/// Segments of a flight: each a piece of it by number, in any order, some twice and some never.
fn order() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..24, 0..48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_issued_that_was_not_and_nothing_before_the_change_cipher_spec(
        flight in any::<prop::sample::Index>(),
        size in 1usize..400,
        order in order(),
    ) {
        let flights = all();
        let (name, stream, offered, lesson) = &flights[flight.index(flights.len())];
        let n_pieces = stream.len().div_ceil(size);
        let mut follower = Follower::new(*offered);
        let mut seen_end = false;
        let change_cipher_spec = stream.len() - finished().len();
        for piece in order {
            // The first pieces and the last are what matters.
            let piece = if piece % 2 == 0 { piece / 2 } else { n_pieces.saturating_sub(1 + piece / 2) };
            let start = (piece * size).min(stream.len());
            let end = (start + size).min(stream.len());
            follower.segment(start, &stream[start..end]);
            seen_end |= start < change_cipher_spec + 6 && end > change_cipher_spec;
            match (&follower.lesson, lesson) {
                (Lesson::Open | Lesson::Ended(_), _) => {}
                (Lesson::Finished(outcome, issued), Lesson::Finished(true_outcome, truly_issued)) => {
                    prop_assert!(seen_end, "{}: before the ChangeCipherSpec", name);
                    prop_assert!(outcome == true_outcome || *outcome == Outcome::Unknown, "{}: {:?}", name, outcome);
                    // With a hole in front of a ticket the ID beside it may be all that was seen.
                    let id = follower.flow.follow.lesson_kind == 1;
                    prop_assert!(issued.is_none() || issued == truly_issued || id, "{}: {:?}", name, issued);
                }
                // The ChangeCipherSpec behind a HelloRetryRequest that was lost.
                (Lesson::Finished(Outcome::Unknown, None), Lesson::Tls13(_)) => {}
                (found, expected) => prop_assert_eq!(found, expected, "{}", name),
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        pieces in prop::collection::vec((0usize..300, prop::collection::vec(any::<u8>(), 1..40)), 1..20),
    ) {
        let mut follower = Follower::new(crate::Offered::Nothing);
        for (offset, bytes) in pieces {
            let mut bytes = bytes;
            bytes[0] = 0x16;
            follower.segment(offset, &bytes);
        }
        prop_assert!(!matches!(follower.lesson, Lesson::Finished(_, Some(_))));
    }
}
