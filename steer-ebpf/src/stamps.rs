//! What a packet leaves in its flow's record: when it came, how far its sender is, how it ended, and the way back.

use steer_common::{
    flow::{State, Word},
    shared::{FLOW_CLIENT_FIN, FLOW_RESET, FLOW_SERVER_FIN, Flow, FlowKey, Hop, answered},
    wire::{
        Packet,
        tcp::{Segment, flags},
    },
};

use crate::{hook::Hook, maps::SPLICES};

/// Seconds since the flow's last packet.
#[inline(always)]
pub(crate) fn idle(flow: &Flow, seconds: u32) -> u32 {
    let idle = seconds.wrapping_sub(flow.seen);
    // Another CPU may have stamped it a moment ahead of our clock.
    if idle as i32 <= 0 { 0 } else { idle }
}

/// Sequence numbers further ahead than this are nobody's we forward for, bytes.
pub(crate) const AHEAD: u32 = 1 << 24;

/// Whether a segment acknowledges about what the other side has sent (RFC 5961 5.2, with a window of [`AHEAD`] both ways,
/// for what was sent while the flow had no record is not known). Both numbers are those of their sender.
#[inline(always)]
fn acknowledges(flow: &Flow, segment: &Segment, to_client: bool) -> bool {
    let sent = if to_client {
        flow.client_next
    } else if Word(flow.word).state() == State::Spliced {
        flow.server_next.wrapping_add(flow.delta)
    } else {
        flow.server_next
    };
    segment.any(flags::ACK) && sent.wrapping_sub(segment.ack).wrapping_add(AHEAD) < 2 * AHEAD
}

/// Advances an expected sequence number.
#[inline(always)]
fn advance(next: &mut u32, segment: &Segment) -> bool {
    let fin = (segment.flags & flags::FIN) as u32;
    let end = segment.seq.wrapping_add(segment.payload_len as u32).wrapping_add(fin);
    let by = end.wrapping_sub(*next);
    let new = by != 0 && by < AHEAD;
    if new {
        *next = end;
    }
    new
}

/// Stamps a packet into its flow. Ends are only marked: the endpoints judge them, ageing deletes. A FIN or a reset counts,
/// and the way back follows a client's packet, only at the exact sequence number; and only what stands there already, or
/// acknowledges the other side, moves that number, so that it cannot be set by data sent blindly. So nobody off the path
/// can have a flow taken for closed or draw its answers to himself. A FIN that overtakes lost data is missed, and its flow
/// ages as an idle one. Returns whether the segment is the furthest yet.
#[inline(always)]
pub(crate) fn note<H: Hook>(
    hook: &H,
    key: &FlowKey,
    flow: &mut Flow,
    segment: &Segment,
    to_client: bool,
    seconds: u32,
) -> bool {
    let exact = segment.seq == if to_client { flow.server_next } else { flow.client_next };
    let new = (exact || acknowledges(flow, segment, to_client))
        && advance(if to_client { &mut flow.server_next } else { &mut flow.client_next }, segment);
    if flow.seen != seconds {
        flow.seen = seconds;
        stamp_splice(key, flow);
    }
    if exact && segment.any(flags::FIN | flags::RST) {
        if segment.any(flags::FIN) {
            flow.flags |= if to_client { FLOW_SERVER_FIN } else { FLOW_CLIENT_FIN };
        }
        if segment.any(flags::RST) {
            flow.flags |= FLOW_RESET;
        }
    }
    if exact && !to_client && flow.client_hop.ifindex != 0 {
        note_hop(hook, &mut flow.client_hop);
    }
    new
}

/// Carries the stamp of a spliced flow over to its splice, at most once a second: what `flows` evicts must not look idle.
#[inline(always)]
fn stamp_splice(key: &FlowKey, flow: &Flow) {
    if Word(flow.word).state() != State::Spliced {
        return;
    }
    if let Some(splice) = SPLICES.get_ptr_mut(key) {
        // SAFETY: a map value; two words, and a lost race costs one stamp.
        unsafe {
            (*splice).seen = flow.seen;
            (*splice).flags = flow.flags;
        }
    }
}

/// Keeps the hop that a client's packet came from.
#[inline(always)]
pub(crate) fn note_hop<H: Hook>(hook: &H, hop: &mut Hop) {
    let Some(ethernet) = hook.window().words::<3>(0) else { return };
    let back = answered(ethernet);
    let ifindex = hook.ingress();
    if hop.ifindex != ifindex || hop.words() != back {
        hop.asked = 0;
        hop.ifindex = ifindex;
        hop.set_words(back);
    }
}
