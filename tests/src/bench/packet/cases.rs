//! The packets that are measured, and what the tables hold for them.

use steer_common::{
    counters::Counter,
    flow::{State as FlowState, StateWord},
    session::Kind,
    shared::{
        BENCH_FRAME, BENCH_NEW_LESSON, BENCH_RESET_FLOW, BENCH_RESET_HANDSHAKE,
        BENCH_RESET_SESSION, BENCH_SLACK, Bench, FLOW_HELLO, FLOW_LEARNED, Flow, SessionKey,
    },
    wire::tls::server_flight::{FOLLOW_STEPS, FlightEvent, Follow},
};

use super::{Hook, tables::State};
use crate::{
    bench::parse::{Offer, hello},
    ends::{BACKEND_MAC, CLIENT_ISN, CLIENT_MAC, Ends, FIRST_ISN, GATE_MAC, INNER_MAC, OWNER_ISN},
    packets::Segment,
};

/// Bits of a client's address that tell a quarter of a million clients of one case apart.
const CLIENT_BITS: u32 = 18;
/// Where a session ID starts in a hello, bytes: record header, message header, version, random,
/// length (RFC 8446 4.1.2).
const ID_AT: u32 = 5 + 4 + 2 + 32 + 1;
/// Its first four bytes tell sessions apart, the rest is this.
const ID_KNOWN: u8 = 6;
const ID_UNKNOWN: u8 = 9;
const CLIENT: u32 = CLIENT_ISN.wrapping_add(1);
const FIRST: u32 = FIRST_ISN.wrapping_add(1);
const OWNER: u32 = OWNER_ISN.wrapping_add(1);
/// Where a first backend's stream stands in the middle of a connection.
const LATER: u32 = FIRST.wrapping_add(0x1_0000);

/// One packet and what it meets.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) frame: Vec<u8>,
    pub(super) ends: Ends,
    /// Last word of its clients' addresses, the bits that vary left out.
    client: u32,
    /// Whether the client is the packet's destination.
    to_client: bool,
    /// Record of its flows, if they have one.
    pub(super) flow: Option<Flow>,
    id_at: u32,
    reset: Reset,
    /// Counted for each run by TC, and by XDP.
    counters: (Counter, Option<Counter>),
}

/// What a shim undoes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reset {
    Nothing,
    Flow,
    Handshake,
    Lesson,
}

impl Case {
    /// What is counted for each run of the case.
    pub(super) fn counter(&self, hook: Hook) -> Option<Counter> {
        if hook == Hook::Tc { Some(self.counters.0) } else { self.counters.1 }
    }

    /// Random bits of the client's address.
    pub(super) fn mask(&self, state: State) -> u32 {
        match (state, self.reset) {
            (State::Hot, _) => 0,
            (State::Random1m, Reset::Handshake) => u32::MAX,
            (State::Random1m, _) => (1 << CLIENT_BITS) - 1,
        }
    }

    /// Last words of all its clients' addresses, host-endian.
    pub(super) fn clients(&self, state: State) -> impl Iterator<Item = u32> + use<> {
        let client = self.client;
        (0..=self.mask(state)).map(move |bits| client | bits)
    }

    /// The shim's orders.
    pub(super) fn bench(&self, state: State) -> Bench {
        let v6 = self.ends.client.is_ipv6();
        let (source, destination) =
            if v6 { (14 + 8 + 12, 14 + 24 + 12) } else { (14 + 12, 14 + 16) };
        let hot = state == State::Hot;
        let reset = match self.reset {
            Reset::Nothing => 0,
            Reset::Flow => BENCH_RESET_FLOW,
            Reset::Handshake => {
                if hot {
                    BENCH_RESET_HANDSHAKE
                } else {
                    0
                }
            }
            Reset::Lesson if hot => BENCH_RESET_FLOW | BENCH_RESET_SESSION,
            Reset::Lesson => BENCH_RESET_FLOW | BENCH_NEW_LESSON,
        };
        let mut frame = [0; BENCH_FRAME + BENCH_SLACK];
        frame[..self.frame.len()].copy_from_slice(&self.frame);
        Bench {
            own: 0,
            runs: 0,
            frame_len: self.frame.len() as u32,
            mask: 0,
            client: self.client,
            client_at: if self.to_client { destination } else { source },
            id_at: self.id_at,
            check_at: if v6 { 14 + 40 + 16 } else { 14 + 20 + 16 },
            zero: 0,
            reset,
            key: self.ends.key(),
            session_key: session(self.ends.vip_id, &lesson().lesson),
            flow: self.flow.unwrap_or_default(),
            frame,
        }
    }
}

/// The session of this number that `hello_hit` offers.
pub(super) fn known_session(vip: u16, number: u32) -> SessionKey {
    session(vip, &[&number.to_be_bytes()[..], &[ID_KNOWN; 28]].concat())
}

fn session(vip: u16, id: &[u8]) -> SessionKey {
    SessionKey::new(vip, Kind::SessionId, id).expect("a session ID of 32 bytes")
}

