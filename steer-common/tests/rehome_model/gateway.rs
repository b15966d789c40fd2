//! Executes the state machine for one flow, step by step as `steer-ebpf` does (client, rehome,
//! server, emit).

use steer_common::{
    counters::Counter,
    decide::Verdict,
    flow::{State, StateWord},
    ranges::{self, Inserted},
    rehome::{self, ClientAct, Data, DataAct, Progress, ServerAct},
    shared::{Flow, PENDING_MAX, PENDING_RANGES, Range},
    splice,
    wire::tcp::{Offer, flags},
};

use crate::packet::Packet;

/// Number of the backend that the lookup table names.
pub(crate) const FIRST: u16 = 1;
/// Number of the backend that owns the session.
pub(crate) const OWNER: u16 = 2;
/// What the client is told and the owner must take.
const MSS: u16 = 1460;

/// What the gateway's tables and its surroundings are like.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Bytes of the client's stream from which on the session is visible.
    pub(crate) decidable_at: u32,
    /// Bytes from which on a last look, at an exit of gathering, finds it.
    pub(crate) hinted_at: u32,
    /// Whether the session has an owner to move to.
    pub(crate) moves: bool,
    pub(crate) swallow: bool,
    pub(crate) owner_tries: u16,
    pub(crate) no_route: bool,
    pub(crate) splices_full: bool,
}

/// Where a packet leaves to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum To {
    Client,
    /// To the client from the backend's own address, untouched.
    ClientFrom(u16),
    First,
    Owner,
}

pub(crate) struct Gateway {
    setup: Setup,
    handshake: Option<Flow>,
    flow: Option<Flow>,
    spliced: Option<Flow>,
    pending: Option<Pending>,
    swallowed: bool,
    pub(crate) counted: Vec<Counter>,
    out: Vec<(To, Packet)>,
    now: u64,
}

struct Pending {
    grown_at: u64,
    ranges: [Range; PENDING_RANGES],
    data: Vec<u8>,
}

