//! What a packet leaves in its flow's record: when it came, how far its sender is, how it ended,
//! and the way back.

use aya_ebpf::bindings::__sk_buff;
use steer_common::{
    flow::{Direction, State, StateWord},
    shared::{
        FLOW_CLIENT_DONE, FLOW_CLIENT_FIN, FLOW_CLOSED, FLOW_HOP_WANTED, FLOW_RESET,
        FLOW_SERVER_DONE, FLOW_SERVER_FIN, FLOW_UNCONFIRMED, Flow, FlowKey, HOP_VLAN_AT, Hop,
        JOURNAL_SPLICES, swapped,
    },
    wire::{
        Packet,
        tcp::{Segment, flags},
    },
};

use crate::{
    flows::{
        events::note_change,
        lock::{mark, unmark},
        traces::forget_trace,
    },
    hook::{Hook, tc::Tc},
    maps::{SPLICES, count_answer},
    packet::sums::is_sound,
    scratch::scratch,
};

/// Whether a client's packet comes the way that its flow's did before, or none is to be remembered.
/// XDP, which is not told for which station a frame is, takes no others than those that come a way
/// that is known.
#[inline(always)]
pub(crate) fn comes_by<H: Hook>(hook: &H, flow: &Flow) -> bool {
    if flow.client_hop.ifindex == 0 {
        return !H::XDP && flow.flags & FLOW_HOP_WANTED == 0;
    }
    comes_by_hop(hook, &flow.client_hop)
}

/// Whether a packet comes by this hop.
#[inline(always)]
pub(crate) fn comes_by_hop<H: Hook>(hook: &H, hop: &Hop) -> bool {
    let Some(ethernet) = hook.window().words::<3>(0) else { return false };
    let (known, back) = (hop.words(), swapped(ethernet));
    let differ = (known[0] ^ back[0]) | (known[1] ^ back[1]) | (known[2] ^ back[2]);
    hop.ifindex == hook.ingress() && differ == 0 && hop.vlan() == hook.vlan()
}

/// Seconds since the flow's last packet.
#[inline(always)]
pub(crate) fn idle(flow: &Flow, seconds: u32) -> u32 {
    let idle = seconds.wrapping_sub(flow.seen);
    // Another CPU may have stamped it a moment ahead of our clock.
    if idle as i32 <= 0 { 0 } else { idle }
}

/// Sequence numbers further ahead than this are nobody's we forward for, bytes.
pub(crate) const AHEAD: u32 = 1 << 24;

/// What the server has sent, as its client knows it: the number of its next byte.
#[inline(always)]
fn sent_to_client(flow: &Flow) -> u32 {
    let spliced = StateWord(flow.word).is(State::Spliced);
    flow.server_next.wrapping_add(if spliced { flow.delta } else { 0 })
}

/// Whether a client's segment says exactly where one of the two streams stands, which nobody off
/// the path knows: one that repeats something says so of the other side's. The way back follows
/// such segments alone.
#[inline(always)]
pub(crate) fn is_exact(flow: &Flow, segment: &Segment) -> bool {
    segment.seq == flow.client_next
        || (segment.any(flags::ACK) && segment.ack == sent_to_client(flow))
}

/// Whether a segment acknowledges about what the other side has `sent` (RFC 5961 5.2, with a window
/// of [`AHEAD`] both ways, for what was sent while the flow had no record is not known).
#[inline(always)]
fn acknowledges(sent: u32, segment: &Segment) -> bool {
    segment.any(flags::ACK) && sent.wrapping_sub(segment.ack).wrapping_add(AHEAD) < 2 * AHEAD
}

/// The number that a segment's sender is expected to use next, which was `next` before it. Only
/// what stands at the exact sequence number, or acknowledges what the other side has sent, moves
/// it, so that it cannot be set by data sent blindly; `None` of anything else.
#[inline(always)]
pub(crate) fn advanced(next: u32, sent_by_other: u32, segment: &Segment) -> Option<u32> {
    if segment.seq != next && !acknowledges(sent_by_other, segment) {
        return None;
    }
    let fin = (segment.flags & flags::FIN) as u32;
    let end = segment.seq.wrapping_add(segment.payload_len as u32).wrapping_add(fin);
    let by = end.wrapping_sub(next);
    Some(if by < AHEAD { end } else { next })
}

/// Stamps a packet into its flow. Returns whether the segment is the furthest yet. Of a handshake
/// nothing is known that could move.
#[inline(always)]
pub(crate) fn record_packet(
    key: &FlowKey,
    flow: &mut Flow,
    segment: &Segment,
    direction: Direction,
    seconds: u32,
) -> bool {
    let word = StateWord(flow.word);
    if word.is(State::Syn) || word.is(State::SynAck) || word.is(State::Adopted) {
        return true;
    }
    let to_client = direction == Direction::ToClient;
    let sent = if to_client { flow.client_next } else { sent_to_client(flow) };
    let next = if to_client { &mut flow.server_next } else { &mut flow.client_next };
    let end = advanced(*next, sent, segment).unwrap_or(*next);
    let new = end != *next;
    if new {
        *next = end;
    }
    if flow.seen != seconds {
        flow.seen = seconds;
        if flow.flags & FLOW_UNCONFIRMED != 0 && to_client && segment.any(flags::ACK) {
            (flow.client_next, flow.server_next) =
                (segment.ack, segment.seq.wrapping_add(segment.payload_len as u32));
            unmark(flow, FLOW_UNCONFIRMED);
        }
        if word.is(State::Spliced) {
            record_in_splice(key, flow);
        }
    }
    new
}

