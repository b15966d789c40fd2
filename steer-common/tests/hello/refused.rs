//! What is no hello, or none that can be.

use steer_common::wire::tls::client_hello::{STREAM, Start, early_session_id, start};

use crate::{
    Read,
    fixtures::{OPENSSL12_RESUMED, bytes},
    padded, read, record,
};

/// The smallest hello, with an ID of 32 bytes.
fn hello() -> Vec<u8> {
    record(&[&[1, 0, 0, 73, 3, 3][..], &[0x5a; 32], &[32], &[7; 32], &[0, 2, 0, 47, 1, 0]].concat())
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
            let said = if len < at { Read::NeedMore } else { Read::NotTls };
            assert_eq!(read(&stream[..len]), said, "{stream:02x?} at {len}");
        }
    }
}

#[test]
fn lengths_that_lie_are_malformed() {
    assert!(matches!(read(&hello()), Read::Hello(_)));
    // Session ID, cipher suites, compression methods; a record or message too short for any hello;
    // the version.
    for (at, byte) in [(43, 33), (43, 255), (76, 1), (77, 200), (80, 9), (8, 20), (9, 2)] {
        let mut stream = hello();
        stream[at] = byte;
        assert_eq!(read(&stream), Read::Malformed, "byte {at} = {byte}");
    }
}

#[test]
fn a_record_of_no_length_or_too_long_is_malformed() {
    for len in [[0, 0], [0x40, 1], [0xff, 0xff]] {
        let mut stream = hello();
        (stream[3], stream[4]) = (len[0], len[1]);
        assert_eq!(read(&stream), Read::Malformed, "{len:?}");
        let second = [&record(&hello()[5..40])[..], &[22, 3, 1], &len, &hello()[40..]].concat();
        assert_eq!(read(&second), Read::Malformed, "second record {len:?}");
    }
}

#[test]
fn a_message_that_goes_on_in_another_content_is_malformed() {
    let mut split = [record(&hello()[5..40]), record(&hello()[40..])].concat();
    for content in [20, 21, 23, 24] {
        split[40] = content;
        assert_eq!(read(&split), Read::Malformed, "content {content}");
    }
}

#[test]
fn a_message_longer_than_the_buffer_is_never_read_to_its_end() {
    let body = [&[3, 3][..], &[0x5a; 32], &[0, 0, 2, 0, 47, 1, 0, 0x60, 0], &[0; 0x6000]].concat();
    let len = (body.len() as u32).to_be_bytes();
    let message = [&[1, len[1], len[2], len[3]][..], &body].concat();
    let stream: Vec<u8> = message.chunks(1 << 14).flat_map(record).take(STREAM).collect();
    let padded = padded(&stream);
    assert_eq!(start(|at| padded[at], STREAM as u32), Start::Split);
    assert_eq!(read(&stream), Read::NeedMore);
}

#[test]
fn the_early_session_id_is_there_when_all_of_it_is() {
    let stream = bytes(OPENSSL12_RESUMED);
    for have in 0..120u32 {
        let padded = padded(&stream[..(have as usize).min(stream.len())]);
        let len = early_session_id(|at| padded[at], have);
        assert_eq!(len, if have >= 76 { 32 } else { 0 }, "{have} bytes");
    }
}
