//! The hello parsers against tls-parser, on real and on generated handshakes, whole, cut short and lying.

use proptest::prelude::*;
use steer_common::wire::tls::{
    client_hello::{self, SESSION_ID_AT, Start},
    server_flight::{self, Extension, ExtensionWalker, MAX_EXTENSIONS, RECORD_LOOK, Record, ServerHello},
};
use tls_parser::{
    TlsExtension, TlsMessage, TlsMessageHandshake, TlsRecordType, TlsVersion, parse_tls_extensions,
    parse_tls_plaintext, parse_tls_record_header,
};

/// Real hellos, by file of `fixtures`.
macro_rules! fixtures {
    ($($name:ident = $file:literal;)+) => {
        $(const $name: &str = include_str!(concat!("fixtures/", $file, ".hex"));)+
        const ALL: &[(&str, &str)] = &[$(($file, $name)),+];
    };
}
fixtures! {
    OPENSSL12_FULL = "openssl12_full.client";
    OPENSSL12_RESUMED = "openssl12_resumed.client";
    OPENSSL13 = "openssl13.client";
    GO12 = "go12_resumed.client";
    JAVA12 = "java12_resumed.client";
    NSS12 = "nss12_resumed.client";
    SERVER12_FULL = "openssl12_full.server";
    SERVER12_RESUMED = "openssl12_resumed.server";
    SERVER12_TICKET = "openssl12_ticket.server";
    SERVER13 = "openssl13.server";
    SERVER13_NO_ID = "nocompat13.server";
}

/// The captures whose file name ends so, as bytes.
fn captures(side: &str) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    ALL.iter().filter(move |(file, _)| file.ends_with(side)).map(|(file, hex)| (*file, bytes(hex)))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter_map(|c| char::from(c).to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The first `N` bytes of a stream and how many of them are there; what lies behind is another flow's.
fn seen<const N: usize>(stream: &[u8]) -> ([u8; N], usize) {
    let mut seen = [0x16; N];
    let have = stream.len().min(N);
    seen[..have].copy_from_slice(&stream[..have]);
    (seen, have)
}

fn client(stream: &[u8]) -> Start {
    let (seen, have) = seen(stream);
    client_hello::parse(&seen, have)
}

fn server(stream: &[u8]) -> ServerHello {
    let (seen, have) = seen(stream);
    server_flight::parse(&seen, have)
}

/// The first handshake message of a stream as tls-parser reads it.
fn message(stream: &[u8]) -> TlsMessageHandshake<'_> {
    let (_, record) = parse_tls_plaintext(stream).expect("a record");
    match record.msg.into_iter().next() {
        Some(TlsMessage::Handshake(message)) => message,
        other => panic!("{other:?}"),
    }
}

/// The session ID and whether TLS 1.3 was negotiated, as tls-parser reads them.
fn expected(stream: &[u8]) -> (Option<Vec<u8>>, bool) {
    match message(stream) {
        TlsMessageHandshake::ClientHello(hello) => (hello.session_id.map(Vec::from), false),
        TlsMessageHandshake::ServerHello(hello) => {
            let (_, extensions) = parse_tls_extensions(hello.ext.unwrap_or_default()).expect("extensions");
            let tls13 = extensions.iter().any(|extension| match extension {
                TlsExtension::SupportedVersions(versions) => versions.contains(&TlsVersion::Tls13),
                _ => false,
            });
            (hello.session_id.map(Vec::from), tls13)
        }
        other => panic!("{other:?}"),
    }
}

/// Whether a walk over the extensions of a ServerHello finds TLS 1.3, as the kernel program does it.
fn negotiated_tls13(stream: &[u8]) -> bool {
    let ServerHello::Session { extensions, end, .. } = server(stream) else { return false };
    let (stream, _) = seen(stream);
    let mut walker = ExtensionWalker { stream, offset: extensions as u32, end: end as u32 };
    let walk = (0..MAX_EXTENSIONS).map(|_| walker.step()).find(|step| *step != Extension::Other);
    extensions != 0 && walk == Some(Extension::Tls13)
}

#[track_caller]
fn assert_client_agrees(stream: &[u8]) {
    match expected(stream).0 {
        None => assert_eq!(client(stream), Start::NoSession),
        Some(id) => {
            assert_eq!(client(stream), Start::Session { len: id.len() });
            assert_eq!(stream[SESSION_ID_AT..SESSION_ID_AT + id.len()], id);
        }
    }
}

