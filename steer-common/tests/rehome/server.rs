//! What a backend's segment does in each state, by who sent it.

use steer_common::{
    counters::Counter,
    flow::State,
    rehome::{self, ServerAct},
    wire::tcp::{Segment, flags},
};

use crate::{BEFORE_DATA, FIRST, FIRST_ISN, ISN, OTHER, OWNER, flow, segment};

const ALL: [State; 8] = [
    State::Syn,
    State::SynAck,
    State::Established,
    State::Gather,
    State::Wait,
    State::Spliced,
    State::First,
    State::Adopted,
];

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
    assert_eq!(
        rehome::server(&flow(state), state, from, &segment),
        act,
        "{state:?} from {from}: {segment:?}"
    );
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
    fn nothing_but_a_bare_ack_reaches_the_client_while_the_owner_is_opened() {
        server_does(State::Wait, FIRST, server(flags::ACK, 0), ServerAct::Forward);
        let elsewhere =
            Segment { ack: server(flags::ACK, 0).ack.wrapping_add(9), ..server(flags::ACK, 0) };
        server_does(State::Wait, FIRST, elsewhere, ServerAct::Drop(Counter::WaitDropped));
        for bits in [SYN_ACK, flags::ACK | flags::FIN, flags::RST] {
            server_does(State::Wait, FIRST, server(bits, 0), ServerAct::Drop(Counter::WaitDropped));
        }
        server_does(
            State::Wait,
            FIRST,
            server(flags::ACK, 100),
            ServerAct::Drop(Counter::WaitDropped),
        );
    }

    #[test]
    fn what_it_sends_of_the_flow_after_the_splice_is_answered_with_a_reset() {
        for bits in [SYN_ACK, flags::ACK, flags::ACK | flags::FIN] {
            server_does(State::Spliced, FIRST, server(bits, 0), STRAY_RESET);
        }
        server_does(State::Spliced, FIRST, server(flags::ACK, 100), STRAY_RESET);
    }

    #[test]
    fn what_acknowledges_more_than_the_syn_is_of_another_connection() {
        for away in [-1, 1, 300, 1 << 30] {
            for (bits, payload_len) in
                [(flags::ACK, 0), (flags::ACK, 100), (flags::ACK | flags::FIN, 0), (SYN_ACK, 0)]
            {
                let ack = ISN.wrapping_add(1).wrapping_add_signed(away);
                let segment = Segment { ack, ..server(bits, payload_len) };
                server_does(State::Spliced, FIRST, segment, ServerAct::Pass);
            }
        }
        // Nothing says where the sender of these stands.
        server_does(State::Spliced, FIRST, server(flags::SYN, 0), ServerAct::Pass);
        server_does(State::Spliced, FIRST, server(0, 10), ServerAct::Pass);
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

    const REFUSED: ServerAct = ServerAct::GiveUp(Counter::OwnerRefused);
    const CHALLENGE: ServerAct = ServerAct::AnotherPort;

    /// The port that was tried instead is taken, too.
    #[test]
    fn a_second_challenge_gives_it_up() {
        let moved = steer_common::shared::Flow { owner_port: [0x10, 0], ..flow(State::Wait) };
        let act = rehome::server(&moved, State::Wait, OWNER, &wrong_ack(flags::ACK));
        assert_eq!(act, ServerAct::GiveUp(Counter::OwnerChallenge));
    }

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
        for segment in [
            wrong_ack(flags::RST | flags::ACK),
            server(flags::RST, 0),
            wrong_ack(SYN_ACK | flags::RST),
        ] {
            server_does(State::Wait, OWNER, segment, ServerAct::Drop(Counter::ResetInvalid));
        }
    }

    #[test]
    fn a_challenge_asks_for_another_port_and_resets_nobody() {
        server_does(State::Wait, OWNER, wrong_ack(flags::ACK), CHALLENGE);
        server_does(State::Wait, OWNER, server(flags::ACK, 0), CHALLENGE);
    }

    #[test]
    fn data_of_another_connection_there_asks_for_another_port_and_resets_nobody() {
        server_does(
            State::Wait,
            OWNER,
            Segment { payload_len: 100, ..wrong_ack(flags::ACK) },
            CHALLENGE,
        );
        server_does(State::Wait, OWNER, wrong_ack(flags::ACK | flags::FIN), CHALLENGE);
    }

    #[test]
    fn what_acknowledges_nothing_is_dropped() {
        server_does(
            State::Wait,
            OWNER,
            server(flags::SYN, 0),
            ServerAct::Drop(Counter::WaitDropped),
        );
        server_does(
            State::Wait,
            OWNER,
            server(flags::PSH, 10),
            ServerAct::Drop(Counter::WaitDropped),
        );
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
        server_does(
            State::First,
            OWNER,
            server(SYN_ACK, 0),
            ServerAct::ResetSender(Counter::OwnerReset),
        );
    }

    #[test]
    fn anything_else_after_the_fallback_is_of_another_connection() {
        for segment in [
            wrong_ack(SYN_ACK),
            server(flags::ACK, 0),
            server(flags::ACK, 100),
            server(flags::FIN | flags::ACK, 0),
            server(flags::RST, 0),
            server(flags::RST | flags::ACK, 0),
        ] {
            server_does(State::First, OWNER, segment, ServerAct::Pass);
        }
    }
}

