//! Lost segments.

use steer_common::{learn::Outcome, session::Kind};

use crate::{
    Follower, Lesson, Offered,
    flights::{
        CLIENTS_ID, ID, TLS13, certificate, finished, first_flight, message, record, server_hello,
        ticket,
    },
};

#[test]
fn a_lost_certificate_costs_no_lesson() {
    let flight = first_flight(&ID, &[]);
    let hello_len = record(0x16, &server_hello(&ID, &[])).len();
    let mut follower = Follower::new(Offered::Nothing);
    follower.segment(0, &flight[..hello_len]);
    follower.segment(flight.len(), &finished());
    assert_eq!(
        follower.lesson,
        Lesson::Finished(Outcome::Unknown, Some((Kind::SessionId, ID.to_vec())))
    );
}

#[test]
fn a_ticket_behind_a_lost_certificate_is_learned() {
    let flight = first_flight(&[], &[]);
    let mut follower = Follower::new(Offered::Nothing);
    follower.segment(0, &flight[..record(0x16, &server_hello(&[], &[])).len()]);
    let rest = [record(0x16, &ticket(208)), finished()].concat();
    // Cut behind the first bytes of the ticket, as one of 3 kB is.
    follower.segment(flight.len(), &rest[..60]);
    follower.segment(flight.len() + 60, &rest[60..]);
    let Lesson::Finished(Outcome::Unknown, Some((Kind::Ticket, bytes))) = follower.lesson else {
        panic!("{:?}", follower.lesson)
    };
    assert_eq!(bytes.len(), 32);
}

#[test]
fn an_echo_behind_a_hole_issues_nothing() {
    let hello = record(0x16, &server_hello(&CLIENTS_ID, &[]));
    let mut follower = Follower::new(Offered::Id(CLIENTS_ID));
    follower.segment(0, &hello);
    follower.segment(hello.len() + 2000, &finished());
    assert_eq!(follower.lesson, Lesson::Finished(Outcome::Unknown, None));
    assert!(follower.used(), "an echo is an acceptance");
}

#[test]
fn a_lost_server_hello_teaches_no_id() {
    let flight = first_flight(&ID, &[]);
    let mut follower = Follower::new(Offered::Nothing);
    follower.segment(flight.len(), &finished());
    assert_eq!(follower.lesson, Lesson::Finished(Outcome::Unknown, None));
}

#[test]
fn the_id_of_a_server_hello_that_was_lost_in_part_is_not_learned() {
    for extensions in [&[][..], &TLS13] {
        let hello = record(0x16, &server_hello(&ID, extensions));
        for read in 1..hello.len() {
            let mut follower = Follower::new(Offered::Nothing);
            follower.segment(0, &hello[..read]);
            follower.segment(hello.len(), &finished());
            assert_eq!(
                follower.lesson,
                Lesson::Finished(Outcome::Unknown, None),
                "{read} bytes of it were read"
            );
        }
    }
}

#[test]
fn bytes_of_a_certificate_never_teach_wherever_a_hole_is() {
    let flight = first_flight(&ID, &[]);
    for end in 1..flight.len() {
        for start in end + 1..(end + 30).min(flight.len()) {
            let mut follower = Follower::new(Offered::Nothing);
            follower.segment(0, &flight[..end]);
            follower.segment(start, &flight[start..]);
            assert!(!matches!(follower.lesson, Lesson::Finished(..)), "{end}..{start} are lost");
        }
    }
}

#[test]
fn a_second_flight_inside_of_a_certificate_never_teaches() {
    // What it holds is the real thing; but its record's header was read.
    let inside = [record(0x16, &ticket(40)), finished()].concat();
    let certificate = message(11, &[&[0x30; 600][..], &inside, &[0x30; 200]].concat());
    let flight = [record(0x16, &server_hello(&ID, &[])), record(0x16, &certificate)].concat();
    let at = flight.windows(inside.len()).position(|window| window == inside).expect("it is there");
    let header = flight.len() - certificate.len();
    for end in header..at {
        for start in [at, at + inside.len() - finished().len()] {
            let mut follower = Follower::new(Offered::Nothing);
            follower.segment(0, &flight[..end]);
            follower.segment(start, &flight[start..]);
            assert_eq!(follower.lesson, Lesson::Open, "{end}..{start} are lost");
        }
    }
}

#[test]
fn what_was_lost_may_come_later() {
    let flight = [first_flight(&ID, &[]), finished()].concat();
    let mut follower = Follower::new(Offered::Nothing);
    follower.segment(0, &flight[..40]);
    follower.segment(1400, &flight[1400..2000]);
    follower.segment(40, &flight[40..1400]);
    follower.segment(1400, &flight[1400..]);
    assert_eq!(
        follower.lesson,
        Lesson::Finished(Outcome::Full, Some((Kind::SessionId, ID.to_vec())))
    );
    assert!(certificate().len() > 2000);
}
