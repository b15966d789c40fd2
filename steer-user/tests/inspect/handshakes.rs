//! Handshakes that the recorded captures do not have.

use steer_user::inspect::{Key, Outcome, Row};

use crate::{Flow, Kind::Data, client_hello, message, record, row, server_hello, sized};

const RANDOM: [u8; 32] = [0x5a; 32];
/// RFC 8446 4.1.3.
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
const CERTIFICATE: u8 = 11;
const KEY_EXCHANGE: u8 = 12;
const DONE: u8 = 14;

fn handshake(client: &[u8], server: &[u8]) -> Row {
    let flow = Flow::v4();
    let mut frames = flow.opened();
    for (at, piece) in client.chunks(1448).enumerate() {
        frames.push(flow.client(Data, at as u32 * 1448, piece));
    }
    for (at, piece) in server.chunks(1448).enumerate() {
        frames.push(flow.server(Data, at as u32 * 1448, piece));
    }
    row(&frames)
}

fn versions(list: &[u16]) -> (u16, Vec<u8>) {
    let bytes: Vec<u8> = list.iter().flat_map(|version| version.to_be_bytes()).collect();
    (43, [&[bytes.len() as u8], &bytes[..]].concat())
}

fn psk(identities: &[&[u8]]) -> (u16, Vec<u8>) {
    let list: Vec<u8> =
        identities.iter().flat_map(|identity| [&sized(identity)[..], &[0; 4]].concat()).collect();
    (41, [sized(&list), sized(&[0; 33])].concat())
}

fn ticket(len: usize) -> Vec<u8> {
    message(4, &[&[0, 0, 1, 0x2c][..], &sized(&vec![0xab; len])].concat())
}

#[test]
fn the_next_message_of_the_server_tells_the_outcome() {
    let hello = record(22, &server_hello(RANDOM, &[5; 32], &[]));
    let ccs = record(20, &[1]);
    for (next, outcome) in [
        (record(22, &message(CERTIFICATE, &[0; 3000])), Outcome::Full),
        (record(22, &message(KEY_EXCHANGE, &[0; 90])), Outcome::Full),
        (record(22, &message(DONE, &[])), Outcome::Full),
        (record(22, &ticket(100)), Outcome::Resumed),
        (ccs.clone(), Outcome::Resumed),
        (record(21, &[2, 40]), Outcome::Unknown),
        ([record(21, &[1, 112]), ccs.clone()].concat(), Outcome::Resumed),
        (Vec::new(), Outcome::Unknown),
        (record(23, &[0; 50]), Outcome::Unknown),
    ] {
        let row =
            handshake(&record(22, &client_hello(&[5; 32], &[])), &[hello.clone(), next].concat());
        assert_eq!((row.outcome, row.key), (outcome, Key::SessionId));
        assert_eq!(
            row.server_hello.expect("a hello").session_id.as_deref(),
            Some(&*"05".repeat(32))
        );
    }
}

#[test]
fn the_ticket_of_jsse_is_of_a_full_handshake() {
    let flight = [
        server_hello(RANDOM, &[5; 32], &[(35, vec![])]),
        message(CERTIFICATE, &[0; 900]),
        message(DONE, &[]),
    ];
    let server =
        [record(22, &flight.concat()), record(22, &ticket(1700)), record(20, &[1])].concat();
    let row = handshake(&record(22, &client_hello(&[], &[(35, vec![])])), &server);
    assert_eq!((row.outcome, row.key), (Outcome::Full, Key::None));
    assert_eq!(row.new_session_ticket_prefix.as_deref(), Some(&*"ab".repeat(32)));
    assert_eq!(row.client_hello.expect("a hello").ticket_prefix, None, "empty is not there");
}

#[test]
fn short_and_empty_identifiers() {
    let server = |len| {
        [record(22, &server_hello(RANDOM, &[], &[])), record(22, &ticket(len)), record(20, &[1])]
            .concat()
    };
    let client = record(22, &client_hello(&[1, 2, 3], &[(35, vec![0xcd; 5])]));
    let row = handshake(&client, &server(4));
    assert_eq!(row.new_session_ticket_prefix.as_deref(), Some("abababab"));
    let hello = row.client_hello.expect("a hello");
    assert_eq!(
        (hello.session_id.as_deref(), hello.ticket_prefix.as_deref()),
        (Some("010203"), Some("cdcdcdcdcd"))
    );
    assert_eq!(row.server_hello.expect("a hello").session_id, None);
    assert_eq!(handshake(&client, &server(0)).new_session_ticket_prefix, None);
}

