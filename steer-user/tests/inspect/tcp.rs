//! Streams: in any order, repeated, cut, without their beginning.

use proptest::prelude::*;
use steer_user::inspect::{ClientHello, Key, Outcome};

use crate::{
    Flow,
    Kind::{Data, Reset, Syn, SynAck},
    client_hello, record, row, rows, server_hello,
};

const ID: [u8; 32] = [7; 32];

fn hello() -> Vec<u8> {
    record(22, &client_hello(&ID, &[(35, vec![9; 300])]))
}

fn answer() -> Vec<u8> {
    [record(22, &server_hello([1; 32], &ID, &[])), record(20, &[1]), record(22, &[8; 40])].concat()
}

#[track_caller]
fn segments(hello: Option<&ClientHello>) -> u32 {
    let hello = hello.expect("a hello");
    assert_eq!((hello.session_id.as_deref(), hello.bytes), (Some(&*"07".repeat(32)), 383));
    hello.segments
}

#[test]
fn one_byte_a_segment() {
    let (flow, hello) = (Flow::v4(), hello());
    let mut frames = flow.opened();
    for (at, byte) in hello.iter().enumerate() {
        frames.push(flow.client(Data, at as u32, &[*byte]));
    }
    for (at, byte) in answer().iter().enumerate() {
        frames.push(flow.server(Data, at as u32, &[*byte]));
    }
    let row = row(&frames);
    assert_eq!(segments(row.client_hello.as_ref()) as usize, hello.len());
    assert_eq!((row.outcome, row.key), (Outcome::Resumed, Key::Ticket));
}

#[test]
fn repeats_are_not_counted_and_what_they_add_is() {
    let (flow, hello) = (Flow::v4(), hello());
    let frames = [
        flow.opened(),
        vec![
            flow.client(Data, 0, &hello[..100]),
            flow.client(Data, 0, &hello[..100]),
            flow.client(Data, 50, &hello[50..90]),
            flow.client(Data, 90, &hello[90..200]),
            flow.client(Data, 0, &hello),
            flow.client(Data, 0, &hello),
        ],
    ]
    .concat();
    assert_eq!(segments(row(&frames).client_hello.as_ref()), 3);
}

#[test]
fn record_headers_count_and_data_behind_the_hello_does_not() {
    let (flow, message) = (Flow::v4(), client_hello(&ID, &[(35, vec![9; 300])]));
    let split =
        [record(22, &message[..100]), record(22, &message[100..]), record(23, &[0; 60])].concat();
    let end = split.len() - 65;
    // The second record's header is the second segment, the early data the fourth.
    let cuts = [0, 105, 110, end, split.len()];
    let mut frames = flow.opened();
    for cut in cuts.windows(2) {
        frames.push(flow.client(Data, cut[0] as u32, &split[cut[0]..cut[1]]));
    }
    assert_eq!(segments(row(&frames).client_hello.as_ref()), 3);
}

#[test]
fn numbers_may_wrap() {
    for isn in [u32::MAX, u32::MAX - 1, u32::MAX - 100, u32::MAX - 388, 0x7fff_fff0] {
        let flow =
            Flow::new("[2001:db8::1]:40000", "[2001:db8::10]:443", isn, isn.wrapping_sub(20));
        let mut frames = flow.opened();
        for (at, piece) in hello().chunks(50).enumerate().collect::<Vec<_>>().into_iter().rev() {
            frames.push(flow.client(Data, at as u32 * 50, piece));
        }
        frames.push(flow.server(Data, 30, &answer()[30..]));
        frames.push(flow.server(Data, 0, &answer()[..30]));
        let row = row(&frames);
        assert_eq!(row.client.to_string(), "[2001:db8::1]:40000");
        assert_eq!((segments(row.client_hello.as_ref()), row.outcome), (8, Outcome::Resumed));
    }
}

#[test]
fn a_hello_may_come_in_the_syn() {
    let flow = Flow::v4();
    let frames = [
        flow.client(Syn, 0, &hello()[..200]),
        flow.server(SynAck, 0, &[]),
        flow.client(Data, 200, &hello()[200..]),
        flow.server(Data, 0, &answer()),
    ];
    let row = row(&frames);
    assert_eq!((segments(row.client_hello.as_ref()), row.outcome), (2, Outcome::Resumed));
}

