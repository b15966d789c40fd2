//! The re-home state machine, one test per rule of its table: what a segment does in each state.

use steer_common::{
    counters::Counter,
    decide::Verdict,
    flow::{State, Word},
    rehome::{self, ClientAct, Data, DataAct, Progress, REPEAT_NS, ServerAct},
    shared::{Flow, PENDING_MAX, options},
    wire::tcp::{Segment, flags},
};

/// The client's numbers wrap inside its hello.
const ISN: u32 = 0xffff_fff0;
const FIRST_ISN: u32 = 7_000;
const FIRST: u16 = 3;
const OWNER: u16 = 5;
const OTHER: u16 = 9;
const MSS: usize = 1460;
const LIMIT: u32 = PENDING_MAX as u32;
const OWNER_SYN_AT: u64 = 5_000_000_000;
/// What the gateway has seen of the client's stream in these tests, bytes.
const SEEN: u32 = 400;

const UNSETTLED: [State; 3] = [State::Established, State::Gather, State::Wait];
const HELD: [State; 2] = [State::Gather, State::Wait];
const BEFORE_DATA: [State; 2] = [State::Established, State::Gather];
const ALL: [State; 7] =
    [State::Syn, State::SynAck, State::Established, State::Gather, State::Wait, State::Spliced, State::First];

fn flow(state: State) -> Flow {
    Flow {
        word: Word::new(state, ISN).0,
        first_isn: FIRST_ISN,
        first: FIRST,
        owner: OWNER,
        first_window: 8_000,
        owner_syn_at: OWNER_SYN_AT,
        owner_tries: 1,
        ..Flow::default()
    }
}

fn segment(bits: u8, seq: u32, ack: u32, payload_len: usize) -> Segment {
    Segment {
        source_port: [0; 2],
        destination_port: [0; 2],
        seq,
        ack,
        window: 500,
        flags: bits,
        accurate_ecn: false,
        header_len: 32,
        payload_len,
    }
}

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

mod client_acts {
    use super::*;

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
}

/// A segment that brought something new: 60 bytes from the first on, too little to decide.
const GREW: Progress = Progress {
    offset: 0,
    grown: true,
    contiguous: 60,
    grown_at: 1_000_000_000,
    now: 1_000_000_000,
    verdict: Verdict::NeedMore,
    owner_tries: 3,
};

/// The first byte again, so long after anything new.
fn repeated(after: u64) -> Progress {
    Progress { grown: false, now: GREW.grown_at + after, ..GREW }
}

#[track_caller]
fn data_does(state: State, progress: Progress, act: DataAct) {
    assert_eq!(rehome::data(&flow(state), state, &progress), act, "{state:?} {progress:?}");
}

mod gathering {
    use super::*;

    #[test]
    fn too_little_to_decide_on_is_held() {
        for state in BEFORE_DATA {
            data_does(state, GREW, DataAct::Hold);
        }
    }

    #[test]
    fn data_ahead_of_a_hole_is_held() {
        for state in BEFORE_DATA {
            data_does(state, Progress { offset: 1460, contiguous: 0, ..GREW }, DataAct::Hold);
        }
    }

    #[test]
    fn first_exit_a_verdict_for_the_owner_opens_it() {
        for state in BEFORE_DATA {
            data_does(state, Progress { verdict: Verdict::Owner(OWNER), ..GREW }, DataAct::OpenOwner(OWNER));
        }
    }

    #[test]
    fn first_exit_a_verdict_for_the_first_backend_flushes_with_its_reason() {
        for reason in [Counter::SessionMiss, Counter::OwnerDown, Counter::NotTls] {
            for state in BEFORE_DATA {
                data_does(state, Progress { verdict: Verdict::First(reason), ..GREW }, DataAct::Flush(reason));
            }
        }
    }

    #[test]
    fn second_exit_the_buffer_is_full() {
        let flow = Flow { first_window: u16::MAX, ..flow(State::Gather) };
        let at = |contiguous| rehome::data(&flow, State::Gather, &Progress { contiguous, ..GREW });
        assert_eq!(at(LIMIT - 1), DataAct::Hold);
        assert_eq!(at(LIMIT), DataAct::Flush(Counter::GatherLimit));
    }