#[track_caller]
fn assert_server_agrees(stream: &[u8]) {
    let (id, tls13) = expected(stream);
    match (server(stream), id) {
        (ServerHello::NoSession, None) => {}
        (ServerHello::Session { len, .. }, Some(id)) => {
            assert_eq!(stream[server_flight::SESSION_ID_AT..server_flight::SESSION_ID_AT + len], id);
            assert_eq!(negotiated_tls13(stream), tls13);
        }
        other => panic!("{other:?}"),
    }
}

mod real_clients {
    use super::*;

    #[test]
    fn are_read_as_tls_parser_reads_them() {
        captures(".client").for_each(|(_, stream)| assert_client_agrees(&stream));
    }

    #[test]
    fn offer_what_their_stack_is_known_to_offer() {
        for (stream, start) in [
            (OPENSSL12_FULL, Start::NoSession),
            (OPENSSL12_RESUMED, Start::Session { len: 32 }),
            (OPENSSL13, Start::Session { len: 32 }),
            (GO12, Start::Session { len: 32 }),
            (JAVA12, Start::Session { len: 32 }),
            (NSS12, Start::Session { len: 32 }),
        ] {
            assert_eq!(client(&bytes(stream)), start);
        }
    }

    #[test]
    fn cut_short_anywhere_need_more_or_say_the_same() {
        for (file, stream) in captures(".client") {
            let whole = client(&stream);
            for len in 0..stream.len() {
                let cut = client(&stream[..len]);
                let decided = len >= 76 || (whole == Start::NoSession && len >= 44);
                assert_eq!(cut, if decided { whole } else { Start::NeedMore }, "{file} at {len}");
            }
        }
    }
}

mod real_servers {
    use super::*;

    #[test]
    fn are_read_as_tls_parser_reads_them() {
        captures(".server").for_each(|(_, stream)| assert_server_agrees(&stream));
    }

    #[test]
    fn of_tls_13_are_told_by_their_extension() {
        for (stream, tls13) in
            [(SERVER12_FULL, false), (SERVER12_RESUMED, false), (SERVER12_TICKET, false), (SERVER13, true)]
        {
            assert_eq!(negotiated_tls13(&bytes(stream)), tls13);
        }
    }

    #[test]
    fn without_an_id_have_nothing_to_learn() {
        assert_eq!(server(&bytes(SERVER13_NO_ID)), ServerHello::NoSession);
        assert_eq!(server(&bytes(SERVER12_TICKET)), ServerHello::NoSession);
    }

    #[test]
    fn cut_short_anywhere_say_nothing_or_the_same_id() {
        for (file, stream) in captures(".server") {
            for len in 0..stream.len() {
                match (server(&stream[..len]), server(&stream)) {
                    (ServerHello::None, _) => assert!(len < 76, "{file} at {len}"),
                    (ServerHello::Session { len: cut, end, .. }, ServerHello::Session { len: whole, .. }) => {
                        assert!(cut == whole && end <= len, "{file} at {len}");
                    }
                    (cut, whole) => assert_eq!(cut, whole, "{file} at {len}"),
                }
                assert!(!negotiated_tls13(&stream[..len]) || file.contains("13"), "{file} at {len}");
            }
        }
    }

    /// The records of a flight up to the first that is not the handshake's.
    fn records(stream: &[u8]) -> Vec<Record> {
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(look) = stream.get(at..at + RECORD_LOOK) {
            let (record, len) = server_flight::record(look.first_chunk().expect("six bytes"));
            let (_, header) = parse_tls_record_header(&stream[at..]).expect("a record header");
            assert_eq!(len, 5 + usize::from(header.len));
            let plain = !found.contains(&Record::ChangeCipherSpec);
            assert_eq!(plain && record == Record::NewSessionTicket, plain && is_ticket(&stream[at..]));
            assert_eq!(record == Record::ChangeCipherSpec, header.record_type == TlsRecordType::ChangeCipherSpec);
            assert_eq!(record == Record::ApplicationData, header.record_type == TlsRecordType::ApplicationData);
            found.push(record);
            if plain && record == Record::ChangeCipherSpec {
                break;
            }
            at += len;
        }
        found
    }

    fn is_ticket(stream: &[u8]) -> bool {
        matches!(parse_tls_plaintext(stream), Ok((_, record))
            if matches!(record.msg[..], [TlsMessage::Handshake(TlsMessageHandshake::NewSessionTicket(_))]))
    }