mod another_backend {
    use super::*;

    #[test]
    fn its_packets_pass_untouched_in_every_state() {
        for state in ALL {
            for bits in 0..=255 {
                server_does(state, OTHER, server(bits, 0), ServerAct::Pass);
                server_does(state, OTHER, server(bits, 100), ServerAct::Pass);
                server_does(state, OTHER, wrong_ack(bits), ServerAct::Pass);
            }
        }
    }

    #[test]
    fn an_owner_to_be_has_no_part_in_the_flow_before_it_is_asked() {
        for state in [State::Syn, State::SynAck, State::Established, State::Gather, State::Adopted]
        {
            for bits in 0..=255 {
                server_does(state, OWNER, server(bits, 0), ServerAct::Pass);
            }
        }
    }

    #[test]
    fn no_reset_goes_to_a_sender_that_acknowledges_anything_but_the_syn() {
        for state in ALL {
            for from in [FIRST, OWNER, OTHER] {
                for (bits, away) in (0..=255)
                    .flat_map(|bits| [1, 2, 300, 1 << 31, u32::MAX].map(|away| (bits, away)))
                {
                    let segment =
                        Segment { ack: ISN.wrapping_add(1).wrapping_add(away), ..server(bits, 0) };
                    let act = rehome::server(&flow(state), state, from, &segment);
                    let resets = matches!(act, ServerAct::ResetSender(_));
                    assert!(
                        !resets,
                        "{state:?} from {from}, flags {bits:#04x}, {away} ahead: {act:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn nobody_but_the_holder_reaches_the_client_once_it_is_known() {
        for (state, holder) in
            [(State::Wait, None), (State::Spliced, Some(OWNER)), (State::First, Some(FIRST))]
        {
            for from in [FIRST, OWNER, OTHER] {
                for bits in 0..=255 {
                    let act = rehome::server(&flow(state), state, from, &server(bits, 0));
                    let passes = matches!(act, ServerAct::Forward | ServerAct::Settle(_));
                    // The challenge that a new connection gets from the old one's backend.
                    const OTHERS: u8 = flags::SYN | flags::FIN | flags::RST;
                    let challenge = state == State::Wait
                        && from == FIRST
                        && bits & (flags::ACK | OTHERS) == flags::ACK;
                    assert!(
                        !passes || holder == Some(from) || challenge,
                        "{state:?} from {from}, flags {bits:#04x}: {act:?}"
                    );
                }
            }
        }
    }
}