    #[test]
    fn third_exit_the_first_backends_window_is_used_up() {
        data_does(State::Gather, Progress { contiguous: 7_999, ..GREW }, DataAct::Hold);
        data_does(State::Gather, Progress { contiguous: 8_000, ..GREW }, DataAct::Flush(Counter::GatherWindow));
    }

    #[test]
    fn fourth_exit_the_client_repeats_its_first_byte() {
        data_does(State::Gather, repeated(REPEAT_NS), DataAct::Flush(Counter::GatherStalled));
        data_does(State::Gather, repeated(30 * REPEAT_NS), DataAct::Flush(Counter::GatherStalled));
    }

    #[test]
    fn a_repeat_within_100_ms_is_a_probe_or_a_duplicate() {
        data_does(State::Gather, repeated(0), DataAct::Hold);
        data_does(State::Gather, repeated(REPEAT_NS - 1), DataAct::Hold);
    }

    #[test]
    fn a_repeat_that_brings_something_new_is_no_stall() {
        data_does(State::Gather, Progress { grown: true, ..repeated(30 * REPEAT_NS) }, DataAct::Hold);
    }

    #[test]
    fn a_repeat_of_later_bytes_is_no_stall() {
        data_does(State::Gather, Progress { offset: 1, ..repeated(30 * REPEAT_NS) }, DataAct::Hold);
    }

    #[test]
    fn a_stalled_client_is_still_decided_on_what_is_there() {
        let visible = Progress { verdict: Verdict::Owner(OWNER), ..repeated(REPEAT_NS) };
        data_does(State::Gather, visible, DataAct::OpenOwner(OWNER));
    }
}

mod waiting {
    use super::*;

    /// The client's first byte again, so long after the last SYN to the owner.
    fn repeat(after: u64) -> Progress {
        Progress { grown: false, contiguous: 300, now: OWNER_SYN_AT + after, ..GREW }
    }

    #[test]
    fn more_data_is_held() {
        data_does(State::Wait, Progress { offset: 300, ..repeat(30 * REPEAT_NS) }, DataAct::Hold);
    }

    #[test]
    fn a_tail_loss_probe_is_no_try() {
        data_does(State::Wait, repeat(9_000_000), DataAct::Hold);
        data_does(State::Wait, repeat(REPEAT_NS - 1), DataAct::Hold);
    }

    #[test]
    fn a_retransmission_tries_the_owner_again() {
        data_does(State::Wait, repeat(REPEAT_NS), DataAct::RepeatOwnerSyn);
    }

    #[test]
    fn a_retransmission_longer_than_before_is_a_try_too() {
        data_does(State::Wait, Progress { grown: true, ..repeat(REPEAT_NS) }, DataAct::RepeatOwnerSyn);
    }

    #[test]
    fn after_the_last_try_the_first_backend_gets_the_hello() {
        for (tries, act) in [(2, DataAct::RepeatOwnerSyn), (3, DataAct::Flush(Counter::OwnerSilent))] {
            let flow = Flow { owner_tries: tries, ..flow(State::Wait) };
            assert_eq!(rehome::data(&flow, State::Wait, &repeat(REPEAT_NS)), act);
        }
    }

    #[test]
    fn the_verdict_is_not_taken_twice() {
        data_does(State::Wait, Progress { verdict: Verdict::Owner(OTHER), ..repeat(0) }, DataAct::Hold);
        data_does(State::Wait, Progress { verdict: Verdict::First(Counter::OwnerDown), ..repeat(0) }, DataAct::Hold);
    }

    #[test]
    fn neither_limit_nor_window_ends_the_wait() {
        data_does(State::Wait, Progress { contiguous: LIMIT, ..repeat(0) }, DataAct::Hold);
    }
}

/// A backend's segment: its own numbers, acknowledging the client's SYN.
fn server(bits: u8, payload_len: usize) -> Segment {
    segment(bits, FIRST_ISN + 1, ISN.wrapping_add(1), payload_len)
}

const SYN_ACK: u8 = flags::SYN | flags::ACK;

fn wrong_ack(bits: u8) -> Segment {
    Segment { ack: ISN.wrapping_add(77), ..server(bits, 0) }
}

