//! What a client's segment does while a flow is not settled.

use proptest::test_runner::Config;
use steer_common::{
    counters::Counter,
    flow::State,
    rehome::{self, ClientAct, Data},
    shared::{Flow, PENDING_MAX, options},
    wire::tcp::{Segment, flags},
};

use crate::{BEFORE_DATA, FIRST_ISN, ISN, LIMIT, flow, segment};

const MSS: usize = 1460;
/// What the gateway has seen of the client's stream in these tests, bytes.
const SEEN: u32 = 400;

const UNSETTLED: [State; 3] = [State::Established, State::Gather, State::Wait];
const HELD: [State; 2] = [State::Gather, State::Wait];

/// A client's segment whose first byte stands `offset` bytes into its stream.
fn client(bits: u8, offset: i32, payload_len: usize) -> Segment {
    segment(bits, ISN.wrapping_add(1).wrapping_add_signed(offset), FIRST_ISN + 1, payload_len)
}

fn data(offset: i32, payload_len: usize) -> Segment {
    client(flags::ACK | flags::PSH, offset, payload_len)
}

fn piece(offset: u32, skip: u32, len: u32) -> ClientAct {
    ClientAct::Data(Data { offset, skip, len })
}

#[track_caller]
fn client_does(state: State, segment: Segment, act: ClientAct) {
    assert_eq!(rehome::client(&flow(state), state, &segment, false, SEEN), act, "{state:?} {segment:?}");
}

#[test]
fn a_bare_ack_passes_until_data_is_held_back() {
    client_does(State::Established, client(flags::ACK, 0, 0), ClientAct::Forward);
    for state in HELD {
        client_does(state, client(flags::ACK, SEEN as i32, 0), ClientAct::Drop(Counter::WaitDropped));
    }
}

#[test]
fn a_keepalive_at_the_isn_counts_as_a_bare_ack() {
    for payload_len in [0, 1] {
        client_does(State::Established, client(flags::ACK, -1, payload_len), ClientAct::Forward);
        for state in HELD {
            client_does(state, client(flags::ACK, -1, payload_len), ClientAct::Drop(Counter::WaitDropped));
        }
    }
}

#[test]
fn data_is_decided_on_in_every_unsettled_state() {
    for state in UNSETTLED {
        client_does(state, data(0, 300), piece(0, 0, 300));
    }
}

#[test]
fn data_ahead_of_a_hole_keeps_its_offset() {
    for state in UNSETTLED {
        client_does(state, data(2 * MSS as i32, MSS), piece(2 * MSS as u32, 0, MSS as u32));
    }
}

#[test]
fn bytes_before_the_stream_are_skipped() {
    for state in UNSETTLED {
        client_does(state, data(-1, 301), piece(0, 1, 300));
        client_does(state, data(-40, 41), piece(0, 40, 1));
    }
}

#[test]
fn bytes_beyond_the_limit_are_cut_off() {
    for state in UNSETTLED {
        client_does(state, data(PENDING_MAX as i32 - 10, MSS), piece(LIMIT - 10, 0, 10));
        client_does(state, data(-1, 65_000), piece(0, 1, LIMIT));
    }
}

#[test]
fn a_segment_beyond_the_limit_is_dropped() {
    for state in UNSETTLED {
        client_does(state, data(PENDING_MAX as i32, 1), ClientAct::Drop(Counter::GatherBeyond));
        client_does(state, data(1 << 30, MSS), ClientAct::Drop(Counter::GatherBeyond));
    }
}

#[test]
fn a_fin_before_any_data_gives_the_flow_to_the_first_backend() {
    client_does(State::Established, client(flags::FIN | flags::ACK, 0, 0), ClientAct::Settle(Counter::NotMovable));
}

#[test]
fn a_fin_behind_held_data_is_dropped_and_repeated() {
    for state in HELD {
        let fin = client(flags::FIN | flags::ACK, SEEN as i32, 0);
        client_does(state, fin, ClientAct::Drop(Counter::WaitDropped));
    }
}

#[test]
fn a_fin_with_the_hello_gives_the_flow_to_the_first_backend() {
    let fin = client(flags::FIN | flags::ACK, 0, 300);
    client_does(State::Established, fin, ClientAct::Settle(Counter::NotMovable));
}

