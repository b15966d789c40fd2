//! A packet that is too large for its next hop, and that its sender allows routers to fragment, is
//! cut into smaller segments: what a router would do with the datagram is done with the segment, so
//! that no piece is without its ports.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_clone_redirect, bpf_skb_adjust_room, bpf_skb_load_bytes},
};
use steer_common::{
    counters::Counter,
    shared::{PENDING_MAX, Pending},
    wire::{
        ETHERNET_LEN,
        ip::Part,
        tcp::{TCP_LEN, flags},
    },
};

use crate::{
    forward::next_hop::rewrite,
    hook::{Hook as _, tc::Tc},
    maps::count,
    packet::{
        rebuild::rebuild,
        sums::{SEGMENT_MAX, load_old_headers, sum_payload},
    },
    scratch::{Sum, scratch, shifted},
    stage::{Stage, drop},
    verifier::{limit, size},
};

/// Segments that one packet is cut into at most.
const SEGMENTS_MAX: i32 = 64;
/// Shortest payload of a segment, bytes.
const SEGMENT_MIN: u32 = 48;

/// The packet at hand is changed as `scratch.change` says and leaves to `scratch.hop` in pieces
/// that fit its MTU.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn resegment(skb: *mut __sk_buff) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if scratch.ip.part != Part::Whole || change(skb) != 0 {
        return drop(Counter::TooBigDropped);
    }
    scratch.redirect = scratch.hop.ifindex;
    let stage = if Tc(skb).aggregated() { shrink(skb) } else { cut(skb) };
    if stage == Stage::Redirect {
        count(Counter::TooBigCut);
    }
    stage
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn change(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    match rewrite(&Tc(skb), &scratch.ip, &scratch.segment, &scratch.change, Some(&scratch.hop)) {
        Ok(()) => 0,
        Err(_) => -1,
    }
}

/// Several segments in one: the kernel is told to make smaller ones of it. Room that is made takes
/// from a segment's size, and is taken away again without giving it back.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shrink(skb: *mut __sk_buff) -> Stage {
    /// `BPF_ADJ_ROOM_MAC` and `BPF_F_ADJ_ROOM_FIXED_GSO` of bpf_skb_adjust_room.
    const MAC: u32 = 1;
    const FIXED_GSO: u64 = 1;
    let Some(scratch) = scratch() else { return Stage::Drop };
    let headers = scratch.ip.header_on_wire() + scratch.segment.header_len;
    let too_long = Tc(skb).wire_len(0, headers).saturating_sub(scratch.hop.mtu as usize);
    let Some(more) = size::<0x3ff>(too_long) else { return drop(Counter::TooBigDropped) };
    let more = more as i32;
    // SAFETY: helper calls on the program's context.
    let shrunk = unsafe {
        bpf_skb_adjust_room(skb, more, MAC, 0) == 0
            && bpf_skb_adjust_room(skb, -more, MAC, FIXED_GSO) == 0
    };
    if shrunk { Stage::Redirect } else { drop(Counter::TooBigDropped) }
}

/// One segment: it is kept, and the packet becomes one piece of it after the other.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cut(skb: *mut __sk_buff) -> Stage {
    if prepare(skb) != 0 {
        return drop(Counter::TooBigDropped);
    }
    for _ in 0..limit::<SEGMENTS_MAX>() {
        let stage = cut_one(skb);
        if stage != Stage::Emit {
            return stage;
        }
    }
    drop(Counter::TooBigDropped)
}