#[test]
fn another_initial_number_is_another_row() {
    let (first, second) =
        (Flow::v4(), Flow::new("192.0.2.1:40000", "198.51.100.10:443", 77_000, 99_000));
    let mut frames = first.opened();
    frames.push(first.client(Data, 0, &hello()));
    frames.push(first.client(Syn, 0, &[]));
    frames.extend(second.opened());
    frames.push(second.client(Data, 0, b"GET / HTTP/1.1\r\n\r\n"));
    let rows = rows(&frames);
    assert_eq!(rows.len(), 2);
    assert!(rows[0].client_hello.is_some() && rows[1].client_hello.is_none());
    assert_eq!((rows[1].outcome, rows[1].key), (Outcome::Unknown, Key::None));
}

#[test]
fn a_late_segment_of_a_read_connection_begins_no_row() {
    let flow = Flow::v4();
    let mut frames = flow.opened();
    frames.extend([flow.client(Data, 0, &hello()), flow.server(Data, 0, &answer())]);
    frames.extend([
        flow.client(Data, 388, &[0; 99]),
        flow.server(Data, 500, &[0; 99]),
        flow.client(Reset, 487, &[]),
    ]);
    assert_eq!(rows(&frames).len(), 1);
}

#[test]
fn without_a_syn_the_client_is_who_sends_the_hello() {
    let flow = Flow::v4();
    let row = row(&[
        flow.server(Data, 0, &[]),
        flow.client(Data, 200, &hello()[200..]),
        flow.client(Data, 0, &hello()[..200]),
        flow.server(Data, 0, &answer()),
    ]);
    assert_eq!(row.client, flow.client.address);
    assert_eq!((segments(row.client_hello.as_ref()), row.outcome), (2, Outcome::Resumed));
}

#[test]
fn without_a_syn_and_a_hello_the_client_is_who_spoke_first() {
    let flow = Flow::v4();
    let row = row(&[flow.server(Data, 9, b"220 mail"), flow.client(Data, 0, b"EHLO")]);
    assert_eq!((row.client, row.server), (flow.server.address, flow.client.address));
    assert_eq!((row.client_hello, row.server_hello, row.key), (None, None, Key::None));
}

#[test]
fn an_answer_to_a_syn_tells_the_client_too() {
    let flow = Flow::v4();
    let row = row(&[flow.server(SynAck, 0, &[]), flow.client(Data, 100, &hello()[100..])]);
    assert_eq!((row.client, row.client_hello), (flow.client.address, None));
}

#[test]
fn a_lone_syn_is_a_row() {
    assert_eq!(row(&[Flow::v4().client(Syn, 0, &[])]).outcome, Outcome::Unknown);
}

#[test]
fn a_hole_is_never_filled() {
    let flow = Flow::v4();
    let mut frames = flow.opened();
    frames.extend([flow.client(Data, 0, &hello()[..100]), flow.client(Data, 101, &hello()[101..])]);
    frames.extend([flow.server(Data, 0, &answer()[..20]), flow.server(Data, 21, &answer()[21..])]);
    let row = row(&frames);
    assert_eq!((row.client_hello, row.server_hello, row.outcome), (None, None, Outcome::Unknown));
}

#[test]
fn a_keepalive_is_no_data() {
    let flow = Flow::v4();
    let mut frames = flow.opened();
    frames.push(flow.client(Data, 0u32.wrapping_sub(1), &[0]));
    frames.push(flow.client(Data, 0, &hello()));
    assert_eq!(segments(row(&frames).client_hello.as_ref()), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_says_the_same(
        isn: u32,
        size in 20usize..200,
        seed in any::<u64>(),
        syn in any::<bool>(),
    ) {
        let flow = Flow::new("192.0.2.1:40000", "198.51.100.10:443", isn, !isn);
        let mut data: Vec<Vec<u8>> = Vec::new();
        for (at, piece) in hello().chunks(size).enumerate() {
            data.push(flow.client(Data, (at * size) as u32, piece));
        }
        for (at, piece) in answer().chunks(size).enumerate() {
            data.push(flow.server(Data, (at * size) as u32, piece));
        }
        let shuffled = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        data.sort_by_key(|frame| frame.iter().fold(seed, shuffled));
        let frames = [if syn { flow.opened() } else { Vec::new() }, data].concat();
        let row = row(&frames);
        prop_assert_eq!(row.client, flow.client.address);
        prop_assert_eq!(segments(row.client_hello.as_ref()), hello().len().div_ceil(size) as u32);
        prop_assert_eq!(row.outcome, Outcome::Resumed);
    }
}
