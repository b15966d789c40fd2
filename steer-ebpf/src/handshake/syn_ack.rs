//! A first backend's SYN-ACK: what it agreed to is remembered, and what the client is told of it.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_store_bytes};
use steer_common::{
    checksum::replaced16,
    counters::Counter,
    flow::{State, StateWord},
    shared::{Flow, VIP_OBSERVE, options},
    splice::{AGREED, ecn_agreed},
    wire::tcp::TCP_LEN,
};

use crate::{
    flows::{
        lock,
        table::{forget, remove},
        traces::forget_trace,
    },
    hook::tc::Tc,
    maps::{HANDSHAKES, backend_path, count, count_backend},
    packet::options::read_options,
    scratch::{Scratch, scratch},
    stage::{Stage, plain},
};

/// The handshake that the SYN-ACK at hand answers, unless the flow it opened is known already.
#[inline(always)]
pub(crate) fn answered(scratch: &Scratch, flow: *mut Flow) -> Option<*mut Flow> {
    let (id, ack) = (scratch.backend, scratch.segment.ack);
    let handshake = HANDSHAKES.get_ptr_mut(&scratch.key)?;
    // SAFETY: a map value.
    let (word, first) = unsafe { (lock::read(handshake), (*handshake).first) };
    // SAFETY: as above.
    let port = unsafe { (*handshake).first_port };
    if word.state() == State::Adopted
        || first as u32 != id
        || port != scratch.first_port
        || ack != word.isn().wrapping_add(1)
    {
        return None;
    }
    let opened = !flow.is_null() && lock::read(flow).isn() == word.isn();
    if opened { None } else { Some(handshake) }
}

/// The first backend accepts a new connection: what it agreed to is remembered. An old flow on the
/// same addresses ends here, where its own backend vouches for the new one, or else with the
/// client's acknowledgement ([`crate::handshake::unknown::rival_completed`]).
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn first_syn_ack(
    skb: *mut __sk_buff,
    handshake: *mut Flow,
    replaces: u32,
) -> Stage {
    let (Some(scratch), false) = (scratch(), handshake.is_null()) else { return Stage::Drop };
    let id = scratch.backend;
    if replaces != 0 {
        replace(scratch);
    }
    // SAFETY: not null; one word is read.
    scratch.entrance = unsafe { &*handshake }.entrance();
    if read_options(skb, 0) != 0 {
        return plain(scratch, id);
    }
    let (segment, offer) = (&scratch.segment, &scratch.offer);
    // SAFETY: not null, a whole map value; a repeated SYN-ACK writes the same.
    let flow = unsafe { &mut *handshake };
    flow.first_isn = segment.seq;
    flow.first_ts = offer.ts;
    flow.first_scale = offer.scale;
    flow.first_window = segment.window;
    flow.agreed = (offer.options & AGREED & flow.offered) | ecn_agreed(segment.flags, flow.offered);
    flow.offered |= offer.options & options::SIGNED;
    flow.advertised_mss = offer.mss;
    flow.word = StateWord::new(State::SynAck, StateWord(flow.word).isn()).0;
    count(Counter::SynAck);
    count_backend(id, |stats| stats.syn_acks += 1);
    note_mss(scratch, id);
    clamp_mss(skb, scratch, flow);
    plain(scratch, id)
}

/// The flow on the addresses at hand is over: another one takes its place.
#[inline(always)]
pub(crate) fn replace(scratch: &Scratch) {
    remove(scratch);
    forget(scratch);
    forget_trace();
    count(Counter::FlowReplaced);
}

/// Notes the MSS of a SYN-ACK. A backend derives it from what it knows of the path to this one
/// client (RFC 9293 3.7.1), so only the largest of many says what the backend itself takes; one
/// that takes less from now on is known as such within two windows of time.
#[inline(always)]
pub(crate) fn note_mss(scratch: &Scratch, id: u32) {
    /// Length of a window, seconds.
    const WINDOW: u32 = 120;
    let Some(path) = backend_path(id) else { return };
    let (mss, seconds) = (scratch.offer.mss, scratch.seconds);
    if path.mss == 0 || seconds.wrapping_sub(path.mss_since) > WINDOW {
        path.mss_before = path.mss;
        path.mss_since = seconds;
        path.mss = mss;
    } else if mss > path.mss {
        path.mss = mss;
    }
}

/// Tells the client the pool's smallest MSS, so that any backend can take what it sends.
#[inline(always)]
fn clamp_mss(skb: *mut __sk_buff, scratch: &mut Scratch, flow: &mut Flow) {
    let (mss, at) = (scratch.offer.mss, scratch.offer.mss_at as u32);
    let smallest = scratch.vip.mss;
    // A signed SYN-ACK is not touched, one without the option has nothing to lower. Where nothing
    // moves all is left as it is.
    if at == 0
        || smallest == 0
        || mss <= smallest
        || flow.offered & options::SIGNED != 0
        || scratch.vip.flags & VIP_OBSERVE != 0
    {
        return;
    }
    let place = scratch.l4() + TCP_LEN as u32 + at - 1;
    let bytes = smallest.to_be_bytes();
    let difference = replaced16(u16::from_ne_bytes(mss.to_be_bytes()), u16::from_ne_bytes(bytes));
    // At an odd offset the value contributes its bytes swapped (RFC 1071 2B).
    let folded = steer_common::checksum::fold(difference);
    let difference = if at & 1 == 0 { folded.swap_bytes() } else { folded };
    // SAFETY: two bytes of the stack.
    if unsafe { bpf_skb_store_bytes(skb, place, (&raw const bytes).cast(), 2, 0) } == 0
        && Tc(skb).replace_sums(scratch.ip.l4 + 16, scratch.ip.v6, 0, difference as u64)
    {
        flow.advertised_mss = smallest;
        count(Counter::MssClamped);
    }
}
