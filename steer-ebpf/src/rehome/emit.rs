//! The packets that are made: a SYN to the owner, resets, segments of the buffered hello. TC only.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_clone_redirect, bpf_skb_store_bytes},
};
use steer_common::{
    counters::Counter,
    flow::StateWord,
    shared::{PENDING_MAX, Pending, options},
    wire::tcp::{TCP_LEN, flags, kind},
};

use crate::{
    flows::table::forget,
    forward::{
        bridge::{set_tag_of, write_as_client},
        next_hop::hop_to,
    },
    learn::certificate::expect_buffered,
    maps::{FLOWS, PENDING, backend, backend_path, count},
    packet::{rebuild::rebuild, sums::SEGMENT_MAX},
    scratch::{Emitting, Scratch, scratch},
    stage::{Stage, drop},
    verifier::limit,
};

/// Segments that the longest buffered data can need: [`PENDING_MAX`] at [`SEGMENT_MIN`] each.
const SEGMENTS_MAX: i32 = 256;
/// Shortest segment the data is cut into, bytes.
const SEGMENT_MIN: u32 = 48;

/// A new TCP header, host-endian numbers.
struct Header {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    len: u32,
}

/// Describes a packet from the flow's client to `id`; false where there is no such backend.
#[inline(always)]
fn describe(scratch: &mut Scratch, id: u32, ip_word: [u8; 4], header: &Header) -> bool {
    let Some(backend) = backend(id) else { return false };
    let make = &mut scratch.make;
    make.source = scratch.key.client;
    make.destination = backend.endpoint.address;
    make.ip_word = ip_word;
    make.header_len = header.len;
    make.payload_len = 0;
    make.new_tcp = [0; 16];
    let (from, to) = (port_at(scratch, id), backend.endpoint.port);
    let make = &mut scratch.make;
    make.new_tcp[0] = u32::from_ne_bytes([from[0], from[1], to[0], to[1]]);
    make.new_tcp[1] = header.seq.to_be();
    make.new_tcp[2] = header.ack.to_be();
    let window = header.window.to_be_bytes();
    make.new_tcp[3] =
        u32::from_ne_bytes([(header.len as u8 / 4) << 4, header.flags, window[0], window[1]]);
    true
}

/// The port, big-endian, that the client of the flow in `scratch.key` has at a backend.
#[inline(always)]
fn port_at(scratch: &Scratch, id: u32) -> [u8; 2] {
    let own = scratch.key.client_port;
    // SAFETY: fields are read as half-words.
    let Some(flow) = (unsafe { FLOWS.get(&scratch.key) }) else { return own };
    flow.port_at(id as u16).filter(|port| *port != [0; 2]).unwrap_or(own)
}

/// The IP word without ECN bits: SYNs and resets are never ECN-capable (RFC 3168 6.1.1).
#[inline(always)]
fn without_ecn(scratch: &Scratch, word: [u8; 4]) -> [u8; 4] {
    if scratch.ip.v6 {
        // Traffic class is the low nibble of byte 0 and the high one of byte 1.
        [0x60 | word[0] & 0x0f, word[1] & 0xcf, word[2], word[3]]
    } else {
        [word[0], word[1] & 0xfc, word[2], word[3]]
    }
}

/// Writes the Ethernet header towards a backend whose hop is known.
#[inline(always)]
fn write_ethernet(skb: *mut __sk_buff, id: u32) -> i32 {
    if scratch().is_some_and(|scratch| write_as_client(skb, scratch, id)) {
        return 0;
    }
    let Some(path) = backend_path(id) else { return -1 };
    if set_tag_of(skb, &path.hop) != 0 {
        return -1;
    }
    let hop = &raw const path.hop.ethernet;
    // SAFETY: 12 bytes of a map value.
    unsafe { bpf_skb_store_bytes(skb, 0, hop.cast(), 12, 0) as i32 }
}

