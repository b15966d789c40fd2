//! The re-home state machine: what a segment does to a flow, as pure functions.
//!
//! A flow's first backend is chosen at its SYN. Until the flow is spliced or settled nothing of the
//! client's data is acknowledged to it, so whatever is dropped here the client sends again, and
//! every anomaly ends with the first backend making a full handshake. The kernel programs execute
//! what these functions say; host tests run them in every order of events.

use crate::{
    counters::Counter,
    decide::Verdict,
    flow::{State, StateWord},
    shared::{Flow, PENDING_MAX, options},
    wire::tcp::{Segment, flags},
};

/// A repeat of the first byte is a try of its own only so long after the last (tail-loss probes and
/// network duplicates come sooner), nanoseconds.
pub const REPEAT_NS: u64 = 100_000_000;

/// Nanoseconds as [`Flow::owner_syn_at`] counts: milliseconds, wrapping.
#[inline(always)]
pub const fn milliseconds(nanoseconds: u64) -> u32 {
    (nanoseconds / 1_000_000) as u32
}

/// What a client's segment does to a flow that is not yet settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAct {
    /// To the first backend, the flow unchanged.
    Forward,
    /// The first backend gets the flow for good, this segment and whatever is buffered.
    Settle(Counter),
    /// Dropped; the client repeats it.
    Drop(Counter),
    /// The client gave up: the first backend gets a reset where it expects one, and the flow.
    Reset,
    /// Data to decide on.
    Data(Data),
}

/// The part of a segment's payload that lies in the client's first [`PENDING_MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Data {
    /// Offset of the first byte from the first byte of the client's stream.
    pub offset: u32,
    /// Bytes of the payload that lie before the stream (keepalives) and are skipped.
    pub skip: u32,
    /// Length, bytes; at least 1.
    pub len: u32,
}

/// Judges a client's segment on an established, gathering or waiting flow. `highest` is one past
/// the last byte seen of the client's stream; `ip_options` says that the packet carries IP options
/// or extension headers.
///
/// Where a segment lies and what it acknowledges is looked at first (RFC 5961 5.2): the first
/// backend has sent nothing but its SYN-ACK, so there is one acknowledgement that a client can
/// send. Nothing else counts, whatever flags it has.
#[inline(always)]
pub fn client(
    flow: &Flow,
    state: State,
    segment: &Segment,
    ip_options: bool,
    highest: u32,
) -> ClientAct {
    let held = !matches!(state, State::Established);
    let offset = segment.seq.wrapping_sub(StateWord(flow.word).isn().wrapping_add(1)) as i32;
    if segment.any(flags::RST) {
        return reset(held, offset, highest);
    }
    let acknowledges = segment.has(flags::ACK) && segment.ack == flow.first_isn.wrapping_add(1);
    let end = offset.wrapping_add(segment.payload_len as i32);
    if segment.payload_len == 0 || end <= 0 {
        let fin = segment.any(flags::FIN) && acknowledges;
        return match (state, fin) {
            (State::Established, true) if offset == 0 => ClientAct::Settle(Counter::NotMovable),
            // The client sends no more: the first backend gets what there is, and the FIN when the
            // client repeats it.
            (State::Gather, true) if offset == highest as i32 => {
                ClientAct::Settle(Counter::GatherEnded)
            }
            // A backend that has not heard of the handshake's end yet answers a wrong
            // acknowledgement by a reset.
            (State::Established, _) if !acknowledges => ClientAct::Drop(Counter::AckInvalid),
            (State::Established, _) => ClientAct::Forward,
            _ => ClientAct::Drop(Counter::WaitDropped),
        };
    }
    if !acknowledges {
        return ClientAct::Drop(Counter::AckInvalid);
    }
    if offset < -1 || offset >= PENDING_MAX as i32 {
        return ClientAct::Drop(Counter::GatherBeyond);
    }
    let movable = !segment.any(flags::URG) && flow.offered & options::SIGNED == 0 && !ip_options;
    // A FIN with data that is held back: the data is kept, the client repeats the FIN.
    let fin_first = segment.any(flags::FIN) && !held;
    // A hello that is repeated in another form while its owner is silent is the first backend's:
    // neither can its checksum be judged nor a SYN be made of it.
    if ip_options || (!movable || fin_first) && state != State::Wait {
        return ClientAct::Settle(Counter::NotMovable);
    }
    // A keepalive with one byte of data stands one before the stream.
    let skip = if offset < 0 { -offset } else { 0 };
    let start = offset + skip;
    let len = (segment.payload_len as i32 - skip).min(PENDING_MAX as i32 - start);
    ClientAct::Data(Data { offset: start as u32, skip: skip as u32, len: len as u32 })
}

