//! Segments in order, cut anywhere.

use proptest::prelude::*;

use crate::{
    Follower, Lesson,
    flights::{ID, all, certificate, done, finished, record, server_hello, ticket},
    whole,
};

#[test]
fn a_whole_flight_teaches_what_it_says() {
    for (name, stream, offered, lesson) in all() {
        assert_eq!(whole(&stream, offered).lesson, lesson, "{name}");
    }
}

#[test]
fn pieces_of_any_size_teach_the_same() {
    for (name, stream, offered, lesson) in all() {
        for size in (1..80).chain([100, 536, 1220, 1448, 4000]) {
            let mut follower = Follower::new(offered);
            for (number, piece) in stream.chunks(size).enumerate() {
                follower.segment(number * size, piece);
            }
            assert_eq!(follower.lesson, lesson, "{name}, pieces of {size}");
        }
    }
}

#[test]
fn one_cut_anywhere_changes_nothing() {
    for (name, stream, offered, lesson) in all() {
        for at in 1..stream.len() {
            let mut follower = Follower::new(offered);
            follower.segment(0, &stream[..at]);
            follower.segment(at, &stream[at..]);
            assert_eq!(follower.lesson, lesson, "{name}, cut at {at}");
        }
    }
}

#[test]
fn nothing_is_learned_before_the_last_record_header() {
    for (name, stream, offered, lesson) in all() {
        // The ChangeCipherSpec's header, or the ServerHello of TLS 1.3.
        let needed = (1..=stream.len())
            .find(|len| whole(&stream[..*len], offered).lesson != Lesson::Open)
            .expect(name);
        assert_eq!(whole(&stream[..needed], offered).lesson, lesson, "{name}");
        if let Lesson::Finished(..) = lesson {
            assert_eq!(needed, stream.len() - finished().len() + 5, "{name}");
        }
    }
}

#[test]
fn messages_split_over_records_teach_the_same() {
    let messages = [server_hello(&ID, &[]), certificate(), done(), ticket(700)].concat();
    let expected =
        whole(&[record(0x16, &messages), finished()].concat(), crate::Offered::Nothing).lesson;
    assert!(matches!(&expected, Lesson::Finished(_, Some(_))));
    for size in [1, 3, 4, 5, 7, 60, 99, 512, 3000] {
        let records: Vec<u8> =
            messages.chunks(size).flat_map(|piece| record(0x16, piece)).collect();
        let stream = [records, finished()].concat();
        let mut follower = Follower::new(crate::Offered::Nothing);
        // No segment holds more records than the programs take steps for.
        for (number, piece) in stream.chunks(90).enumerate() {
            follower.segment(number * 90, piece);
        }
        assert_eq!(follower.lesson, expected, "records of {size}");
    }
}

proptest! {
    #[test]
    fn repeats_and_overlaps_change_nothing(
        flight in any::<prop::sample::Index>(),
        sizes in prop::collection::vec(1usize..1500, 1..12),
        back in prop::collection::vec(0usize..2000, 1..12),
    ) {
        let flights = all();
        let (name, stream, offered, lesson) = &flights[flight.index(flights.len())];
        let mut follower = Follower::new(*offered);
        let (mut at, mut turn) = (0, 0);
        while at < stream.len() {
            let end = stream.len().min(at + sizes[turn % sizes.len()]);
            let from = at - at.min(back[turn % back.len()]);
            follower.segment(from, &stream[from..end]);
            follower.segment(from, &stream[from..at]);
            (at, turn) = (end, turn + 1);
        }
        prop_assert_eq!(&follower.lesson, lesson, "{}", name);
    }
}