    #[test]
    fn reach_their_change_cipher_spec_record_by_record() {
        use Record::{ChangeCipherSpec, Handshake, NewSessionTicket};
        for (stream, expected) in [
            (SERVER12_FULL, &[Handshake, Handshake, Handshake, Handshake, ChangeCipherSpec][..]),
            (SERVER12_RESUMED, &[Handshake, ChangeCipherSpec]),
            (SERVER12_TICKET, &[Handshake, Handshake, Handshake, Handshake, NewSessionTicket, ChangeCipherSpec]),
            (SERVER13, &[Handshake, ChangeCipherSpec]),
        ] {
            assert_eq!(records(&bytes(stream)), expected);
        }
    }
}

/// A handshake message of a kind in one record: version 1.2, a random, this ID and this rest.
fn hello(kind: u8, id: &[u8], rest: &[u8]) -> Vec<u8> {
    let body = [&[3, 3][..], &[0x5a; 32], &[id.len() as u8], id, rest].concat();
    let len = (body.len() as u32).to_be_bytes();
    let message = [&[kind, len[1], len[2], len[3]][..], &body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

fn extension_list(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat())
        .collect();
    [&(list.len() as u16).to_be_bytes()[..], &list].concat()
}

/// Extensions that may stand in a ServerHello; supported_versions names 1.3 or something else.
fn extension() -> impl Strategy<Value = (u16, Vec<u8>)> {
    prop_oneof![
        1 => Just((43u16, vec![3, 4])),
        1 => Just((43u16, vec![3, 3])),
        1 => Just((23u16, vec![])),
        // Kinds that nobody has assigned, so that their bodies may be anything.
        3 => (prop::sample::select(vec![43u16 << 8, 0x2b2c, 0x7777]), prop::collection::vec(any::<u8>(), 0..40)),
    ]
}

fn id() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=32)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_hello_is_read_as_tls_parser_reads_it(id in id(), suites in 1u8..60) {
        let suites_len = suites * 2;
        let suites = [&[0, suites_len][..], &vec![0; suites_len.into()], &[1, 0]].concat();
        assert_client_agrees(&hello(1, &id, &suites));
    }

    #[test]
    fn a_server_hello_is_read_as_tls_parser_reads_it(
        id in id(),
        extensions in prop::collection::vec(extension(), 0..8),
        present: bool,
    ) {
        let list = if present { extension_list(&extensions) } else { Vec::new() };
        let stream = hello(2, &id, &[&[0xc0, 0x2f, 0][..], &list].concat());
        prop_assume!(stream.len() <= server_flight::LOOKED_AT);
        match message(&stream) {
            TlsMessageHandshake::ServerHello(hello) => {
                let tls13 = present && extensions.contains(&(43, vec![3, 4]));
                prop_assert_eq!(negotiated_tls13(&stream), tls13 && hello.session_id.is_some());
            }
            other => prop_assert!(false, "{:?}", other),
        }
        assert_server_agrees(&stream);
    }

    #[test]
    fn no_bytes_whatever_make_a_parser_panic(
        mut stream in prop::collection::vec(any::<u8>(), 0..600),
        kind in 1u8..3,
        offset: u32,
        end in 0u32..=512,
    ) {
        for (byte, fixed) in stream.iter_mut().zip([22, 3, 1, 2, 0, kind, 0, 1, 0, 3]) {
            *byte = fixed;
        }
        let (start, hello) = (client(&stream), server(&stream));
        if let Start::Session { len } = start {
            prop_assert!((1..=32).contains(&len) && SESSION_ID_AT + len <= stream.len());
        }
        if let ServerHello::Session { len, end, .. } = hello {
            prop_assert!((1..=32).contains(&len) && server_flight::SESSION_ID_AT + len <= stream.len());
            prop_assert!(end <= stream.len());
        }
        let mut walker = ExtensionWalker { stream: seen(&stream).0, offset, end };
        for _ in 0..MAX_EXTENSIONS {
            let at = walker.offset;
            match walker.step() {
                Extension::Other => prop_assert!(walker.offset >= at + 4),
                Extension::Tls13 | Extension::Done => break,
            }
        }
    }
}