#[test]
fn a_retry_is_not_the_server_hello() {
    let tls13 = (43, vec![3, 4]);
    let request = server_hello(RETRY, &[5; 32], &[tls13.clone(), (51, vec![0, 24])]);
    let real = server_hello(RANDOM, &[5; 32], &[tls13, (41, vec![0, 1])]);
    let server =
        [record(22, &request), record(20, &[1]), record(22, &real), record(23, &[0; 90])].concat();
    let first = client_hello(
        &[5; 32],
        &[versions(&[0x0a0a, 0x0304, 0x0303]), psk(&[&[0x11; 100], &[0x22; 50]])],
    );
    let second = client_hello(&[5; 32], &[versions(&[0x0304]), psk(&[&[0x33; 10]])]);
    let client = [record(22, &first), record(20, &[1]), record(22, &second)].concat();
    let row = handshake(&client, &server);
    let hello = row.client_hello.expect("a hello");
    assert_eq!((hello.version, hello.bytes as usize), (Some("1.3"), first.len()));
    assert_eq!(
        hello.psk_prefix.as_deref(),
        Some(&*"11".repeat(16)),
        "the first one, though another is selected"
    );
    let answer = row.server_hello.expect("a hello");
    assert_eq!((answer.version, answer.psk_accepted), (Some("1.3"), true));
    assert_eq!((row.outcome, row.key), (Outcome::Resumed, Key::KeyName));
    let only_retry = handshake(&client, &record(22, &request));
    assert_eq!((only_retry.server_hello, only_retry.outcome), (None, Outcome::Unknown));
    assert_eq!(only_retry.key, Key::KeyName, "by what was offered");
}

#[test]
fn the_negotiated_version_says_which_key_counts() {
    let both = [versions(&[0x0304, 0x0303]), (35, vec![0xcd; 99]), psk(&[&[0x11; 100]])];
    let client = record(22, &client_hello(&[5; 32], &both));
    let tls12 = [record(22, &server_hello(RANDOM, &[], &[])), record(20, &[1])].concat();
    let tls13 = record(22, &server_hello(RANDOM, &[5; 32], &[(43, vec![3, 4])]));
    assert_eq!(handshake(&client, &tls12).key, Key::Ticket);
    let row = handshake(&client, &tls13);
    assert_eq!((row.key, row.outcome), (Key::KeyName, Outcome::Full));
    assert_eq!(handshake(&client, &[]).key, Key::KeyName);
    let without = record(22, &client_hello(&[5; 32], &[versions(&[0x0304])]));
    assert_eq!(handshake(&without, &tls13).key, Key::None);
    assert_eq!(handshake(&without, &tls12).key, Key::SessionId);
}

#[test]
fn versions_have_their_words() {
    for (legacy, list, word) in [
        (1, vec![], Some("1.0")),
        (2, vec![], Some("1.1")),
        (3, vec![], Some("1.2")),
        (3, vec![versions(&[0x7f1c, 0x0302, 0xfafa])], Some("1.1")),
        (0, vec![], None),
    ] {
        let mut hello = client_hello(&[], &list);
        hello[5] = legacy;
        assert_eq!(
            handshake(&record(22, &hello), &[]).client_hello.expect("a hello").version,
            word
        );
    }
}

#[test]
fn a_version_that_nobody_knows_is_not_called_resumed() {
    // Drafts of TLS 1.3, and those of vendors: supported_versions says so, and the compatibility
    // mode sends what looks like a resumption.
    let rest = [record(20, &[1]), record(23, &[0; 4000])].concat();
    let offered = [versions(&[0x7f17, 0xfb1a, 0x0303]), psk(&[&[0x11; 100]])];
    for version in [0x7f17_u16, 0x7f1c, 0x7f12, 0xfb1a, 0xfb17, 0x7e01, 0x7e02, 0x0305] {
        for (with_psk, accepted) in [(false, false), (true, false), (true, true)] {
            let offers = record(
                22,
                &client_hello(&[5; 32], if with_psk { &offered } else { &offered[..1] }),
            );
            let mut list = vec![(43, version.to_be_bytes().to_vec())];
            list.extend(accepted.then(|| (41, vec![0, 0])));
            let row = handshake(
                &offers,
                &[record(22, &server_hello(RANDOM, &[5; 32], &list)), rest.clone()].concat(),
            );
            let answer = row.server_hello.expect("a hello");
            assert_eq!((answer.version, answer.psk_accepted), (None, accepted), "{version:#x}");
            assert_eq!(row.outcome, Outcome::Unknown, "{version:#x}");
            assert_eq!(row.key, if with_psk { Key::KeyName } else { Key::None }, "{version:#x}");
        }
    }
}

