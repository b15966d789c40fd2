//! The header of a PROXY protocol in front of a hello.

use steer_user::inspect::{Key, Outcome, Row};

use crate::{
    Flow,
    Kind::{Data, Fin},
    client_hello, record, row, server_hello,
};

const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.10 56324 443\r\n";

fn block(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &(body.len() as u16).to_be_bytes(), body]
        .concat()
}

fn v4_block(more: usize) -> Vec<u8> {
    block(
        0x21,
        0x11,
        &[&[203, 0, 113, 7, 198, 51, 100, 10, 0xdc, 4, 1, 0xbb][..], &vec![4; more]].concat(),
    )
}

fn hello() -> Vec<u8> {
    record(22, &client_hello(&[7; 32], &[(35, vec![9; 300])]))
}

fn answer() -> Vec<u8> {
    [record(22, &server_hello([1; 32], &[7; 32], &[])), record(20, &[1])].concat()
}

/// The connection of a client that says this, in segments of `size` bytes.
fn said(stream: &[u8], size: usize) -> Row {
    let flow = Flow::v4();
    let mut frames = flow.opened();
    for (at, piece) in stream.chunks(size).enumerate() {
        frames.push(flow.client(Data, (at * size) as u32, piece));
    }
    frames.push(flow.server(Data, 0, &answer()));
    row(&frames)
}

#[track_caller]
fn assert_skipped(header: &[u8], version: &str, client: Option<&str>) {
    for size in [1, 7, 100, 1448, 9000] {
        let row = said(&[header, &hello()].concat(), size);
        assert_eq!(
            (row.proxy_protocol, row.proxied_client.map(|client| client.to_string())),
            (Some(version), client.map(str::to_owned))
        );
        let hello = row.client_hello.expect("a hello");
        assert_eq!((hello.bytes, hello.session_id), (383, Some("07".repeat(32))));
        // Segments that brought the header alone do not count.
        let segments = (header.len() + 388).div_ceil(size) - header.len() / size;
        assert_eq!(hello.segments as usize, segments, "in pieces of {size} bytes");
        assert_eq!((row.outcome, row.key), (Outcome::Resumed, Key::Ticket));
    }
}

#[test]
fn headers_are_skipped_and_told() {
    assert_skipped(LINE, "v1", Some("203.0.113.7:56324"));
    assert_skipped(b"PROXY TCP6 2001:db8::7 2001:db8::1 9 443\r\n", "v1", Some("[2001:db8::7]:9"));
    assert_skipped(b"PROXY UNKNOWN\r\n", "v1", None);
    assert_skipped(&v4_block(0), "v2", Some("203.0.113.7:56324"));
    // With type-length-values, and those of a balancer that passes a certificate on.
    assert_skipped(&v4_block(84), "v2", Some("203.0.113.7:56324"));
    assert_skipped(&v4_block(4000), "v2", Some("203.0.113.7:56324"));
    assert_skipped(&block(0x20, 0, &[]), "v2", None);
    assert_skipped(&block(0x21, 0x31, &[0; 216]), "v2", None);
}

#[test]
fn a_hello_in_several_records_is_read_behind_a_header() {
    let message = client_hello(&[7; 32], &[(35, vec![9; 6000])]);
    let records: Vec<u8> = message.chunks(700).flat_map(|piece| record(22, piece)).collect();
    let row = said(&[LINE, &records].concat(), 500);
    let hello = row.client_hello.expect("a hello");
    assert_eq!(
        (hello.bytes as usize, hello.segments as usize),
        (message.len(), (LINE.len() + records.len()).div_ceil(500))
    );
}

#[test]
fn whoever_sends_a_header_is_the_client() {
    let flow = Flow::v4();
    let row = row(&[flow.server(Data, 0, &[]), flow.client(Data, 0, LINE)]);
    assert_eq!(
        (row.client, row.proxy_protocol, row.client_hello),
        (flow.client.address, Some("v1"), None)
    );
}

#[test]
fn what_is_behind_a_header_need_not_be_a_hello() {
    let row = said(&[LINE, b"GET / HTTP/1.1\r\n\r\n"].concat(), 1448);
    assert_eq!((row.proxy_protocol, row.client_hello, row.key), (Some("v1"), None, Key::None));
}

#[test]
fn what_is_no_header_is_not_skipped() {
    for no_header in [
        &b"PROXY TCP4 1.2.3.4\n"[..],
        b"PROX",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        &v4_block(5000),
    ] {
        let row = said(&[no_header, &hello()].concat(), 1448);
        assert_eq!((row.proxy_protocol, row.client_hello), (None, None));
    }
}

#[test]
fn a_client_that_hangs_up_leaves_what_it_said() {
    let flow = Flow::v4();
    let frames =
        [flow.opened(), vec![flow.client(Data, 0, LINE), flow.client(Fin, LINE.len() as u32, &[])]]
            .concat();
    assert_eq!(row(&frames).proxy_protocol, Some("v1"));
}