/// Turns the packet at hand into the SYN that opens the owner: the client's own sequence number,
/// the timestamp of its original SYN (so that any later client segment passes PAWS, RFC 7323 5),
/// and of the options only what the first backend agreed to. A SYN that cannot be made now is made
/// when the client repeats its hello.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn syn_to_owner(skb: *mut __sk_buff) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    let Some(flow) = FLOWS.get_ptr(&scratch.key) else { return drop(Counter::FlowBusy) };
    // SAFETY: a map value; what is read of it does not change while the flow waits.
    let flow = unsafe { &*flow };
    let owner = flow.owner as u32;
    if hop_to(skb, owner) != 0 {
        return drop(Counter::EmitFailed);
    }
    let ecn = if flow.agreed & options::ECN != 0 { flags::ECE | flags::CWR } else { 0 };
    let header = Header {
        seq: StateWord(flow.word).isn(),
        ack: 0,
        flags: flags::SYN | ecn,
        window: flow.syn_window,
        len: 40,
    };
    let word = without_ecn(scratch, flow.ip_word);
    if !describe(scratch, owner, word, &header) {
        return drop(Counter::EmitFailed);
    }
    let mss = flow.client_mss.to_be_bytes();
    let tcp = &mut scratch.make.new_tcp;
    const NOPS: [u8; 4] = [kind::NOP; 4];
    tcp[5] = u32::from_ne_bytes([kind::MSS, 4, mss[0], mss[1]]);
    let sack = flow.agreed & options::SACK != 0;
    let leading = if sack { [kind::SACK_PERMITTED, 2] } else { [kind::NOP, kind::NOP] };
    if flow.agreed & options::TIMESTAMPS != 0 {
        tcp[6] = u32::from_ne_bytes([leading[0], leading[1], kind::TIMESTAMPS, 10]);
        tcp[7] = flow.client_ts.to_be();
        tcp[8] = 0;
    } else {
        tcp[6] = u32::from_ne_bytes([leading[0], leading[1], kind::NOP, kind::NOP]);
        tcp[7] = u32::from_ne_bytes(NOPS);
        tcp[8] = u32::from_ne_bytes(NOPS);
    }
    tcp[9] = if flow.agreed & options::WINDOW_SCALE != 0 {
        u32::from_ne_bytes([kind::NOP, kind::WINDOW_SCALE, 3, flow.client_scale])
    } else {
        u32::from_ne_bytes(NOPS)
    };
    if rebuild(skb, core::ptr::null_mut(), 0) != 0 || write_ethernet(skb, owner) != 0 {
        return drop(Counter::EmitFailed);
    }
    Stage::Redirect
}

/// The packet at hand becomes the reset in `scratch.reset` and leaves.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn reset_packet(skb: *mut __sk_buff) -> Stage {
    if make_reset(skb) == 0 { Stage::Redirect } else { drop(Counter::EmitFailed) }
}

/// A copy of the packet at hand leaves as the reset in `scratch.reset`; the packet stays at hand.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn reset_copy(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    // SAFETY: a helper call on the program's context.
    if make_reset(skb) != 0 || unsafe { bpf_clone_redirect(skb, scratch.redirect, 0) } != 0 {
        count(Counter::EmitFailed);
    }
    0
}

/// Turns the packet at hand into the reset in `scratch.reset`, in the client's name. 0 with
/// `scratch.redirect` set, or negative.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn make_reset(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    let (id, seq) = (scratch.reset.backend, scratch.reset.seq);
    if hop_to(skb, id) != 0 {
        return -1;
    }
    let header = Header { seq, ack: 0, flags: flags::RST, window: 0, len: TCP_LEN as u32 };
    let word = if scratch.ip.v6 { [0x60, 0, 0, 0] } else { [0x45, 0, 0, 0] };
    if !describe(scratch, id, word, &header) {
        return -1;
    }
    if rebuild(skb, core::ptr::null_mut(), 0) != 0 {
        return -2;
    }
    write_ethernet(skb, id)
}