/// Carries what moves in a spliced flow's record over to its splice, at most once a second: what
/// `flows` evicts must neither look idle nor be put back with old numbers.
#[inline(always)]
fn record_in_splice(key: &FlowKey, flow: &Flow) {
    if let Some(splice) = SPLICES.get_ptr_mut(key) {
        // SAFETY: a map value; a few words, and a lost race costs one stamp.
        unsafe {
            (*splice).seen = flow.seen;
            (*splice).client_next = flow.client_next;
            (*splice).server_next = flow.server_next;
        }
        mark(splice, flow.flags);
    }
}

/// Notes the FIN or the reset at hand in its settled flow. It counts only at the exact sequence
/// number and with a right checksum, so nobody off the path can have a flow taken for closed. A FIN
/// that overtakes lost data is missed, and its flow ages as an idle one. Ends are only marked: the
/// endpoints judge them, ageing deletes. A flow gives back its splice and its trace when it was
/// reset, or when each side acknowledged the other's FIN: until then what was lost may be sent
/// again, also where `flows` forgets the record. So every packet of a flow that is over comes here.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn record_end(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a whole map value.
    let record = unsafe { &*flow };
    let to_client = scratch.direction == Direction::ToClient;
    let end = scratch.segment.seq.wrapping_add(scratch.payload_len());
    let next = if to_client { record.server_next } else { record.client_next };
    // A FIN stands behind its segment's data, a reset where the segment does.
    let fin = scratch.segment.flags & flags::FIN != 0;
    let exact = scratch.segment.seq == next || (fin && end == next);
    let confirmed = to_client || record.flags & FLOW_UNCONFIRMED == 0;
    if !exact || !confirmed || is_sound(skb) == 0 {
        return 0;
    }
    let mut bits = 0;
    if fin {
        bits |= if to_client { FLOW_SERVER_FIN } else { FLOW_CLIENT_FIN };
    }
    if scratch.segment.flags & flags::RST != 0 {
        bits |= FLOW_RESET;
    }
    const BOTH: u32 = FLOW_CLIENT_FIN | FLOW_SERVER_FIN;
    const DONE: u32 = FLOW_CLIENT_DONE | FLOW_SERVER_DONE;
    let ended = (record.flags | bits) & BOTH == BOTH;
    if ended || (record.flags | bits) & FLOW_RESET != 0 {
        bits |= FLOW_CLOSED;
    }
    let others_end = if to_client { record.client_next } else { sent_to_client(record) };
    if ended && scratch.segment.any(flags::ACK) && scratch.segment.ack == others_end {
        bits |= if to_client { FLOW_SERVER_DONE } else { FLOW_CLIENT_DONE };
    }
    if record.flags & FLOW_RESET == 0 && is_unanswered(record) {
        note_end(record, bits, to_client);
    }
    let all = record.flags | bits;
    mark(flow, bits);
    if all & FLOW_RESET != 0 || all & DONE == DONE {
        let _ = SPLICES.remove(&scratch.key);
        forget_trace();
    } else if let Some(splice) = SPLICES.get_ptr_mut(&scratch.key) {
        mark(splice, bits);
    }
    if bits & FLOW_CLOSED != 0 && StateWord(record.word).is(State::Spliced) {
        note_change(JOURNAL_SPLICES);
    }
    0
}

/// Whether a flow was moved, and its owner has not said anything yet.
#[inline(always)]
fn is_unanswered(record: &Flow) -> bool {
    StateWord(record.word).is(State::Spliced)
        && record.server_next == record.owner_isn.wrapping_add(1)
}

/// Notes how a hello that was moved ended without a word of its owner, whose end is an answer, too.
#[inline(always)]
fn note_end(record: &Flow, bits: u32, by_owner: bool) {
    let owner = record.owner as u32;
    if by_owner && bits != 0 {
        count_answer(owner, |answers| answers.answered += 1);
    } else if bits & FLOW_RESET != 0 {
        count_answer(owner, |answers| answers.withdrawn += 1);
    }
}

/// Keeps the hop that a client's packet came from where its record has one: another router's, say,
/// since the packet before.
#[inline(always)]
pub(crate) fn follow_hop(skb: *mut __sk_buff, record: &mut Flow) {
    if record.client_hop.ifindex != 0 {
        record_hop(&Tc(skb), &mut record.client_hop);
    }
}

/// Keeps the hop that a client's packet came from.
#[inline(always)]
pub(crate) fn record_hop<H: Hook>(hook: &H, hop: &mut Hop) {
    let Some(ethernet) = hook.window().words::<3>(0) else { return };
    let back = swapped(ethernet);
    let (ifindex, vlan) = (hook.ingress(), hook.vlan());
    if hop.ifindex != ifindex || hop.words() != back || hop.vlan() != vlan {
        hop.asked = 0;
        hop.flags = vlan << HOP_VLAN_AT;
        hop.ifindex = ifindex;
        hop.set_words(back);
    }
}
