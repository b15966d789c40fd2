//! The header of the PROXY protocol in front of a stream: how long it is, byte by byte as it comes
//! in.

use proptest::prelude::*;
use steer_common::wire::proxy::{HEADER_MAX, Start, V1_MAX, start};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How a ClientHello begins.
const HELLO: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];

/// Judges a stream of which this much is at hand, and holds that nothing behind it is looked at.
fn judge(bytes: &[u8]) -> Start {
    start(|at| bytes[at], bytes.len() as u32)
}

/// Every part of `header` says that more is needed, all of it how long it is, whatever stands
/// behind.
#[track_caller]
fn assert_header(header: &[u8]) {
    for have in 0..header.len() {
        assert_eq!(judge(&header[..have]), Start::NeedMore, "{have} bytes");
    }
    let whole = Start::Header { len: header.len() as u32 };
    assert_eq!(judge(header), whole);
    assert_eq!(judge(&[header, &HELLO].concat()), whole);
    assert_eq!(judge(&[header, header].concat()), whole);
}

/// It needs more up to `decided` bytes, and is malformed from there on.
#[track_caller]
fn assert_malformed(bytes: &[u8], decided: usize) {
    for have in 0..=bytes.len() {
        let expected = if have < decided { Start::NeedMore } else { Start::Malformed };
        assert_eq!(judge(&bytes[..have]), expected, "{have} bytes");
    }
}

fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
}

#[test]
fn lines_of_version_1_end_with_their_crlf() {
    let address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    for line in [
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        "PROXY TCP6 2001:db8::1 2001:db8::2 1 443\r\n",
        "PROXY UNKNOWN\r\n",
        "PROXY UNKNOWN what anybody likes \x01\x7f\r\n",
    ] {
        assert_header(line.as_bytes());
    }
    let longest = format!("PROXY UNKNOWN {address} {address} 65535 65535\r\n");
    assert_eq!(longest.len(), V1_MAX as usize);
    assert_header(longest.as_bytes());
}

#[test]
fn headers_of_version_2_say_their_length() {
    assert_header(&version_2(0x20, 0, &[]));
    assert_header(&version_2(0x21, 0x11, &[1; 12]));
    assert_header(&version_2(0x21, 0x21, &[2; 36]));
    assert_header(&version_2(0x21, 0x31, &[3; 216]));
    assert_header(&version_2(0x20, 0, &[4; 20]));
    // Type-length-values behind the addresses, and a family that nobody knows yet.
    assert_header(&version_2(0x21, 0x11, &[5; 700]));
    assert_header(&version_2(0x21, 0x47, &[6; 9]));
}

#[test]
fn a_header_has_its_largest_length() {
    assert_header(&version_2(0x21, 0x11, &vec![7; HEADER_MAX as usize - 16]));
    assert_malformed(&version_2(0x21, 0x11, &vec![7; HEADER_MAX as usize - 15]), 16);
    assert_malformed(&version_2(0x21, 0x11, &[7; 0xffff]), 16);
}

#[test]
fn a_hello_is_no_header_at_its_first_byte() {
    for have in 1..=HELLO.len() {
        assert_eq!(judge(&HELLO[..have]), Start::NotProxy);
    }
    assert_eq!(judge(&[]), Start::NeedMore);
}

#[test]
fn a_signature_that_differs_is_none_from_that_byte_on() {
    for signature in [SIGNATURE, b"PROXY "] {
        for at in 0..signature.len() {
            let mut bytes = signature.to_vec();
            bytes[at] ^= 0x80;
            for have in 0..=bytes.len() {
                let expected = if have <= at { Start::NeedMore } else { Start::NotProxy };
                assert_eq!(judge(&bytes[..have]), expected, "{have} bytes, byte {at} differs");
            }
        }
    }
    assert_eq!(judge(b"POST / HTTP/1.1\r\n"), Start::NotProxy);
    assert_eq!(judge(b"PROXYTCP4"), Start::NotProxy);
}

#[test]
fn other_versions_and_commands_are_malformed_at_once() {
    for command in [0x00, 0x01, 0x10, 0x11, 0x22, 0x2f, 0x31, 0xff] {
        assert_malformed(&version_2(command, 0x11, &[1; 12]), 13);
    }
}

#[test]
fn other_words_of_version_1_are_malformed_at_once() {
    assert_malformed(b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", 8);
    assert_malformed(b"PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n", 10);
    assert_malformed(b"PROXY TCP46\r\n", 11);
    assert_malformed(b"PROXY http://example.test/\r\n", 7);
    assert_malformed(b"PROXY \r\n", 7);
}

#[test]
fn a_lone_cr_or_lf_ends_no_line() {
    assert_malformed(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n\r\n", 31);
    assert_malformed(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\r\n", 32);
    assert_malformed(b"PROXY UNKNOWN\n", 14);
}

#[test]
fn a_line_without_end_is_not_waited_for() {
    let mut line = b"PROXY UNKNOWN ".to_vec();
    line.resize(300, b'x');
    // Where byte 105 is no CR, bytes 105 and 106 are no CRLF.
    assert_malformed(&line, V1_MAX as usize - 1);
    line[105..107].copy_from_slice(b"\r\n");
    assert_header(&line[..107]);
    line[105..108].copy_from_slice(b"x\r\n");
    assert_malformed(&line, V1_MAX as usize - 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What was told of some bytes stays true of more, and only bytes at hand and below [`V1_MAX`]
    /// are read.
    #[test]
    fn an_answer_is_final(
        signature in prop::sample::select(vec![&b""[..], SIGNATURE, b"\r\n\r\n\0", b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN"]),
        rest in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\r\n !\x20\x21\0\x11".to_vec())], 0..400),
    ) {
        let bytes = [signature, &rest].concat();
        let mut before = Start::NeedMore;
        for have in 0..=bytes.len() {
            let look = &bytes[..have.min(V1_MAX as usize)];
            let told = start(|at| look[at], have as u32);
            if let Start::Header { len } = told {
                prop_assert!(len <= have as u32 && len <= HEADER_MAX);
            }
            prop_assert!(before == Start::NeedMore || told == before, "{before:?}, then {told:?} at {have}");
            before = told;
        }
    }

    #[test]
    fn every_header_of_version_2_is_as_long_as_it_says(family: u8, local: bool, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let header = version_2(if local { 0x20 } else { 0x21 }, family, &body);
        prop_assert_eq!(judge(&[&header[..], &HELLO].concat()), Start::Header { len: header.len() as u32 });
    }

    #[test]
    fn every_line_ends_at_its_first_crlf(text in "[ -~]{0,90}") {
        let line = format!("PROXY UNKNOWN{text}\r\n");
        prop_assert_eq!(judge(&[line.as_bytes(), b"\r\n"].concat()), Start::Header { len: line.len() as u32 });
    }
}