/// RFC 5961 3.2, applied by the gateway for whoever would get the reset: only one at an exact
/// number counts, which is where the first backend waits for data, or where the client's data ends.
#[inline(always)]
fn reset(held: bool, offset: i32, highest: u32) -> ClientAct {
    if !held {
        return ClientAct::Forward;
    }
    // Behind its FIN, which is not kept, where it sent one.
    let end = highest as i32;
    if offset == 0 || offset == end || offset == end + 1 {
        return ClientAct::Reset;
    }
    ClientAct::Drop(Counter::ResetInvalid)
}

/// What is known after a client's data was offered to the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Offset of the segment's first byte in the client's stream.
    pub offset: u32,
    /// Whether the segment brought a new byte.
    pub grown: bool,
    /// Bytes from the first one without a hole.
    pub contiguous: u32,
    /// When something new came last before this segment, nanoseconds.
    pub grown_at: u64,
    /// Now, nanoseconds.
    pub now: u64,
    /// Verdict on the contiguous bytes.
    pub verdict: Verdict,
    /// SYNs to the owner that may be tried.
    pub owner_tries: u16,
}

/// What data does to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataAct {
    /// Kept; nothing is sent. The flow gathers, or waits on.
    Hold,
    /// The owner is opened: SYN, and the flow waits.
    OpenOwner(u16),
    /// The SYN to the owner is repeated.
    RepeatOwnerSyn,
    /// The first backend gets the flow and what is buffered.
    Flush(Counter),
}

/// Judges progress on an established, gathering or waiting flow.
#[inline(always)]
pub fn data(flow: &Flow, state: State, progress: &Progress) -> DataAct {
    if state == State::Wait {
        return waiting(flow, progress);
    }
    match progress.verdict {
        Verdict::Owner(owner) => DataAct::OpenOwner(owner),
        Verdict::First(reason) => DataAct::Flush(reason),
        Verdict::NeedMore => gathering(flow, progress),
    }
}

/// At an exit of gathering the decision is made on what is there: the owner that a last look found.
/// Where it found none, the exit's own reason stands.
#[inline(always)]
pub fn stop_gathering(last_look: Verdict) -> Option<u16> {
    match last_look {
        Verdict::Owner(owner) => Some(owner),
        Verdict::First(_) | Verdict::NeedMore => None,
    }
}

/// The exits of gathering besides a verdict: whichever comes first.
#[inline(always)]
fn gathering(flow: &Flow, progress: &Progress) -> DataAct {
    if progress.contiguous >= PENDING_MAX as u32 {
        return DataAct::Flush(Counter::GatherLimit);
    }
    if progress.contiguous >= flow.first_window as u32 {
        return DataAct::Flush(Counter::GatherWindow);
    }
    // A client in cwnd 1 after lost SYNs, or with Nagle, sends no more until it is acknowledged.
    let repeated = progress.offset == 0 && !progress.grown;
    if repeated && progress.now.wrapping_sub(progress.grown_at) >= REPEAT_NS {
        return DataAct::Flush(Counter::GatherStalled);
    }
    DataAct::Hold
}

/// Only the client's own retransmissions drive the tries at a silent owner.
#[inline(always)]
fn waiting(flow: &Flow, progress: &Progress) -> DataAct {
    let since = milliseconds(progress.now).wrapping_sub(flow.owner_syn_at);
    let repeated = progress.offset == 0 && since >= milliseconds(REPEAT_NS);
    if !repeated {
        return DataAct::Hold;
    }
    if flow.owner_tries as u16 >= progress.owner_tries {
        return DataAct::Flush(Counter::OwnerSilent);
    }
    DataAct::RepeatOwnerSyn
}

/// What a backend's segment does to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerAct {
    /// To the client, translated as the flow's state says.
    Forward,
    /// To the client, and the first backend keeps the flow. What was buffered the client repeats to
    /// it.
    Settle(Counter),
    /// Dropped; its sender repeats it, or it says nothing new.
    Drop(Counter),
    /// The sender thinks that it holds the flow, and does not: answered with a reset where it
    /// expects one.
    ResetSender(Counter),
    /// Of another connection between the same client and that backend: passed untouched.
    Pass,
    /// The owner's SYN-ACK: splice if it is compatible, else fall back.
    Judge,
    /// Another connection has the client's port at the owner: the owner is opened once more, with
    /// another port.
    AnotherPort,
    /// The owner is given up for this reason: the first backend gets what is buffered.
    GiveUp(Counter),
}