#[track_caller]
fn server_does(state: State, from: u16, segment: Segment, act: ServerAct) {
    assert_eq!(rehome::server(&flow(state), state, from, &segment), act, "{state:?} from {from}: {segment:?}");
}

const STRAY_RESET: ServerAct = ServerAct::ResetSender(Counter::StrayBackend);
const STRAY_DROPPED: ServerAct = ServerAct::Drop(Counter::StrayBackend);

mod the_first_backend {
    use super::*;

    #[test]
    fn everything_passes_before_the_client_acknowledged() {
        for state in [State::Syn, State::SynAck] {
            for bits in [SYN_ACK, flags::ACK, flags::RST, flags::RST | flags::ACK] {
                server_does(state, FIRST, server(bits, 0), ServerAct::Forward);
            }
        }
    }

    #[test]
    fn a_repeated_syn_ack_and_a_bare_ack_change_nothing() {
        for state in BEFORE_DATA {
            server_does(state, FIRST, server(SYN_ACK, 0), ServerAct::Forward);
            server_does(state, FIRST, server(flags::ACK, 0), ServerAct::Forward);
        }
    }

    #[test]
    fn speaking_ending_or_resetting_first_keeps_the_flow() {
        for state in BEFORE_DATA {
            for segment in [
                server(flags::ACK | flags::PSH, 20),
                server(flags::FIN | flags::ACK, 0),
                server(flags::RST, 0),
                server(flags::RST | flags::ACK, 0),
            ] {
                server_does(state, FIRST, segment, ServerAct::Settle(Counter::ServerFirst));
            }
        }
    }

    #[test]
    fn nothing_of_it_reaches_the_client_while_the_owner_is_opened() {
        for bits in [SYN_ACK, flags::ACK, flags::ACK | flags::FIN, flags::RST] {
            server_does(State::Wait, FIRST, server(bits, 0), ServerAct::Drop(Counter::WaitDropped));
        }
        server_does(State::Wait, FIRST, server(flags::ACK, 100), ServerAct::Drop(Counter::WaitDropped));
    }

    #[test]
    fn every_packet_after_the_splice_is_answered_with_a_reset() {
        for bits in [SYN_ACK, flags::ACK, flags::ACK | flags::FIN] {
            server_does(State::Spliced, FIRST, server(bits, 0), STRAY_RESET);
        }
        server_does(State::Spliced, FIRST, server(flags::ACK, 100), STRAY_RESET);
    }

    #[test]
    fn its_reset_after_the_splice_is_not_the_clients() {
        server_does(State::Spliced, FIRST, server(flags::RST, 0), STRAY_DROPPED);
        server_does(State::Spliced, FIRST, server(flags::RST | flags::ACK, 0), STRAY_DROPPED);
    }

    #[test]
    fn everything_passes_once_it_has_the_flow() {
        for bits in [SYN_ACK, flags::ACK, flags::ACK | flags::FIN, flags::RST] {
            server_does(State::First, FIRST, server(bits, 0), ServerAct::Forward);
        }
        server_does(State::First, FIRST, server(flags::ACK, 1460), ServerAct::Forward);
    }
}

mod the_owner {
    use super::*;

    const REFUSED: ServerAct = ServerAct::GiveUp { reason: Counter::OwnerRefused, reset: false };
    const CHALLENGE: ServerAct = ServerAct::GiveUp { reason: Counter::OwnerChallenge, reset: true };

    #[test]
    fn its_syn_ack_is_judged() {
        server_does(State::Wait, OWNER, server(SYN_ACK, 0), ServerAct::Judge);
    }

    #[test]
    fn a_syn_ack_for_another_syn_is_dropped() {
        server_does(State::Wait, OWNER, wrong_ack(SYN_ACK), ServerAct::Drop(Counter::WaitDropped));
    }

    #[test]
    fn a_reset_that_acknowledges_the_syn_refuses() {
        server_does(State::Wait, OWNER, server(flags::RST | flags::ACK, 0), REFUSED);
    }

    #[test]
    fn any_other_reset_is_dropped() {
        for segment in [wrong_ack(flags::RST | flags::ACK), server(flags::RST, 0), wrong_ack(SYN_ACK | flags::RST)] {
            server_does(State::Wait, OWNER, segment, ServerAct::Drop(Counter::ResetInvalid));
        }
    }