#[test]
fn a_version_below_those_that_are_told_goes_by_what_follows() {
    let mut ssl3 = server_hello(RANDOM, &[5; 32], &[]);
    ssl3[5] = 0;
    let row = handshake(
        &record(22, &client_hello(&[5; 32], &[])),
        &[record(22, &ssl3), record(20, &[1])].concat(),
    );
    assert_eq!((row.outcome, row.key), (Outcome::Resumed, Key::SessionId));
    assert_eq!(row.server_hello.expect("a hello").version, None);
}

#[test]
fn a_retry_of_a_draft_is_not_the_server_hello() {
    let draft = (43, vec![0x7f, 0x17]);
    let request = server_hello(RETRY, &[5; 32], &[draft.clone(), (51, vec![0, 24])]);
    let real = server_hello(RANDOM, &[6; 32], &[draft, (41, vec![0, 0])]);
    let client = record(22, &client_hello(&[5; 32], &[versions(&[0x7f17])]));
    let row =
        handshake(&client, &[record(22, &request), record(20, &[1]), record(22, &real)].concat());
    let answer = row.server_hello.expect("a hello");
    assert_eq!((answer.session_id, answer.psk_accepted), (Some("06".repeat(32)), true));
    assert_eq!(handshake(&client, &record(22, &request)).server_hello, None);
}

#[test]
fn an_identity_without_a_byte_has_no_key_name() {
    let tls13 = record(22, &server_hello(RANDOM, &[5; 32], &[(43, vec![3, 4])]));
    for (identities, key) in
        [(&[&b""[..]][..], Key::None), (&[b"", &[0x11; 40]], Key::KeyName), (&[&[1]], Key::KeyName)]
    {
        let hello = record(22, &client_hello(&[5; 32], &[versions(&[0x0304]), psk(identities)]));
        assert_eq!(handshake(&hello, &tls13).key, key, "{identities:?}");
    }
}

#[test]
fn names_and_ech_are_told() {
    let name = sized(&[&[0][..], &sized(b"example.test")].concat());
    let hello = client_hello(&[], &[(0x0a0a, vec![0]), (0xfe0d, vec![0; 200]), (0, name)]);
    let hello = handshake(&record(22, &hello), &[]).client_hello.expect("a hello");
    assert_eq!((hello.sni.as_deref(), hello.ech), (Some("example.test"), true));
}

#[test]
fn a_hello_of_nearly_16_kib_is_read_in_one_record_and_in_many() {
    let padding = vec![(0x7777, vec![0; 16_200]), (35, vec![0xcd; 60])];
    let message = client_hello(&[5; 32], &padding);
    assert!(message.len() > 16_300 && message.len() <= 16_384);
    for size in [16_384, 9000, 1000, 40] {
        let client: Vec<u8> = message.chunks(size).flat_map(|piece| record(22, piece)).collect();
        let row = handshake(&client, &[]);
        let hello = row.client_hello.expect("a hello");
        assert_eq!(
            (hello.bytes as usize, hello.ticket_prefix),
            (message.len(), Some("cd".repeat(32)))
        );
        assert_eq!(hello.segments as usize, client.len().div_ceil(1448));
    }
}

#[test]
fn malformed_and_foreign_hellos_are_none() {
    let mut lying = client_hello(&[5; 32], &[(35, vec![0xcd; 60])]);
    lying[38] = 33;
    for client in [
        record(22, &lying),
        record(22, &[1, 0, 0, 4, 3, 3, 0, 0]),
        vec![0x80, 46, 1, 3, 1],
        b"EHLO".to_vec(),
    ] {
        let row = handshake(&client, &[]);
        assert_eq!((row.client_hello, row.outcome, row.key), (None, Outcome::Unknown, Key::None));
    }
}
