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
    const CHALLENGE: ServerAct = ServerAct::GiveUp { reason: Counter::OwnerChallenge, reset: false };

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