#[test]
fn what_is_no_tls_is_told_by_its_first_bytes() {
    for (stream, at) in [
        (&b"GET / HTTP/1.1\r\n"[..], 1),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 1),
        (b"PROXY TCP4 192.0.2.1 198.51.100.10 4000 443\r\n", 1),
        (b"\r\n\r\n\0\r\nQUIT\n", 1),
        // SSL 2: record length with its high bit, CLIENT-HELLO, version 3.1.
        (&[0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10], 1),
        // An alert; a handshake record of no version; a handshake message that is no ClientHello.
        (&[0x15, 3, 1, 0, 2, 1, 0], 1),
        (&[0x16, 2, 0, 0, 100, 1], 2),
        (&[0x16, 3, 1, 0, 100, 2], 6),
    ] {
        for len in 0..=stream.len() {
            let said = if len < at { Start::NeedMore } else { Start::NotTls };
            assert_eq!(client(&stream[..len]), said, "{stream:02x?} at {len}");
        }
    }
}

#[test]
fn a_client_hello_whose_lengths_lie_is_malformed() {
    let good = hello(1, &[7; 32], &[0, 2, 0, 47, 1, 0]);
    for (at, byte) in [(43, 33), (43, 255), (4, 70), (4, 39), (9, 2)] {
        let mut stream = good.clone();
        stream[at] = byte;
        assert_eq!(client(&stream), Start::Malformed, "byte {at} = {byte}");
    }
}

#[test]
fn a_record_that_ends_with_the_id_is_long_enough() {
    assert_eq!(client(&hello(1, &[7; 32], &[])), Start::Session { len: 32 });
}

#[test]
fn a_server_hello_whose_id_is_too_long_is_none() {
    for len in 33..=255 {
        let mut stream = hello(2, &[7; 32], &[0xc0, 0x2f, 0]);
        stream[43] = len;
        assert_eq!(server(&stream), ServerHello::None);
    }
}

#[test]
fn a_flight_that_is_no_server_hello_is_none() {
    let good = hello(2, &[7; 32], &[0xc0, 0x2f, 0]);
    for (at, byte) in [(0, 21), (1, 2), (5, 1), (5, 14), (9, 2)] {
        let mut stream = good.clone();
        stream[at] = byte;
        assert_eq!(server(&stream), ServerHello::None, "byte {at} = {byte}");
    }
}

#[test]
fn extensions_that_lie_end_the_walk() {
    let mut stream =
        hello(2, &[7; 32], &[&[0xc0, 0x2f, 0][..], &extension_list(&[(23, vec![]), (43, vec![3, 4])])].concat());
    assert!(negotiated_tls13(&stream));
    let first_len = server_flight::SESSION_ID_AT + 32 + 5 + 2;
    for lie in [[0xff, 0xff], [2, 0], [0, 9]] {
        stream[first_len..first_len + 2].copy_from_slice(&lie);
        assert!(!negotiated_tls13(&stream), "{lie:02x?}");
    }
}

#[test]
fn what_follows_the_hello_is_no_extension_of_it() {
    let whole = hello(2, &[7; 32], &[&[0xc0, 0x2f, 0][..], &extension_list(&[(23, vec![])])].concat());
    assert!(!negotiated_tls13(&[&whole[..], &[0, 43, 0, 2, 3, 4]].concat()));
}

#[test]
fn only_a_change_cipher_spec_of_one_byte_1_is_one() {
    let record = |bytes: [u8; 6]| server_flight::record(&bytes).0;
    assert_eq!(record([20, 3, 3, 0, 1, 1]), Record::ChangeCipherSpec);
    for bytes in [[20, 3, 3, 0, 1, 2], [20, 3, 3, 0, 2, 1], [20, 3, 3, 1, 1, 1], [20, 2, 3, 0, 1, 1]] {
        assert_eq!(record(bytes), Record::Unknown, "{bytes:02x?}");
    }
}

#[test]
fn every_other_record_has_its_name() {
    for (bytes, expected) in [
        ([22, 3, 3, 0, 60, 2], Record::Handshake),
        ([22, 3, 3, 0, 60, 4], Record::NewSessionTicket),
        ([23, 3, 3, 0, 60, 4], Record::ApplicationData),
        ([21, 3, 3, 0, 2, 1], Record::Alert),
        ([24, 3, 3, 0, 60, 1], Record::Unknown),
        (*b"HTTP/1", Record::Unknown),
    ] {
        assert_eq!(server_flight::record(&bytes).0, expected, "{bytes:02x?}");
    }
}