/// Judges a segment of backend `from` on a flow.
#[inline(always)]
pub fn server(flow: &Flow, state: State, from: u16, segment: &Segment) -> ServerAct {
    let syn_ack = segment.has(flags::SYN | flags::ACK) && !segment.any(flags::RST);
    let answers_syn =
        segment.has(flags::ACK) && segment.ack == StateWord(flow.word).isn().wrapping_add(1);
    match state {
        State::Syn | State::SynAck | State::Established | State::Gather => {
            first_before_data(flow, state, from, segment)
        }
        State::Wait if from == flow.owner => {
            owner_while_waiting(flow, segment, syn_ack, answers_syn)
        }
        // A bare acknowledgement may be the challenge (RFC 5961 4) that a new connection of this
        // client from the same port gets: the client resets the old one then.
        State::Wait if from == flow.first && answers_syn && is_bare(segment) => ServerAct::Forward,
        State::Wait if from == flow.first => ServerAct::Drop(Counter::WaitDropped),
        State::Spliced if from == flow.owner => {
            if syn_ack {
                ServerAct::Drop(Counter::OwnerSynAckRepeated)
            } else {
                ServerAct::Forward
            }
        }
        State::First if from == flow.first => ServerAct::Forward,
        // A late SYN-ACK of an owner that was given up.
        State::First if from == flow.owner && syn_ack && answers_syn => {
            ServerAct::ResetSender(Counter::OwnerReset)
        }
        State::Spliced if from == flow.first => left(answers_syn, segment),
        // Whoever else sends has another connection with this client's port.
        State::Wait | State::Spliced | State::First | State::Adopted => ServerAct::Pass,
    }
}

#[inline(always)]
fn is_bare(segment: &Segment) -> bool {
    segment.payload_len == 0 && !segment.any(flags::SYN | flags::FIN | flags::RST)
}

#[inline(always)]
fn first_before_data(flow: &Flow, state: State, from: u16, segment: &Segment) -> ServerAct {
    if from != flow.first {
        return ServerAct::Pass;
    }
    let speaks = segment.payload_len != 0 || segment.any(flags::FIN | flags::RST);
    if !speaks || segment.any(flags::SYN) || matches!(state, State::Syn | State::SynAck) {
        return ServerAct::Forward;
    }
    // The client heeds a reset at the exact number alone (RFC 5961 3.2), and so does its flow.
    if segment.any(flags::RST) && segment.seq != flow.first_isn.wrapping_add(1) {
        return ServerAct::Forward;
    }
    ServerAct::Settle(Counter::ServerFirst)
}

#[inline(always)]
fn owner_while_waiting(
    flow: &Flow,
    segment: &Segment,
    syn_ack: bool,
    answers_syn: bool,
) -> ServerAct {
    if segment.any(flags::RST) {
        // RFC 9293 3.10.7.3: in SYN-SENT a reset counts only if it acknowledges the SYN.
        return if answers_syn {
            ServerAct::GiveUp(Counter::OwnerRefused)
        } else {
            ServerAct::Drop(Counter::ResetInvalid)
        };
    }
    if syn_ack {
        return if answers_syn { ServerAct::Judge } else { ServerAct::Drop(Counter::WaitDropped) };
    }
    if segment.any(flags::ACK) {
        // RFC 5961 4: a challenge for a connection that it holds on these addresses, or a segment
        // of that one. A reset with the number that it tells would end that connection.
        return if flow.owner_port == [0; 2] {
            ServerAct::AnotherPort
        } else {
            ServerAct::GiveUp(Counter::OwnerChallenge)
        };
    }
    ServerAct::Drop(Counter::WaitDropped)
}

/// The first backend of a re-homed flow still thinks that it holds it: our reset was lost. Answered
/// with another, where the segment is of this flow: that backend got nothing of it but the SYN.
#[inline(always)]
fn left(answers_syn: bool, segment: &Segment) -> ServerAct {
    if segment.any(flags::RST) {
        return ServerAct::Drop(Counter::StrayBackend);
    }
    if !answers_syn {
        return ServerAct::Pass;
    }
    ServerAct::ResetSender(Counter::StrayBackend)
}