impl Gateway {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            setup,
            handshake: None,
            flow: None,
            spliced: None,
            pending: None,
            swallowed: false,
            counted: Vec::new(),
            out: Vec::new(),
            now: 0,
        }
    }

    pub(crate) fn state(&self) -> Option<State> {
        self.flow.map(|flow| StateWord(flow.word).state())
    }

    /// Sequence number of the client's first byte.
    pub(crate) fn first_byte(&self) -> Option<u32> {
        self.flow.as_ref().map(first_byte)
    }

    pub(crate) fn keeps_a_splice(&self) -> bool {
        self.spliced.is_some()
    }

    pub(crate) fn buffers(&self) -> bool {
        self.pending.is_some()
    }

    /// The table forgets the buffered bytes, as an LRU may at any time.
    pub(crate) fn evict_pending(&mut self) {
        self.pending = None;
    }

    /// A client's packet; what leaves because of it.
    pub(crate) fn client_sent(&mut self, packet: &Packet, now: u64) -> Vec<(To, Packet)> {
        self.now = now;
        if packet.any(flags::SYN) {
            self.syn(packet);
        } else if self.flow.is_some() || self.establish(packet) {
            self.client_segment(packet);
        }
        std::mem::take(&mut self.out)
    }

    /// A backend's packet; what leaves because of it.
    pub(crate) fn backend_sent(
        &mut self,
        from: u16,
        packet: &Packet,
        now: u64,
    ) -> Vec<(To, Packet)> {
        self.now = now;
        self.backend_segment(from, packet);
        std::mem::take(&mut self.out)
    }

    fn count(&mut self, counter: Counter) {
        self.counted.push(counter);
    }

    fn send(&mut self, to: To, packet: Packet) {
        self.out.push((to, packet));
    }

    fn syn(&mut self, packet: &Packet) {
        if self.handshake.is_none() {
            self.handshake = Some(Flow {
                word: StateWord::new(State::Syn, packet.seq).0,
                first: FIRST,
                owner: FIRST,
                ..Flow::default()
            });
        }
        self.send(To::First, packet.clone());
    }

    /// `client::establish`; false where the packet is dealt with.
    fn establish(&mut self, packet: &Packet) -> bool {
        let Some(handshake) = self.handshake else { return false };
        let isn = StateWord(handshake.word).isn();
        let ahead = packet.seq.wrapping_sub(isn);
        if StateWord(handshake.word).state() != State::SynAck
            || !packet.any(flags::ACK)
            || packet.any(flags::RST)
            || packet.ack != handshake.first_isn.wrapping_add(1)
            || ahead > u16::MAX as u32
        {
            self.send(To::First, packet.clone());
            return false;
        }
        let bare = packet.data.is_empty() && !packet.any(flags::FIN);
        if bare && self.setup.swallow && !self.swallowed {
            self.swallowed = true;
            self.count(Counter::AckSwallowed);
            return false;
        }
        self.flow = Some(Flow { word: StateWord::new(State::Established, isn).0, ..handshake });
        true
    }

    fn client_segment(&mut self, packet: &Packet) {
        let (Some(flow), Some(state)) = (self.flow, self.state()) else { return };
        match state {
            State::First => return self.send(To::First, packet.clone()),
            State::Spliced => {
                let translated =
                    Packet { ack: packet.ack.wrapping_sub(flow.delta), ..packet.clone() };
                return self.send(To::Owner, translated);
            }
            _ => {}
        }
        let highest = match &self.pending {
            Some(pending) if state != State::Established => ranges::highest(&pending.ranges),
            _ => 0,
        };
        match rehome::client(&flow, state, &packet.parsed(), false, highest) {
            ClientAct::Forward => self.send(To::First, packet.clone()),
            ClientAct::Drop(reason) => self.count(reason),
            ClientAct::Settle(reason) => {
                self.settle(reason);
                if state == State::Established {
                    self.send(To::First, packet.clone())
                } else {
                    self.flush(To::First)
                }
            }
            ClientAct::Reset => {
                self.settle(Counter::WaitReset);
                self.send(To::First, Packet::new(flags::RST, first_byte(&flow), 0));
            }
            ClientAct::Data(data) => self.client_data(packet, data, state),
        }
    }

    /// `rehome::client_data` and `rehome::hold`.
    fn client_data(&mut self, packet: &Packet, data: Data, state: State) {
        if state == State::Established {
            if let (0, Verdict::First(reason)) = (data.offset, self.verdict(data.len)) {
                self.settle(reason);
                return self.send(To::First, packet.clone());
            }
            let empty = [Range::default(); PENDING_RANGES];
            self.pending =
                Some(Pending { grown_at: self.now, ranges: empty, data: vec![0; PENDING_MAX] });
        }
        let now = self.now;
        let Some(pending) = &mut self.pending else { return self.settle(Counter::PendingLost) };
        let (start, end) = (data.offset as usize, (data.offset + data.len) as usize);
        let (inserted, grown_at) = (
            ranges::insert(&mut pending.ranges, data.offset, data.offset + data.len),
            pending.grown_at,
        );
        if inserted == Inserted::Grown {
            let skip = data.skip as usize;
            pending.data[start..end].copy_from_slice(&packet.data[skip..skip + data.len as usize]);
            pending.grown_at = now;
        }
        let contiguous = ranges::contiguous(&pending.ranges);
        if state == State::Established {
            self.enter(State::Gather);
        }
        if inserted == Inserted::Full {
            return self.count(Counter::GatherHoles);
        }
        let verdict =
            if state == State::Wait { Verdict::NeedMore } else { self.verdict(contiguous) };
        let progress = Progress {
            offset: data.offset,
            grown: inserted == Inserted::Grown,
            contiguous,
            grown_at,
            now,
            verdict,
            owner_tries: self.setup.owner_tries,
        };
        let Some(flow) = self.flow else { return };
        let mut act = rehome::data(&flow, state, &progress);
        if matches!(act, DataAct::Flush(_))
            && state != State::Wait
            && verdict == Verdict::NeedMore
            && let Some(owner) = rehome::stop_gathering(self.last_look(contiguous))
        {
            act = DataAct::OpenOwner(owner);
        }
        match act {
            DataAct::Hold => self.count(Counter::Gather),
            DataAct::Flush(reason) => {
                self.settle(reason);
                self.flush(To::First);
            }
            DataAct::OpenOwner(owner) => self.open_owner(owner),
            DataAct::RepeatOwnerSyn => {
                self.count(Counter::OwnerSynRepeated);
                self.syn_to_owner();
            }
        }
    }

    fn verdict(&self, contiguous: u32) -> Verdict {
        match (contiguous >= self.setup.decidable_at, self.setup.moves) {
            (false, _) => Verdict::NeedMore,
            (true, true) => Verdict::Owner(OWNER),
            (true, false) => Verdict::First(Counter::SessionMiss),
        }
    }

    /// `decide_hello` with `last` set.
    fn last_look(&mut self, contiguous: u32) -> Verdict {
        if contiguous >= self.setup.hinted_at && self.setup.moves {
            self.count(Counter::HelloCut);
            return Verdict::Owner(OWNER);
        }
        Verdict::First(Counter::HelloCut)
    }

    fn open_owner(&mut self, owner: u16) {
        let obstacle = match (self.setup.no_route, self.setup.splices_full) {
            (true, _) => Some(Counter::OwnerNoRoute),
            (_, true) => Some(Counter::SplicesFull),
            _ => None,
        };
        if let Some(reason) = obstacle {
            self.settle(reason);
            return self.flush(To::First);
        }
        self.enter(State::Wait);
        if let Some(flow) = &mut self.flow {
            flow.owner = owner;
            flow.owner_tries = 0;
        }
        self.spliced = self.flow;
        self.syn_to_owner();
    }

    fn syn_to_owner(&mut self) {
        let now = self.now;
        let Some(flow) = &mut self.flow else { return };
        flow.owner_tries += 1;
        flow.owner_syn_at = rehome::milliseconds(now);
        let syn = Packet::new(flags::SYN, StateWord(flow.word).isn(), 0);
        self.send(To::Owner, syn);
    }

    fn enter(&mut self, state: State) {
        if let Some(flow) = &mut self.flow {
            flow.word = StateWord::new(state, StateWord(flow.word).isn()).0;
        }
    }

    /// The first backend gets the flow for good.
    fn settle(&mut self, reason: Counter) {
        self.count(reason);
        self.enter(State::First);
    }

    /// `emit::emit_buffered`: what is buffered, as segments for the backend that now holds the
    /// flow.
    fn flush(&mut self, to: To) {
        if to == To::First {
            self.spliced = None;
        }
        let (Some(flow), Some(pending)) = (self.flow, self.pending.take()) else {
            return self.count(Counter::PendingLost);
        };
        let have = ranges::contiguous(&pending.ranges) as usize;
        let isn = if to == To::Owner { flow.owner_isn } else { flow.first_isn };
        for (i, chunk) in pending.data[..have].chunks(MSS as usize).enumerate() {
            let seq = first_byte(&flow).wrapping_add((i * MSS as usize) as u32);
            let segment = Packet {
                data: chunk.to_vec(),
                ..Packet::new(flags::ACK, seq, isn.wrapping_add(1))
            };
            self.send(to, segment);
        }
    }

    /// `server::server_segment`.
    fn backend_segment(&mut self, from: u16, packet: &Packet) {
        let answers =
            |h: &Flow| h.first == from && packet.ack == first_byte(h) && self.flow.is_none();
        if packet.is_syn_ack() && self.handshake.as_ref().is_some_and(answers) {
            return self.first_syn_ack(packet);
        }
        let (Some(flow), Some(state)) = (self.flow, self.state()) else {
            let its = from == FIRST && self.handshake.is_some();
            return self.send(if its { To::Client } else { To::ClientFrom(from) }, packet.clone());
        };
        let back = Packet::new(flags::RST, packet.ack, 0);
        match rehome::server(&flow, state, from, &packet.parsed()) {
            ServerAct::Forward => {
                let add = if state == State::Spliced { flow.delta } else { 0 };
                self.send(
                    To::Client,
                    Packet { seq: packet.seq.wrapping_add(add), ..packet.clone() },
                );
            }
            ServerAct::Settle(reason) => {
                self.settle(reason);
                self.pending = None;
                self.send(To::Client, packet.clone());
            }
            ServerAct::Pass => self.send(To::ClientFrom(from), packet.clone()),
            ServerAct::Drop(reason) => self.count(reason),
            ServerAct::ResetSender(reason) => {
                self.count(reason);
                self.send(if from == FIRST { To::First } else { To::Owner }, back);
            }
            ServerAct::Judge => self.judge(packet),
            // The owner of this model knows no ports: it challenges once more.
            ServerAct::AnotherPort => {
                self.count(Counter::OwnerPortTaken);
                if let Some(flow) = &mut self.flow {
                    flow.owner_port = [0x10, 0];
                }
                self.syn_to_owner();
            }
            ServerAct::GiveUp(reason) => {
                self.settle(reason);
                self.flush(To::First);
            }
        }
    }

    fn first_syn_ack(&mut self, packet: &Packet) {
        if let Some(handshake) = &mut self.handshake {
            handshake.first_isn = packet.seq;
            handshake.first_window = packet.window;
            handshake.advertised_mss = packet.mss;
            handshake.word = StateWord::new(State::SynAck, StateWord(handshake.word).isn()).0;
        }
        self.send(To::Client, packet.clone());
    }

    /// `server::judge`.
    fn judge(&mut self, packet: &Packet) {
        let Some(flow) = &mut self.flow else { return };
        let expected = first_byte(flow);
        let compatible = splice::compatible(flow, 0, packet.mss, 0);
        let buffered =
            self.pending.as_ref().is_some_and(|pending| ranges::contiguous(&pending.ranges) != 0);
        let refusal = match (compatible, buffered) {
            (true, true) => None,
            (false, _) => Some(Counter::OwnerIncompatible),
            (true, false) => Some(Counter::PendingLost),
        };
        if let Some(reason) = refusal {
            self.settle(reason);
            self.count(Counter::OwnerReset);
            self.send(To::Owner, Packet::new(flags::RST, expected, 0));
            return self.flush(To::First);
        }
        splice::open(flow, packet.seq, &Offer::NOTHING);
        self.enter(State::Spliced);
        self.spliced = self.flow;
        self.count(Counter::SpliceOpened);
        self.send(To::First, Packet::new(flags::RST, expected, 0));
        self.flush(To::Owner);
    }
}

/// Sequence number of the client's first byte.
fn first_byte(flow: &Flow) -> u32 {
    StateWord(flow.word).isn().wrapping_add(1)
}