#[test]
fn a_fin_with_more_data_leaves_the_data_to_be_kept() {
    for state in HELD {
        client_does(state, client(flags::FIN | flags::ACK, 100, 50), piece(100, 0, 50));
    }
}

/// Segments that cannot be moved, by name.
fn immovable() -> [(&'static str, Segment); 4] {
    let wrong_ack = |ack: u32| segment(flags::ACK, ISN.wrapping_add(1), ack, 300);
    [
        ("urgent", client(flags::ACK | flags::URG, 0, 300)),
        ("acknowledges more", wrong_ack(FIRST_ISN + 2)),
        ("acknowledges less", wrong_ack(FIRST_ISN)),
        ("acknowledges nothing", client(flags::PSH, 0, 300)),
    ]
}

#[test]
fn an_immovable_hello_gives_the_flow_to_the_first_backend() {
    for state in BEFORE_DATA {
        for (name, segment) in immovable() {
            let act = rehome::client(&flow(state), state, &segment, false, 0);
            assert_eq!(act, ClientAct::Settle(Counter::NotMovable), "{name} in {state:?}");
        }
    }
}

#[test]
fn while_waiting_every_data_is_kept() {
    for (_, segment) in immovable() {
        client_does(State::Wait, segment, piece(0, 0, 300));
    }
}

#[test]
fn ip_options_keep_a_flow_from_moving() {
    for state in BEFORE_DATA {
        let act = rehome::client(&flow(state), state, &data(0, 300), true, 0);
        assert_eq!(act, ClientAct::Settle(Counter::NotMovable), "{state:?}");
    }
}

#[test]
fn a_bare_ack_with_ip_options_decides_nothing() {
    let act = rehome::client(&flow(State::Established), State::Established, &client(flags::ACK, 0, 0), true, 0);
    assert_eq!(act, ClientAct::Forward);
}

#[test]
fn signed_options_keep_a_flow_from_moving() {
    for state in BEFORE_DATA {
        let signed = Flow { offered: options::SACK | options::SIGNED, ..flow(state) };
        let act = rehome::client(&signed, state, &data(0, 300), false, 0);
        assert_eq!(act, ClientAct::Settle(Counter::NotMovable), "{state:?}");
    }
}

#[test]
fn a_reset_before_any_data_is_the_first_backends_to_judge() {
    for offset in [-1, 0, 1 << 20] {
        client_does(State::Established, client(flags::RST, offset, 0), ClientAct::Forward);
    }
}

#[test]
fn a_reset_counts_only_inside_what_the_client_sent() {
    for state in HELD {
        for (offset, act) in [
            (0, ClientAct::Reset),
            (1, ClientAct::Reset),
            (SEEN as i32, ClientAct::Reset),
            (SEEN as i32 + 1, ClientAct::Drop(Counter::ResetInvalid)),
            (-1, ClientAct::Drop(Counter::ResetInvalid)),
            (i32::MAX, ClientAct::Drop(Counter::ResetInvalid)),
            (i32::MIN, ClientAct::Drop(Counter::ResetInvalid)),
        ] {
            client_does(state, client(flags::RST, offset, 0), act);
            client_does(state, client(flags::RST | flags::ACK, offset, 0), act);
        }
    }
}

proptest::proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn what_is_offered_to_the_buffer_is_in_it_and_in_the_segment(
        offset in -70_000i32..70_000,
        payload_len in 0usize..65_536,
        bits in 0u8..=255,
        at in 0usize..3,
        highest in 0..=LIMIT,
    ) {
        let (state, segment) = (UNSETTLED[at], client(bits, offset, payload_len));
        if let ClientAct::Data(data) = rehome::client(&flow(state), state, &segment, false, highest) {
            proptest::prop_assert!(data.len >= 1);
            proptest::prop_assert!(data.offset + data.len <= LIMIT);
            proptest::prop_assert!(data.skip + data.len <= payload_len as u32);
            proptest::prop_assert_eq!(data.offset as i32, offset + data.skip as i32);
            proptest::prop_assert!(bits & flags::RST == 0);
        }
    }
}
