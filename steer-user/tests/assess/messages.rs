//! Handshakes message by message: tickets, PSK identities, a second hello, certificates.

use crate::{
    assert_numbers, assess,
    capture::{A, B, Capture, From, Kind::Data, MS, SECOND, message, record},
};

const X: &str = "192.0.2.1:40000";
const Y: &str = "192.0.2.2:40001";
const Z: &str = "192.0.2.3:40002";
/// RFC 8446 4.1.3.
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
const TLS13: (u16, &[u8]) = (43, &[3, 4]);

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn extensions(list: &[(u16, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = list
        .iter()
        .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &sized(body)].concat())
        .collect();
    if list.is_empty() { list } else { sized(&list) }
}

/// A ClientHello of TLS 1.3 that offers a ticket.
fn hello13(number: u8, ticket: &[u8]) -> Vec<u8> {
    let psk = [sized(&[&sized(ticket)[..], &[0; 4]].concat()), sized(&[0; 33])].concat();
    let list: &[(u16, &[u8])] = &[(43, &[2, 3, 4]), (41, &psk)];
    let list = if ticket.is_empty() { &list[..1] } else { list };
    let head = [&[3, 3][..], &[number; 32], &[32], &[number; 32], &[0, 2, 0x13, 1, 1, 0]].concat();
    record(22, &message(1, &[head, extensions(list)].concat()))
}

fn server_hello(random: [u8; 32], id: &[u8], list: &[(u16, &[u8])]) -> Vec<u8> {
    let head = [&[3, 3][..], &random, &[id.len() as u8], id, &[0x13, 1, 0]].concat();
    record(22, &message(2, &[head, extensions(list)].concat()))
}

/// A ticket: the name of its key, and what no other has.
fn ticket(name: u8, number: u8) -> Vec<u8> {
    [vec![name; 16], vec![number; 100]].concat()
}

/// Both ends say something in turn, the client first.
fn talk(capture: &mut Capture, after: u64, ends: (&str, &str), turns: &[&[u8]]) {
    capture.open(after, ends);
    let mut offsets = [0, 0];
    for (index, turn) in turns.iter().enumerate() {
        let from = if index % 2 == 0 { From::Client } else { From::Server };
        let at = after + (index as u64 + 1) * MS;
        capture.segment(at, ends, from, Data, offsets[index % 2], turn);
        offsets[index % 2] += turn.len();
    }
}

#[test]
fn the_name_of_a_key_is_learned_from_a_ticket_that_is_accepted() {
    let mut capture = Capture::default();
    let accepts = server_hello([1; 32], &[5; 32], &[TLS13, (41, &[0, 0])]);
    let refuses = server_hello([1; 32], &[5; 32], &[TLS13]);
    talk(&mut capture, 0, (Y, B), &[&hello13(1, &ticket(9, 1)), &refuses]);
    talk(&mut capture, SECOND, (X, A), &[&hello13(2, &ticket(9, 2)), &accepts]);
    talk(&mut capture, 2 * SECOND, (Z, B), &[&hello13(3, &ticket(9, 3)), &refuses]);
    let report = assess(&capture);
    assert_numbers(
        &report,
        &[
            ("/total/offered", 3),
            ("/total/accepted", 1),
            ("/total/refused", 2),
            ("/total/kept", 1),
            ("/total/owner_unknown", 1),
            ("/key_names/found_later", 1),
            ("/hellos/retried", 0),
        ],
    );
    assert_eq!(report["identifiers"][0]["word"], "ticket-name");
    assert_eq!(report["versions"][0]["word"], "1.3");
}

#[test]
fn behind_a_retry_the_second_hello_counts() {
    let mut capture = Capture::default();
    let again = server_hello(RETRY, &[5; 32], &[TLS13, (51, &[0, 24])]);
    let accepts = server_hello([1; 32], &[5; 32], &[TLS13, (41, &[0, 0])]);
    let refuses = server_hello([1; 32], &[5; 32], &[TLS13]);
    // The second hello offers another ticket than the first one: its name is what A has.
    let second = [record(20, &[1]), hello13(2, &ticket(8, 2))].concat();
    talk(&mut capture, 0, (X, A), &[&hello13(1, &ticket(9, 1)), &again, &second, &accepts]);
    talk(&mut capture, SECOND, (Y, B), &[&hello13(3, &ticket(8, 3)), &refuses]);
    talk(&mut capture, 2 * SECOND, (Z, B), &[&hello13(4, &ticket(8, 4)), &refuses]);
    let report = assess(&capture);
    assert_numbers(
        &report,
        &[
            ("/hellos/retried", 1),
            ("/total/accepted", 1),
            ("/total/refused", 2),
            ("/total/kept", 2),
            ("/total/owner_unknown", 0),
        ],
    );
}

#[test]
fn a_session_of_a_client_without_the_certificate_that_it_was_asked_for_is_not_learned() {
    for (list, kept) in [(&[0, 0, 0][..], 0), (&[0, 0, 2, 7, 7], 1)] {
        let mut capture = Capture::default();
        let client = |number: u8, id: &[u8]| {
            let head = [&[3, 3][..], &[number; 32], &[id.len() as u8], id].concat();
            record(22, &message(1, &[&head[..], &[0, 2, 0xc0, 0x2f, 1, 0]].concat()))
        };
        let flight = |id: [u8; 32]| {
            let asks = [message(11, &[0; 90]), message(13, &[1, 64, 0, 0]), message(14, &[])];
            [server_hello([1; 32], &id, &[]), record(22, &asks.concat())].concat()
        };
        let answer = [record(22, &message(11, list)), record(20, &[1])].concat();
        let done = [record(20, &[1]), record(22, &[8; 40])].concat();
        talk(&mut capture, 0, (X, A), &[&client(1, &[]), &flight([7; 32]), &answer, &done]);
        talk(
            &mut capture,
            SECOND,
            (Y, B),
            &[&client(2, &[7; 32]), &flight([8; 32]), &answer, &done],
        );
        let report = assess(&capture);
        assert_numbers(&report, &[("/total/refused", 1), ("/total/kept", kept)]);
    }
}

#[test]
fn a_ticket_that_two_members_open_has_a_key_that_they_share() {
    let mut capture = Capture::default();
    let accepts = server_hello([1; 32], &[5; 32], &[TLS13, (41, &[0, 0])]);
    for number in 0..10u8 {
        let member = if number % 2 == 0 { A } else { B };
        let client = format!("192.0.2.{number}:40000");
        let hello = hello13(number, &ticket(9, number));
        talk(&mut capture, u64::from(number) * SECOND, (&client, member), &[&hello, &accepts]);
    }
    let report = assess(&capture);
    assert_numbers(
        &report,
        &[("/total/accepted", 10), ("/total/kept", 0), ("/key_names/shared", 1)],
    );
    assert_eq!(report["key_names"]["layout"], "16@0");
}
