//! ServerHellos, real and generated.

use proptest::prelude::*;
use steer_common::wire::tls::{
    Version,
    server_flight::{FlightEvent, Follow, seen},
};
use tls_parser::{
    TlsExtension, TlsMessage, TlsMessageHandshake, TlsVersion, parse_tls_extensions,
    parse_tls_plaintext,
};

use crate::{
    fixtures::{
        SERVER12_FULL, SERVER12_RESUMED, SERVER12_TICKET, SERVER13, SERVER13_NO_ID, bytes, streams,
    },
    record,
};

/// Version, session ID, index of the selected PSK.
type Said = (u16, Vec<u8>, Option<u16>);

/// What the first ServerHello of a stream says.
fn said(stream: &[u8]) -> Option<Said> {
    let (mut follow, mut segment) = (Follow::new(0), stream);
    loop {
        match follow.step(&mut segment, 0, stream.len() as u32) {
            FlightEvent::More | FlightEvent::Retry | FlightEvent::Ticket => {}
            FlightEvent::NeedMore => return None,
            FlightEvent::ServerHello => break,
            FlightEvent::End(_) if follow.seen & seen::HELLO != 0 => break,
            FlightEvent::End(_) => return None,
        }
    }
    let id = follow.lesson[..usize::from(follow.lesson_len)].to_vec();
    Some((follow.version, id, (follow.seen & seen::PSK != 0).then_some(follow.selected)))
}

/// The same as tls-parser has it.
fn expected(stream: &[u8]) -> Said {
    let (_, record) = parse_tls_plaintext(stream).expect("a record");
    let Some(TlsMessage::Handshake(TlsMessageHandshake::ServerHello(hello))) = record.msg.first()
    else {
        panic!("{:?}", record.msg)
    };
    let (_, extensions) = parse_tls_extensions(hello.ext.unwrap_or_default()).expect("extensions");
    let (mut version, mut psk) = (hello.version.0, None);
    for extension in extensions {
        match extension {
            TlsExtension::SupportedVersions(versions) => {
                version = versions.first().map_or(0, |TlsVersion(v)| *v)
            }
            TlsExtension::PreSharedKey(&[high, low]) => psk = Some(u16::from_be_bytes([high, low])),
            _ => {}
        }
    }
    (version, hello.session_id.map(Vec::from).unwrap_or_default(), psk)
}

#[test]
fn real_ones_are_read_as_tls_parser_reads_them() {
    for (file, stream) in streams(".server") {
        assert_eq!(said(&stream), Some(expected(&stream)), "{file}");
    }
}

#[test]
fn real_ones_say_what_their_stack_is_known_to_say() {
    for (hex, version, id_len) in [
        (SERVER12_FULL, Version::Tls12, 32),
        (SERVER12_RESUMED, Version::Tls12, 32),
        (SERVER12_TICKET, Version::Tls12, 0),
        (SERVER13, Version::Tls13, 32),
        (SERVER13_NO_ID, Version::Tls13, 0),
    ] {
        let (found, id, psk) = said(&bytes(hex)).expect("a ServerHello");
        assert_eq!((found, id.len(), psk), (version as u16, id_len, None));
    }
}

#[test]
fn real_ones_cut_short_say_nothing() {
    for (file, stream) in streams(".server") {
        let end = 9 + usize::from(u16::from_be_bytes([stream[7], stream[8]]));
        for len in 0..end {
            assert_eq!(said(&stream[..len]), None, "{file} at {len}");
        }
        assert_eq!(said(&stream[..end]), Some(expected(&stream)), "{file}");
    }
}

/// Extensions that may stand in a ServerHello, and some that nobody has assigned.
fn extension() -> impl Strategy<Value = (u16, Vec<u8>)> {
    prop_oneof![
        1 => Just((43u16, vec![3, 4])),
        1 => Just((43u16, vec![3, 3])),
        1 => any::<u16>().prop_map(|index| (41, index.to_be_bytes().to_vec())),
        1 => Just((23u16, vec![])),
        3 => (prop::sample::select(vec![43u16 << 8, 0x2b2c, 0x7777]), prop::collection::vec(any::<u8>(), 0..40)),
    ]
}

fn server_hello(id: &[u8], extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, body)| {
            [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat()
        })
        .collect();
    let mut body = [&[3, 3][..], &[0x5a; 32], &[id.len() as u8], id, &[0xc0, 0x2f, 0]].concat();
    if !extensions.is_empty() {
        body.extend((list.len() as u16).to_be_bytes());
        body.extend(list);
    }
    let len = (body.len() as u32).to_be_bytes();
    [&[2, len[1], len[2], len[3]][..], &body].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generated_ones_are_read_as_tls_parser_reads_them(
        id in prop::collection::vec(any::<u8>(), 0..=32),
        extensions in prop::collection::vec(extension(), 0..8),
        piece in 1usize..200,
    ) {
        let message = server_hello(&id, &extensions);
        let whole = record(&message);
        prop_assert_eq!(said(&whole), Some(expected(&whole)));
        let split: Vec<u8> = message.chunks(piece).flat_map(record).collect();
        prop_assert_eq!(said(&split), Some(expected(&whole)));
    }

    #[test]
    fn lies_are_refused_or_stay_inside_of_the_hello(
        id in prop::collection::vec(any::<u8>(), 0..=32),
        extensions in prop::collection::vec(extension(), 0..8),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut stream = record(&server_hello(&id, &extensions));
        let at = at.index(stream.len());
        stream[at] = byte;
        // What follows the hello is no extension of it.
        stream.extend(record(&[14, 0, 0, 0]));
        if let Some((_, id, _)) = said(&stream) {
            prop_assert!(id.len() <= 32);
        }
    }
}

#[test]
fn an_id_that_is_too_long_is_none() {
    for len in 33..=255 {
        let mut stream = record(&server_hello(&[7; 32], &[]));
        stream[43] = len;
        assert_eq!(said(&stream), None);
    }
}

#[test]
fn what_is_no_server_hello_says_nothing() {
    for (at, byte) in [(0, 21), (0, 23), (1, 2), (5, 1), (5, 14), (9, 2)] {
        let mut stream = record(&server_hello(&[7; 32], &[]));
        stream[at] = byte;
        assert_eq!(said(&stream), None, "byte {at} = {byte}");
    }
}
