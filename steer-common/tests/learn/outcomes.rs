//! How handshakes end otherwise, and what is remembered of them.

use steer_common::{
    flow::{State, StateWord},
    learn::{Psk, offer},
    refusals::Offer,
    session::Kind,
    shared::{FLOW_AT_OWNER, FLOW_HIT, FLOW_NAMED, Flow},
    wire::tls::server_flight::{End, GIVE_UP, seen},
};

use crate::{
    Follower, Lesson, Offered,
    flights::{
        CLIENTS_ID, CLIENTS_TICKET, ID, PSK1, TLS13, all, finished, first_flight, record, retry,
        server_hello,
    },
    whole,
};

#[test]
fn an_alert_ends_it() {
    for before in [Vec::new(), record(0x16, &server_hello(&ID, &[])), first_flight(&ID, &[])] {
        let stream = [before, record(0x15, &[2, 40])].concat();
        assert_eq!(whole(&stream, Offered::Nothing).lesson, Lesson::Ended(End::Alert));
    }
}

#[test]
fn a_warning_is_passed_over() {
    // unrecognized_name, as OpenSSL sends it in front of its ServerHello.
    let warning = record(0x15, &[1, 112]);
    for (name, stream, offered, lesson) in all() {
        let stream = [warning.clone(), stream].concat();
        for size in [1, 2, 5, 6, 7, 8, 4000] {
            let mut follower = Follower::new(offered);
            for (number, piece) in stream.chunks(size).enumerate() {
                follower.segment(number * size, piece);
            }
            assert_eq!(follower.lesson, lesson, "{name}, pieces of {size}");
        }
    }
}

#[test]
fn a_warning_inside_of_a_message_ends_it() {
    let hello = server_hello(&ID, &[]);
    let stream =
        [record(0x16, &hello[..30]), record(0x15, &[1, 112]), record(0x16, &hello[30..])].concat();
    assert_eq!(whole(&stream, Offered::Nothing).lesson, Lesson::Ended(End::Alert));
}

#[test]
fn what_is_no_tls_ends_it() {
    for stream in [
        &b"220 mail.example.test ESMTP\r\n"[..],
        b"HTTP/1.1 400 Bad Request\r\n",
        &record(23, &[0; 40]),
    ] {
        assert_eq!(whole(stream, Offered::Nothing).lesson, Lesson::Ended(End::Other));
    }
}

#[test]
fn a_change_cipher_spec_inside_of_a_message_ends_it() {
    let hello = server_hello(&ID, &[]);
    for at in 1..hello.len() {
        let stream = [record(0x16, &hello[..at]), finished()].concat();
        assert_eq!(
            whole(&stream, Offered::Nothing).lesson,
            Lesson::Ended(End::Other),
            "cut at {at}"
        );
    }
}

#[test]
fn an_accepted_identity_is_told_by_its_index() {
    let stream = record(0x16, &server_hello(&CLIENTS_ID, &[TLS13, PSK1].concat()));
    for (offered, index, expected) in [
        (Offered::Ticket(CLIENTS_TICKET), 1, Psk::Accepted),
        (Offered::Ticket(CLIENTS_TICKET), 0, Psk::Other),
        (Offered::Id(CLIENTS_ID), 1, Psk::Other),
        (Offered::Nothing, 1, Psk::Other),
    ] {
        let mut follower = Follower::new(offered);
        follower.flow.offered_index = index;
        follower.segment(0, &stream);
        assert_eq!(follower.lesson, Lesson::Tls13(expected), "{offered:?} {index}");
    }
}

#[test]
fn a_psk_may_be_accepted_behind_a_retry() {
    let stream = retry(&server_hello(&CLIENTS_ID, &[TLS13, PSK1].concat()));
    for size in [1, 50, 2000] {
        let mut follower = Follower::new(Offered::Ticket(CLIENTS_TICKET));
        follower.flow.offered_index = 1;
        for (number, piece) in stream.chunks(size).enumerate() {
            follower.segment(number * size, piece);
        }
        assert_eq!(
            (&follower.lesson, follower.n_retries),
            (&Lesson::Tls13(Psk::Accepted), 1),
            "pieces of {size}"
        );
        assert_eq!(follower.flow.follow.seen & seen::RETRY, 0, "the hello at hand is the real one");
    }
}

#[test]
fn only_a_known_session_counts_as_used() {
    let stream = [record(0x16, &server_hello(&CLIENTS_ID, &[])), finished()].concat();
    let mut follower = Follower::new(Offered::Id(CLIENTS_ID));
    follower.segment(0, &stream);
    assert!(follower.used());
    follower.flow.flags = 0;
    assert!(!follower.used());
    assert!(!whole(&stream, Offered::Nothing).used());
}

/// An answer counts for or against a backend as an owner only where it was held to be the owner.
#[test]
fn a_backend_is_judged_as_an_owner_where_it_was_held_to_be_one() {
    let ticket = Kind::Ticket as u8;
    let judged = |state, flags, offered_kind, accepted| {
        let word = StateWord::new(state, 7).0;
        offer(&Flow { word, flags, offered_kind, ..Flow::default() }, accepted)
    };
    for (state, flag) in [(State::Spliced, 0), (State::First, FLOW_AT_OWNER)] {
        for accepted in [false, true] {
            let judged = |flags, kind| judged(state, flag | flags, kind, accepted);
            assert_eq!(judged(FLOW_HIT, Kind::SessionId as u8), Some(Offer::SessionId));
            assert_eq!(judged(FLOW_HIT, ticket), Some(Offer::Ticket));
            assert_eq!(judged(FLOW_HIT | FLOW_NAMED, ticket), Some(Offer::KeyName));
            assert_eq!(judged(0, ticket), accepted.then_some(Offer::KeyName), "a guess");
            assert_eq!(judged(FLOW_HIT | FLOW_NAMED, 0), None, "a second hello that was not read");
        }
    }
    // The owner was down, or refused the connection: the first backend answers for itself.
    for state in [State::First, State::Established] {
        assert_eq!(judged(state, FLOW_HIT | FLOW_NAMED, ticket, false), None);
    }
}

#[test]
fn the_limit_is_what_the_design_says() {
    assert_eq!(GIVE_UP, 65536);
}