/// All cases of one family.
pub(super) fn all(ends: &Ends) -> Vec<Case> {
    let stamps = [1, 1, 8, 10, 0x40, 0, 0, 0, 0, 0, 0, 5];
    let sack = |edge: u32| {
        [&stamps[..], &[1, 1, 5, 10], &edge.to_be_bytes(), &(edge + 1448).to_be_bytes()].concat()
    };
    let up = || ends.up(CLIENT).ack(FIRST).options(&stamps);
    let hello_of = |offer, id: u8| {
        let mut bytes = hello(250, offer);
        if offer == Offer::SessionId {
            bytes[ID_AT as usize..][..32].fill(id);
        }
        up().payload(&bytes)
    };
    let settled_later = Flow { server_next: LATER, ..ends.settled() };
    let (settled, spliced, fresh) =
        (Some(settled_later), Some(ends.spliced()), Some(ends.established()));
    let mut stranger = up().payload(&[7; 64]);
    stranger.destination.set_port(8080);
    stranger.tcp.destination_port = 8080;
    let follow = lesson();
    let learning = Flow {
        word: StateWord::new(FlowState::First, CLIENT_ISN).0,
        flags: (ends.settled().flags & !FLOW_LEARNED) | FLOW_HELLO,
        follow,
        ..ends.settled()
    };
    let finished = [&[0x14, 3, 3, 0, 1, 1, 0x16, 3, 3, 0, 40][..], &[3; 40]].concat();
    let mut syn = ends.up(CLIENT_ISN).syn();
    syn = syn.options(&[2, 4, 5, 180, 4, 2, 8, 10, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7]);
    let from_first = |seq| ends.down(ends.first, seq).ack(CLIENT).options(&stamps);
    let from_owner =
        ends.down(ends.owner, OWNER).ack(CLIENT).options(&sack(CLIENT)).payload(&[7; 64]);
    let to_owner = ends.up(CLIENT).ack(FIRST).options(&sack(FIRST)).payload(&[7; 64]);
    let sent = Some(Counter::XdpForwarded);
    let (forwarded, translated) = ((Counter::Forwarded, sent), (Counter::Spliced, sent));
    let to_tc = |tc| (tc, Some(Counter::XdpToTc));
    let case = |name, segment: &Segment, flow, reset, counters| {
        Case::of(name, ends, segment, flow, reset, counters)
    };
    let id = |case: Case| Case { id_at: case.payload_at() + ID_AT, ..case };
    let (plain, flow) = (Reset::Nothing, Reset::Flow);
    // What XDP passes on is counted by TC.
    let not_ours = (Counter::NotOurs, None);
    vec![
        case("not_ours", &stranger, None, plain, not_ours),
        case("syn", &syn, None, Reset::Handshake, to_tc(Counter::Syn)),
        case(
            "hello_no_id",
            &hello_of(Offer::Nothing, 0),
            fresh,
            flow,
            to_tc(Counter::HelloNoSession),
        ),
        id(case(
            "hello_miss",
            &hello_of(Offer::SessionId, ID_UNKNOWN),
            fresh,
            flow,
            to_tc(Counter::SessionMiss),
        )),
        id(case(
            "hello_hit",
            &hello_of(Offer::SessionId, ID_KNOWN),
            fresh,
            flow,
            to_tc(Counter::SessionHit),
        )),
        case("established", &up().ack(LATER).payload(&[7; 64]), settled, plain, forwarded),
        // What says nothing new asks for its way now and then: so the record is put back, and each
        // is new.
        case("reverse", &from_first(LATER).payload(&[7; 64]), settled, flow, forwarded),
        case("spliced", &to_owner, spliced, plain, translated),
        case("spliced_reverse", &from_owner, spliced, flow, translated),
        case(
            "learn",
            &from_first(follow.next).payload(&finished),
            Some(learning),
            Reset::Lesson,
            to_tc(Counter::Learned),
        ),
    ]
}

impl Case {
    /// Clients of cases with the same records share them; all others have addresses of their own.
    fn of(
        name: &'static str,
        ends: &Ends,
        segment: &Segment,
        flow: Option<Flow>,
        reset: Reset,
        counters: (Counter, Option<Counter>),
    ) -> Self {
        /// Upper bits of the last word of all clients' addresses.
        const CLIENTS: u32 = 100 << 24;
        let kind = match (flow.map(|flow| StateWord(flow.word).state()), reset) {
            (None, Reset::Handshake) => 0,
            (None, _) => 1 << 31,
            (Some(FlowState::Established), _) => CLIENTS,
            (Some(FlowState::Spliced), _) => CLIENTS | 1 << CLIENT_BITS,
            (Some(_), Reset::Lesson) => CLIENTS | 2 << CLIENT_BITS,
            (Some(_), _) => CLIENTS | 3 << CLIENT_BITS,
        };
        let to_client = segment.destination.ip() == ends.client.ip();
        let (from, to) = match (to_client, ends.bridged) {
            (true, false) => (BACKEND_MAC, INNER_MAC),
            (false, false) => (CLIENT_MAC, GATE_MAC),
            (true, true) => (BACKEND_MAC, CLIENT_MAC),
            (false, true) => (CLIENT_MAC, BACKEND_MAC),
        };
        let frame = segment.frame(from, to, &[]).expect("a frame");
        Self { name, frame, ends: *ends, client: kind, to_client, flow, id_at: 0, reset, counters }
    }

    /// Where the payload of the client's segment starts, bytes from the frame's start.
    fn payload_at(&self) -> u32 {
        let ip = if self.ends.client.is_ipv6() { 40 } else { 20 };
        14 + ip + 32
    }
}

/// A backend's first flight as the programs read it: a session ID was issued, its ChangeCipherSpec
/// is to come.
fn lesson() -> Follow {
    let hello = [&[2, 0, 0, 70, 3, 3][..], &[5; 32], &[32], &[8; 32], &[0xc0, 0x2f, 0]].concat();
    let flight = [&[0x16, 3, 3, 0, (hello.len() + 4) as u8][..], &hello, &[14, 0, 0, 0]].concat();
    let mut follow = Follow::new(FIRST);
    for _ in 0..FOLLOW_STEPS {
        if follow.step(&mut &flight[..], FIRST, flight.len() as u32) == FlightEvent::NeedMore {
            break;
        }
    }
    follow
}
