//! A backend's flights, made by hand.

use steer_common::{learn::Outcome, session::Kind};

use crate::{Issued, Lesson, Offered};

pub(crate) const ID: [u8; 32] = [0x1d; 32];
pub(crate) const CLIENTS_ID: [u8; 32] = [0xc1; 32];
/// The first bytes of a ticket that a client offers.
pub(crate) const CLIENTS_TICKET: [u8; 32] = [0x77; 32];
/// Extension that says TLS 1.3.
pub(crate) const TLS13: [u8; 6] = [0, 43, 0, 2, 3, 4];
/// Extension that selects the PSK with index 1.
pub(crate) const PSK1: [u8; 6] = [0, 41, 0, 2, 0, 1];
/// The extension that promises a ticket.
const TICKET_FOLLOWS: [u8; 4] = [0, 35, 0, 0];
const RANDOM: [u8; 32] = [0x5a; 32];
/// RFC 8446 4.1.3.
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

pub(crate) fn record(content: u8, bytes: &[u8]) -> Vec<u8> {
    [&[content, 3, 3][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_be_bytes();
    [&[kind, len[1], len[2], len[3]][..], body].concat()
}

fn hello(random: [u8; 32], id: &[u8], extensions: &[u8]) -> Vec<u8> {
    let mut body = [&[3, 3][..], &random, &[id.len() as u8], id, &[0xc0, 0x2f, 0]].concat();
    if !extensions.is_empty() {
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
    }
    message(2, &body)
}

pub(crate) fn server_hello(id: &[u8], extensions: &[u8]) -> Vec<u8> {
    hello(RANDOM, id, extensions)
}

/// A certificate whose bytes look like ChangeCipherSpecs, up to the last: one that stands right in
/// front of a record cannot be told from a real one, where the record header before it was lost.
pub(crate) fn certificate() -> Vec<u8> {
    let bytes = [0x14, 3, 3, 0, 1, 1].repeat(400);
    message(11, &[&bytes[..], &[0]].concat())
}

pub(crate) fn done() -> Vec<u8> {
    message(14, &[])
}

pub(crate) fn ticket(len: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    message(4, &[&[0, 0, 1, 0x2c][..], &(len as u16).to_be_bytes(), &bytes].concat())
}

/// ChangeCipherSpec and an encrypted Finished.
pub(crate) fn finished() -> Vec<u8> {
    [record(0x14, &[1]), record(0x16, &[0xee; 40])].concat()
}

/// What a full handshake sends first.
pub(crate) fn first_flight(id: &[u8], extensions: &[u8]) -> Vec<u8> {
    [server_hello(id, extensions), certificate(), done()]
        .iter()
        .flat_map(|message| record(0x16, message))
        .collect()
}

/// A flight: its name, its bytes, what the client offered, and what it teaches.
pub(crate) type Flight = (&'static str, Vec<u8>, Offered, Lesson);

fn issued(kind: Kind, bytes: &[u8]) -> Option<Issued> {
    Some((kind, bytes.to_vec()))
}

fn ticket_start(len: usize) -> Option<Issued> {
    issued(Kind::Ticket, &(0..len.min(32)).map(|i| i as u8).collect::<Vec<u8>>())
}

/// Flights that end in a lesson.
pub(crate) fn all() -> Vec<Flight> {
    use Lesson::{Finished, Tls13};
    use Outcome::{Full, Resumed};
    let one_record = [server_hello(&ID, &[]), certificate(), done(), ticket(300)].concat();
    vec![
        (
            "a full handshake issues its ID",
            [first_flight(&ID, &[]), finished()].concat(),
            Offered::Nothing,
            Finished(Full, issued(Kind::SessionId, &ID)),
        ),
        (
            "a full handshake instead of the ID that was offered issues another",
            [first_flight(&ID, &[]), finished()].concat(),
            Offered::Id(CLIENTS_ID),
            Finished(Full, issued(Kind::SessionId, &ID)),
        ),
        (
            "a resumption echoes the ID and issues nothing",
            [record(0x16, &server_hello(&CLIENTS_ID, &[])), finished()].concat(),
            Offered::Id(CLIENTS_ID),
            Finished(Resumed, None),
        ),
        (
            "a full handshake with a ticket issues it",
            [first_flight(&[], &TICKET_FOLLOWS), record(0x16, &ticket(208)), finished()].concat(),
            Offered::Nothing,
            Finished(Full, ticket_start(208)),
        ),
        (
            "a ticket of 3 kB is known by its first bytes",
            [first_flight(&[], &TICKET_FOLLOWS), record(0x16, &ticket(3000)), finished()].concat(),
            Offered::Nothing,
            Finished(Full, ticket_start(3000)),
        ),
        (
            "a ticket wins over an ID beside it",
            [first_flight(&ID, &TICKET_FOLLOWS), record(0x16, &ticket(406)), finished()].concat(),
            Offered::Nothing,
            Finished(Full, ticket_start(406)),
        ),
        (
            "a short ticket is known whole",
            [first_flight(&[], &TICKET_FOLLOWS), record(0x16, &ticket(9)), finished()].concat(),
            Offered::Nothing,
            Finished(Full, ticket_start(9)),
        ),
        (
            "an empty ticket issues nothing",
            [first_flight(&[], &TICKET_FOLLOWS), record(0x16, &ticket(0)), finished()].concat(),
            Offered::Nothing,
            Finished(Full, None),
        ),
        (
            "behind an empty ticket the ID stays",
            [first_flight(&ID, &TICKET_FOLLOWS), record(0x16, &ticket(0)), finished()].concat(),
            Offered::Nothing,
            Finished(Full, issued(Kind::SessionId, &ID)),
        ),
        (
            "JSSE's ticket behind its certificate is of a full handshake, all in one record",
            [record(0x16, &one_record), finished()].concat(),
            Offered::Nothing,
            Finished(Full, ticket_start(300)),
        ),
        (
            "a resumed ticket is renewed",
            [
                record(0x16, &server_hello(&CLIENTS_ID, &TICKET_FOLLOWS)),
                record(0x16, &ticket(208)),
                finished(),
            ]
            .concat(),
            Offered::Ticket(CLIENTS_TICKET),
            Finished(Resumed, ticket_start(208)),
        ),
        (
            "a resumed ticket without IDs issues nothing",
            [record(0x16, &server_hello(&[], &[])), finished()].concat(),
            Offered::Ticket(CLIENTS_TICKET),
            Finished(Resumed, None),
        ),
        (
            "TLS 1.3 says no",
            record(0x16, &server_hello(&CLIENTS_ID, &TLS13)),
            Offered::Ticket(CLIENTS_TICKET),
            Tls13(steer_common::learn::Psk::None),
        ),
        (
            "TLS 1.3 takes another PSK than the one remembered",
            record(0x16, &server_hello(&CLIENTS_ID, &[PSK1, TLS13].concat())),
            Offered::Ticket(CLIENTS_TICKET),
            Tls13(steer_common::learn::Psk::Other),
        ),
        (
            "behind a HelloRetryRequest comes the real ServerHello",
            retry(&server_hello(&CLIENTS_ID, &TLS13)),
            Offered::Ticket(CLIENTS_TICKET),
            Tls13(steer_common::learn::Psk::None),
        ),
    ]
}

/// HelloRetryRequest, the ChangeCipherSpec of the compatibility mode, and what comes then.
pub(crate) fn retry(then: &[u8]) -> Vec<u8> {
    let request = hello(RETRY, &CLIENTS_ID, &[&TLS13[..], &[0, 51, 0, 2, 0, 24]].concat());
    [record(0x16, &request), record(0x14, &[1]), record(0x16, then)].concat()
}
