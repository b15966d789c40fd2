//! The re-home state machine, one test per rule of its table: what a segment does in each state.

mod client;
mod gather;
mod server;

use steer_common::{
    flow::{State, StateWord},
    rehome,
    shared::{Flow, PENDING_MAX},
    wire::tcp::Segment,
};

/// The client's numbers wrap inside its hello.
const ISN: u32 = 0xffff_fff0;
const FIRST_ISN: u32 = 7_000;
const FIRST: u16 = 3;
const OWNER: u16 = 5;
const OTHER: u16 = 9;
const LIMIT: u32 = PENDING_MAX as u32;
const OWNER_SYN_AT: u64 = 5_000_000_000;

const BEFORE_DATA: [State; 2] = [State::Established, State::Gather];

fn flow(state: State) -> Flow {
    Flow {
        word: StateWord::new(state, ISN).0,
        first_isn: FIRST_ISN,
        first: FIRST,
        owner: OWNER,
        first_window: 8_000,
        owner_syn_at: rehome::milliseconds(OWNER_SYN_AT),
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