/// Keeps the packet's payload, its addresses and its TCP header, as they are now. 0, or -1.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn prepare(skb: *mut __sk_buff) -> i32 {
    let (Some(scratch), Some(text)) = (scratch(), shifted()) else { return -1 };
    scratch.sum = Sum::default();
    if sum_payload(skb) != 0 || load_old_headers(skb) != 0 {
        return -1;
    }
    let from = scratch.payload_at();
    let Some(n) = size::<PENDING_MAX>(scratch.segment.payload_len) else { return -1 };
    // SAFETY: at most the array's size.
    if unsafe { bpf_skb_load_bytes(skb.cast(), from, (&raw mut (*text).data).cast(), n) } != 0 {
        return -1;
    }
    let (l4, header_len) = (scratch.l4(), scratch.header_len());
    let make = &mut scratch.make;
    make.ip_word = make.old_ip[0].to_ne_bytes();
    if scratch.ip.v6 {
        make.source = steer_common::shared::Address::from_words([
            make.old_ip[2],
            make.old_ip[3],
            make.old_ip[4],
            make.old_ip[5],
        ]);
        make.destination = steer_common::shared::Address::from_words([
            make.old_ip[6],
            make.old_ip[7],
            make.old_ip[8],
            make.old_ip[9],
        ]);
    } else {
        let mapped = 0x0000_ffff_u32.to_be();
        make.source = steer_common::shared::Address::from_words([0, 0, mapped, make.old_ip[3]]);
        make.destination =
            steer_common::shared::Address::from_words([0, 0, mapped, make.old_ip[4]]);
    }
    let emitting = &mut scratch.emitting;
    emitting.have = n;
    emitting.offset = 0;
    emitting.header_len = header_len;
    emitting.seq = u32::from_be(make.old_tcp[1]);
    let room =
        (scratch.hop.mtu as u32).wrapping_sub(l4 - ETHERNET_LEN as u32).wrapping_sub(header_len);
    emitting.chunk = room & !3;
    if emitting.chunk > SEGMENT_MAX as u32 {
        emitting.chunk = SEGMENT_MAX as u32;
    }
    if emitting.chunk < SEGMENT_MIN { -1 } else { 0 }
}

/// The next piece: a copy of it leaves, or the last one stays at hand.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cut_one(skb: *mut __sk_buff) -> Stage {
    let (Some(scratch), Some(text)) = (scratch(), shifted()) else { return Stage::Drop };
    let (have, offset, chunk) =
        (scratch.emitting.have, scratch.emitting.offset, scratch.emitting.chunk);
    let left = have.wrapping_sub(offset);
    let last = left <= chunk;
    if make_piece(skb, text, if last { left } else { chunk }, last) != 0 {
        return drop(Counter::TooBigDropped);
    }
    if last {
        return Stage::Redirect;
    }
    // SAFETY: a helper call on the program's context. A copy that is lost is repeated by its
    // sender.
    unsafe { bpf_clone_redirect(skb, scratch.redirect, 0) };
    scratch.emitting.offset += chunk;
    Stage::Emit
}

#[inline(always)]
fn make_piece(skb: *mut __sk_buff, text: *mut Pending, len: u32, last: bool) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    let (seq, offset, header_len) =
        (scratch.emitting.seq, scratch.emitting.offset, scratch.emitting.header_len);
    // The header as it is at hand, but for its checksum, which is carried over.
    if load_old_headers(skb) != 0 || header_len < TCP_LEN as u32 {
        return -1;
    }
    const ENDS: u8 = flags::PSH | flags::FIN;
    let make = &mut scratch.make;
    make.new_tcp = make.old_tcp;
    make.new_tcp[1] = seq.wrapping_add(offset).to_be();
    let word = make.old_tcp[3].to_ne_bytes();
    if offset == 0 {
        scratch.emitting.ts = word[1] as u32;
    }
    let bits = scratch.emitting.ts as u8;
    make.new_tcp[3] =
        u32::from_ne_bytes([word[0], if last { bits } else { bits & !ENDS }, word[2], word[3]]);
    let check = make.old_tcp[4].to_ne_bytes();
    make.new_tcp[4] = u32::from_ne_bytes([0, 0, check[2], check[3]]);
    make.header_len = header_len;
    make.payload_len = len;
    rebuild(skb, text, offset)
}
