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

/// What a client that got the first backend's SYN-ACK, and nothing else, never acknowledges.
const WRONG_ACKS: [u32; 5] = [FIRST_ISN, FIRST_ISN + 2, FIRST_ISN + 1 + (1 << 31), 0, u32::MAX];

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
    assert_eq!(
        rehome::client(&flow(state), state, &segment, false, SEEN),
        act,
        "{state:?} {segment:?}"
    );
}

#[test]
fn a_bare_ack_passes_until_data_is_held_back() {
    client_does(State::Established, client(flags::ACK, 0, 0), ClientAct::Forward);
    for state in HELD {
        client_does(
            state,
            client(flags::ACK, SEEN as i32, 0),
            ClientAct::Drop(Counter::WaitDropped),
        );
    }
}

#[test]
fn a_keepalive_at_the_isn_counts_as_a_bare_ack() {
    for payload_len in [0, 1] {
        client_does(State::Established, client(flags::ACK, -1, payload_len), ClientAct::Forward);
        for state in HELD {
            client_does(
                state,
                client(flags::ACK, -1, payload_len),
                ClientAct::Drop(Counter::WaitDropped),
            );
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
fn a_keepalive_with_a_byte_before_the_stream_brings_the_bytes_behind_it() {
    for state in UNSETTLED {
        client_does(state, data(-1, 301), piece(0, 1, 300));
        client_does(state, data(-1, 2), piece(0, 1, 1));
    }
}

#[test]
fn no_client_begins_further_before_its_stream() {
    for state in UNSETTLED {
        for offset in [-2, -40, -60_000] {
            client_does(state, data(offset, 65_000), ClientAct::Drop(Counter::GatherBeyond));
        }
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
    client_does(
        State::Established,
        client(flags::FIN | flags::ACK, 0, 0),
        ClientAct::Settle(Counter::NotMovable),
    );
}

#[test]
fn a_fin_where_the_clients_data_ends_ends_gathering() {
    let fin = client(flags::FIN | flags::ACK, SEEN as i32, 0);
    client_does(State::Gather, fin, ClientAct::Settle(Counter::GatherEnded));
}

#[test]
fn a_fin_is_dropped_and_repeated_while_the_owner_is_opened() {
    let fin = client(flags::FIN | flags::ACK, SEEN as i32, 0);
    client_does(State::Wait, fin, ClientAct::Drop(Counter::WaitDropped));
}

#[test]
fn a_bare_fin_anywhere_else_settles_nothing() {
    for offset in [-1, 1, SEEN as i32 - 1, SEEN as i32 + 1, i32::MAX, i32::MIN] {
        for (bits, act) in [
            (flags::FIN | flags::ACK, ClientAct::Forward),
            (flags::FIN, ClientAct::Drop(Counter::AckInvalid)),
        ] {
            client_does(State::Established, client(bits, offset, 0), act);
            for state in HELD {
                client_does(state, client(bits, offset, 0), ClientAct::Drop(Counter::WaitDropped));
            }
        }
    }
}

#[test]
fn a_fin_that_acknowledges_anything_else_settles_nothing() {
    for ack in WRONG_ACKS {
        let fin = |offset| Segment { ack, ..client(flags::FIN | flags::ACK, offset, 0) };
        client_does(State::Established, fin(0), ClientAct::Drop(Counter::AckInvalid));
        for state in HELD {
            client_does(state, fin(SEEN as i32), ClientAct::Drop(Counter::WaitDropped));
        }
    }
    client_does(State::Established, client(flags::FIN, 0, 0), ClientAct::Drop(Counter::AckInvalid));
    client_does(
        State::Gather,
        client(flags::FIN, SEEN as i32, 0),
        ClientAct::Drop(Counter::WaitDropped),
    );
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

#[test]
fn urgent_data_keeps_a_flow_from_moving() {
    for state in BEFORE_DATA {
        client_does(
            state,
            client(flags::ACK | flags::URG, 0, 300),
            ClientAct::Settle(Counter::NotMovable),
        );
    }
}

#[test]
fn data_with_a_wrong_acknowledgement_is_dropped_wherever_it_lies() {
    for state in UNSETTLED {
        for offset in [-1, 0, 100, SEEN as i32, PENDING_MAX as i32, 1 << 30] {
            for more in [0, flags::PSH, flags::FIN, flags::URG] {
                for ack in WRONG_ACKS {
                    let blind = Segment { ack, ..client(flags::ACK | more, offset, 300) };
                    client_does(state, blind, ClientAct::Drop(Counter::AckInvalid));
                }
                client_does(state, client(more, offset, 300), ClientAct::Drop(Counter::AckInvalid));
            }
        }
    }
}

#[test]
fn what_lies_outside_settles_nothing_whatever_it_carries() {
    for state in UNSETTLED {
        for bits in
            [flags::ACK | flags::URG, flags::ACK | flags::FIN, flags::ACK | flags::FIN | flags::URG]
        {
            client_does(
                state,
                client(bits, PENDING_MAX as i32, 300),
                ClientAct::Drop(Counter::GatherBeyond),
            );
            client_does(state, client(bits, -2, 300), ClientAct::Drop(Counter::GatherBeyond));
        }
        let signed = Flow { offered: options::SIGNED, ..flow(state) };
        for (flow, ip_options) in [(signed, false), (flow(state), true)] {
            let act = rehome::client(&flow, state, &data(1 << 30, 300), ip_options, SEEN);
            assert_eq!(act, ClientAct::Drop(Counter::GatherBeyond), "{state:?}");
        }
    }
}

#[test]
fn data_from_the_far_half_of_the_space_changes_nothing() {
    for offset in [-301, i32::MIN, i32::MAX - 100] {
        client_does(State::Established, data(offset, 300), ClientAct::Forward);
        for state in HELD {
            client_does(state, data(offset, 300), ClientAct::Drop(Counter::WaitDropped));
        }
    }
}

#[test]
fn while_waiting_all_data_is_kept_but_what_has_ip_options() {
    client_does(State::Wait, client(flags::ACK | flags::URG, 0, 300), piece(0, 0, 300));
    let signed = Flow { offered: options::SIGNED, ..flow(State::Wait) };
    for (flow, ip_options, act) in [
        (signed, false, piece(0, 0, 300)),
        (flow(State::Wait), true, ClientAct::Settle(Counter::NotMovable)),
    ] {
        assert_eq!(rehome::client(&flow, State::Wait, &data(0, 300), ip_options, SEEN), act);
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
    let act = rehome::client(
        &flow(State::Established),
        State::Established,
        &client(flags::ACK, 0, 0),
        true,
        0,
    );
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
fn a_reset_counts_only_where_the_stream_begins_or_what_was_seen_of_it_ends() {
    for state in HELD {
        for (offset, act) in [
            (0, ClientAct::Reset),
            (SEEN as i32, ClientAct::Reset),
            (1, ClientAct::Drop(Counter::ResetInvalid)),
            (SEEN as i32 - 1, ClientAct::Drop(Counter::ResetInvalid)),
            // Behind a FIN, which is not kept.
            (SEEN as i32 + 1, ClientAct::Reset),
            (SEEN as i32 + 2, ClientAct::Drop(Counter::ResetInvalid)),
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

    #[test]
    fn whoever_does_not_know_the_first_backends_number_changes_nothing(
        offset in -70_000i32..70_000,
        ack: u32,
        payload_len in 0usize..65_536,
        bits in 0u8..=255,
        at in 0usize..3,
        highest in 0..=LIMIT,
    ) {
        let state = UNSETTLED[at];
        let blind = Segment { ack, ..client(bits & !flags::RST, offset, payload_len) };
        proptest::prop_assume!(ack != FIRST_ISN + 1 || bits & flags::ACK == 0);
        let act = rehome::client(&flow(state), state, &blind, false, highest);
        let harmless = matches!(act, ClientAct::Drop(_)) || act == ClientAct::Forward && state == State::Established;
        proptest::prop_assert!(harmless, "{:?}", act);
    }
}