    #[test]
    fn a_challenge_ack_gives_it_up_and_resets_it() {
        server_does(State::Wait, OWNER, wrong_ack(flags::ACK), CHALLENGE);
        server_does(State::Wait, OWNER, server(flags::ACK, 0), CHALLENGE);
    }

    #[test]
    fn data_of_an_old_connection_gives_it_up_and_resets_it() {
        server_does(State::Wait, OWNER, Segment { payload_len: 100, ..wrong_ack(flags::ACK) }, CHALLENGE);
        server_does(State::Wait, OWNER, wrong_ack(flags::ACK | flags::FIN), CHALLENGE);
    }

    #[test]
    fn what_acknowledges_nothing_is_dropped() {
        server_does(State::Wait, OWNER, server(flags::SYN, 0), ServerAct::Drop(Counter::WaitDropped));
        server_does(State::Wait, OWNER, server(flags::PSH, 10), ServerAct::Drop(Counter::WaitDropped));
    }

    #[test]
    fn everything_passes_once_it_is_spliced() {
        for bits in [flags::ACK, flags::ACK | flags::FIN, flags::RST, flags::RST | flags::ACK] {
            server_does(State::Spliced, OWNER, server(bits, 0), ServerAct::Forward);
        }
        server_does(State::Spliced, OWNER, server(flags::ACK, 1460), ServerAct::Forward);
    }

    #[test]
    fn its_repeated_syn_ack_never_reaches_the_client() {
        let dropped = ServerAct::Drop(Counter::OwnerSynAckRepeated);
        server_does(State::Spliced, OWNER, server(SYN_ACK, 0), dropped);
        server_does(State::Spliced, OWNER, wrong_ack(SYN_ACK), dropped);
    }

    #[test]
    fn a_late_syn_ack_after_the_fallback_is_reset() {
        server_does(State::First, OWNER, server(SYN_ACK, 0), ServerAct::ResetSender(Counter::OwnerReset));
    }

    #[test]
    fn anything_else_after_the_fallback_is_a_stray() {
        server_does(State::First, OWNER, wrong_ack(SYN_ACK), STRAY_RESET);
        server_does(State::First, OWNER, server(flags::ACK, 0), STRAY_RESET);
        server_does(State::First, OWNER, server(flags::RST | flags::ACK, 0), STRAY_DROPPED);
    }
}

mod another_backend {
    use super::*;

    #[test]
    fn what_acknowledges_is_answered_with_a_reset_in_every_state() {
        for state in ALL {
            server_does(state, OTHER, server(flags::ACK, 0), STRAY_RESET);
            server_does(state, OTHER, server(flags::ACK, 100), STRAY_RESET);
            server_does(state, OTHER, server(flags::ACK | flags::FIN, 0), STRAY_RESET);
        }
    }

    #[test]
    fn its_syn_ack_is_reset_in_every_state() {
        for state in ALL {
            let reason = if state == State::First { Counter::OwnerReset } else { Counter::StrayBackend };
            server_does(state, OTHER, server(SYN_ACK, 0), ServerAct::ResetSender(reason));
        }
    }

    #[test]
    fn resets_and_what_acknowledges_nothing_are_dropped_in_every_state() {
        for state in ALL {
            for bits in [flags::RST, flags::RST | flags::ACK, SYN_ACK | flags::RST, flags::SYN, 0] {
                server_does(state, OTHER, server(bits, 0), STRAY_DROPPED);
            }
        }
    }

    #[test]
    fn nobody_but_the_holder_reaches_the_client_once_it_is_known() {
        for (state, holder) in [(State::Wait, None), (State::Spliced, Some(OWNER)), (State::First, Some(FIRST))] {
            for from in [FIRST, OWNER, OTHER] {
                for bits in 0..=255 {
                    let act = rehome::server(&flow(state), state, from, &server(bits, 0));
                    let passes = matches!(act, ServerAct::Forward | ServerAct::Settle(_));
                    assert!(!passes || holder == Some(from), "{state:?} from {from}, flags {bits:#04x}: {act:?}");
                }
            }
        }
    }
}