/// Begins to send the buffered data to the owner (`to_owner`) or to the first backend, as segments
/// made of the packet at hand. The packet's own data is part of it, or is repeated by its sender.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn emit_buffered(skb: *mut __sk_buff, to_owner: u32) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    expect_buffered();
    let Some(flow) = FLOWS.get_ptr_mut(&scratch.key) else {
        return ended(scratch, to_owner, drop(Counter::EmitFailed));
    };
    // SAFETY: a map value; what is read of it does not change once the flow is settled.
    let flow = unsafe { &mut *flow };
    let Some(buffer) = PENDING.get_ptr_mut(&scratch.key) else {
        return ended(scratch, to_owner, drop(Counter::PendingLost));
    };
    // SAFETY: a map value; the flow's state says that nobody changes it any more.
    let have = unsafe { steer_common::ranges::contiguous(&(*buffer).ranges) };
    if have == 0 || have > PENDING_MAX as u32 {
        return ended(scratch, to_owner, Stage::Drop);
    }
    let seq = StateWord(flow.word).isn().wrapping_add(1);
    // What was held is not stamped by its own packets.
    flow.client_next = seq.wrapping_add(have);
    let (backend, isn, ts_echo) = if to_owner != 0 {
        (flow.owner as u32, flow.owner_isn, flow.first_ts.wrapping_sub(flow.ts_delta))
    } else {
        (flow.first as u32, flow.first_isn, flow.first_ts)
    };
    if hop_to(skb, backend) != 0 {
        return ended(scratch, to_owner, drop(Counter::EmitFailed));
    }
    let timestamps = if flow.agreed & options::TIMESTAMPS != 0 { 12 } else { 0 };
    let mut chunk = (flow.advertised_mss as u32).saturating_sub(timestamps) & !3;
    if chunk > SEGMENT_MAX as u32 {
        chunk = SEGMENT_MAX as u32;
    }
    if chunk < SEGMENT_MIN {
        chunk = SEGMENT_MIN;
    }
    scratch.emitting = Emitting {
        backend,
        to_owner,
        have,
        chunk,
        offset: 0,
        seq,
        ack: isn.wrapping_add(1),
        ts: flow.hello_ts,
        ts_echo,
        header_len: TCP_LEN as u32 + timestamps,
        window: flow.hello_window as u32,
        ip_word: flow.ip_word,
    };
    Stage::Emit
}

/// Sends the segments of [`Emitting`]: copies of all but the last one, which stays at hand.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn emit_segments(skb: *mut __sk_buff) -> Stage {
    for _ in 0..limit::<SEGMENTS_MAX>() {
        let stage = emit_segment(skb);
        if stage != Stage::Emit {
            return stage;
        }
    }
    drop(Counter::EmitFailed)
}

/// Makes the next segment of [`Emitting`] and sends a copy of it, or leaves the last one at hand.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_segment(skb: *mut __sk_buff) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    let Some(buffer) = PENDING.get_ptr_mut(&scratch.key) else {
        return ended(scratch, scratch.emitting.to_owner, drop(Counter::PendingLost));
    };
    let Emitting { have, offset, chunk, .. } = scratch.emitting;
    let left = have.wrapping_sub(offset);
    let last = left <= chunk;
    let failed = make_segment(skb, buffer, if last { left } else { chunk }, last);
    if failed == 0 && !last {
        // SAFETY: a helper call on the program's context. A copy that is lost is repeated by the
        // client.
        unsafe { bpf_clone_redirect(skb, scratch.redirect, 0) };
        scratch.emitting.offset += chunk;
        return Stage::Emit;
    }
    let to_owner = scratch.emitting.to_owner;
    if failed != 0 {
        return ended(scratch, to_owner, drop(Counter::EmitFailed));
    }
    if to_owner == 0 {
        count(Counter::Flushed);
    }
    ended(scratch, to_owner, Stage::Redirect)
}

/// Turns the packet at hand into the next `len` bytes of the buffered data; 0 or negative.
#[inline(always)]
fn make_segment(skb: *mut __sk_buff, buffer: *mut Pending, len: u32, last: bool) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    let Emitting { backend, offset, seq, ack, header_len, window, ip_word, .. } = scratch.emitting;
    let flags = flags::ACK | if last { flags::PSH } else { 0 };
    let header = Header {
        seq: seq.wrapping_add(offset),
        ack,
        flags,
        window: window as u16,
        len: header_len,
    };
    if !describe(scratch, backend, ip_word, &header) {
        return -1;
    }
    if scratch.make.header_len != TCP_LEN as u32 {
        scratch.make.new_tcp[5] = u32::from_ne_bytes([kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
        scratch.make.new_tcp[6] = scratch.emitting.ts.to_be();
        scratch.make.new_tcp[7] = scratch.emitting.ts_echo.to_be();
    }
    scratch.make.payload_len = len;
    if rebuild(skb, buffer, scratch.emitting.offset) != 0 {
        return -1;
    }
    write_ethernet(skb, scratch.emitting.backend)
}

/// Forgets what was buffered: it was sent, or cannot be.
#[inline(always)]
fn ended(scratch: &Scratch, to_owner: u32, stage: Stage) -> Stage {
    if to_owner == 0 {
        forget(scratch);
    } else {
        let _ = PENDING.remove(&scratch.key);
    }
    stage
}
