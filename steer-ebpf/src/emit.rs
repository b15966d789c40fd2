//! One packet becomes another: a SYN to the owner, a reset, a segment of the buffered hello.
//!
//! TC only. The packet at hand is resized and rewritten; its checksum is carried over by differences, so that it is
//! right for finished and unfinished checksums alike and a corrupt packet stays corrupt.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_clone_redirect, bpf_csum_diff, bpf_loop, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use steer_common::{
    checksum::{fold, fold32},
    counters::Counter,
    flow::Word,
    shared::{PENDING_MAX, PENDING_SLACK, Pending, options},
    wire::{
        ETHERNET_LEN,
        ip::{IPV4_LEN, IPV6_LEN, PROTOCOL_TCP},
        tcp::{OPTIONS_MAX, TCP_LEN, flags, kind},
    },
};

use crate::{
    client::forget,
    forward::{fib, refresh},
    hook::tc::Tc,
    journey::{drop, next},
    maps::{FLOWS, PENDING, Scratch, backend, count, scratch, spare},
    verifier::{limit, opaque, size},
};

/// Longest payload of a packet that is made, bytes.
const SEGMENT_MAX: usize = 2048;
/// bpf_csum_diff takes no more at once before Linux 6.14, bytes.
const SUM_MAX: usize = 512;
/// Segments that the longest buffered data can need: [`PENDING_MAX`] at [`SEGMENT_MIN`] each.
const SEGMENTS_MAX: u32 = 256;
/// Shortest segment the data is cut into, bytes.
const SEGMENT_MIN: u32 = 48;
/// Hop limit of packets that are made.
pub(crate) const TTL: u8 = 64;

/// Sum of `len` bytes at `from`, one to [`SUM_MAX`] and a multiple of four; added to `seed`.
#[inline(always)]
unsafe fn sum(from: *const c_void, len: u32, seed: u32) -> u32 {
    // SAFETY: the caller vouches for the memory; the verifier checks it.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, from.cast_mut().cast(), len, seed) as u32 }
}

/// The progress of a sum over a packet's payload.
struct Summing {
    skb: *mut __sk_buff,
    buffer: *mut Pending,
    offset: u32,
    left: u32,
    sum: u32,
    failed: u32,
}

unsafe extern "C" fn sum_step(_index: u32, context: *mut c_void) -> core::ffi::c_long {
    // SAFETY: bpf_loop hands back the context it was given; the buffer is a whole map value.
    unsafe {
        let s = context.cast::<Summing>();
        let left = (*s).left as usize;
        let piece = if left > SUM_MAX { SUM_MAX } else { left };
        let Some(n) = size::<SUM_MAX>(piece) else { return 1 };
        let data = (&raw mut (*(*s).buffer).data).cast::<u8>();
        // Zeroes behind the last piece, whose length need not be a multiple of four.
        data.add(opaque(n as usize) & 0x3ff).cast::<[u8; 4]>().write([0; 4]);
        if bpf_skb_load_bytes((*s).skb.cast(), (*s).offset, data.cast(), n) != 0 {
            (*s).failed = 1;
            return 1;
        }
        let Some(padded) = size::<{ SUM_MAX / 4 }>(n.div_ceil(4) as usize) else { return 1 };
        (*s).sum = sum(data.cast(), padded * 4, (*s).sum);
        (*s).offset += n;
        (*s).left = (left - n as usize) as u32;
        if (*s).left == 0 { 1 } else { 0 }
    }
}

/// Sums the payload of the packet at hand into `facts.payload_sum` and checks its TCP checksum (RFC 9293 3.1) into
/// `facts.sum_good`. 0, or -1 where the packet could not be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sum_payload(skb: *mut __sk_buff) -> i32 {
    let (Some(scratch), Some(buffer)) = (scratch(), spare()) else { return -1 };
    let facts = &mut scratch.facts;
    let mut summing =
        Summing { skb, buffer, offset: facts.l4 + facts.header_len, left: facts.payload_len, sum: 0, failed: 0 };
    if facts.payload_len != 0 {
        const PIECES: u32 = (u16::MAX as usize).div_ceil(SUM_MAX) as u32;
        // SAFETY: the callback matches the helper's signature, the context outlives the call.
        unsafe { bpf_loop(PIECES, sum_step as *mut c_void, (&raw mut summing).cast(), 0) };
    }
    // SAFETY: read back what the callback wrote.
    let (payload, failed) =
        unsafe { ((&raw const summing.sum).read_volatile(), (&raw const summing.failed).read_volatile()) };
    if failed != 0 {
        return -1;
    }
    facts.payload_sum = payload;
    let good = load_old(skb, scratch) == 0 && sum_is_good(scratch);
    scratch.facts.sum_good = good as u8;
    scratch.facts.summed = 1;
    0
}

/// Whether the old headers and the payload's sum agree with the checksum, or the checksum is unfinished.
#[inline(always)]
fn sum_is_good(scratch: &Scratch) -> bool {
    let (make, facts) = (&scratch.make, &scratch.facts);
    let len = facts.header_len + facts.payload_len;
    // SAFETY: whole arrays of a map value.
    let (addresses, header) = unsafe {
        let addresses = if facts.v6 != 0 {
            sum((&raw const make.old_ip).cast::<u8>().add(8).cast(), 32, 0)
        } else {
            sum((&raw const make.old_ip).cast::<u8>().add(12).cast(), 8, 0)
        };
        (addresses, sum((&raw const make.old_tcp).cast(), 64, 0))
    };
    let pseudo = addresses as u64 + (len as u16).to_be() as u64 + (PROTOCOL_TCP as u16).to_be() as u64;
    let field = checksum_field(&make.old_tcp);
    fold(pseudo + header as u64 + facts.payload_sum as u64) == 0xffff || fold(pseudo) == field
}

/// The checksum of a TCP header in words, as memory holds it.
#[inline(always)]
fn checksum_field(tcp: &[u32; 16]) -> u16 {
    let bytes = tcp[4].to_ne_bytes();
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

/// Loads the headers of the packet at hand, zero behind the TCP header's end. 0, or -1 where they are not plain.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_old_headers(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    load_old(skb, scratch)
}

#[inline(always)]
fn load_old(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let (make, facts) = (&mut scratch.make, &scratch.facts);
    let plain = (ETHERNET_LEN + if facts.v6 != 0 { IPV6_LEN } else { IPV4_LEN }) as u32;
    if facts.l4 != plain {
        return -1;
    }
    make.old_tcp = [0; 16];
    let ip = (&raw mut make.old_ip).cast();
    let tcp = (&raw mut make.old_tcp).cast::<u8>();
    // SAFETY: the sizes are those of the arrays or below.
    unsafe {
        let loaded = if facts.v6 != 0 {
            bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, ip, IPV6_LEN as u32)
        } else {
            bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, ip, IPV4_LEN as u32)
        };
        if loaded != 0 || bpf_skb_load_bytes(skb.cast(), plain, tcp.cast(), TCP_LEN as u32) != 0 {
            return -1;
        }
        let options = (facts.header_len as usize).wrapping_sub(TCP_LEN);
        if options == 0 {
            return 0;
        }
        let Some(n) = size::<OPTIONS_MAX>(options) else { return -1 };
        if bpf_skb_load_bytes(skb.cast(), plain + TCP_LEN as u32, tcp.add(TCP_LEN).cast(), n) != 0 {
            return -1;
        }
    }
    0
}

/// Sum of `data[offset .. offset + len]` of the buffer, `len` at most [`SEGMENT_MAX`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_buffer(buffer: *mut Pending, offset: u32, len: u32) -> u32 {
    if buffer.is_null() {
        return 0;
    }
    // SAFETY: every offset is checked against the array's size before it is used.
    unsafe {
        let data = (&raw const (*buffer).data).cast::<u8>();
        let (mut total, mut at, mut left) = (0u64, offset as usize, len as usize);
        for _ in 0..limit::<{ (SEGMENT_MAX / SUM_MAX) as i32 }>() {
            let words = (if left > SUM_MAX { SUM_MAX } else { left }) / 4;
            let Some(words) = size::<{ SUM_MAX / 4 }>(words) else { break };
            let from = opaque(at);
            if from > PENDING_MAX {
                break;
            }
            total += sum(data.add(from).cast(), words * 4, 0) as u64;
            at += words as usize * 4;
            left -= words as usize * 4;
        }
        let from = opaque(at);
        if left & 3 != 0 && from <= PENDING_MAX + SEGMENT_MAX {
            let b = data.add(from).cast::<[u8; 4]>().read();
            let mut tail = [b[0], 0, 0, 0];
            if left & 3 > 1 {
                tail[1] = b[1];
            }
            if left & 3 > 2 {
                tail[2] = b[2];
            }
            total += u32::from_ne_bytes(tail) as u64;
        }
        fold32(total)
    }
}

/// Turns the packet at hand into the one described by `scratch.make`, its payload `data[offset ..]` of the buffer (which
/// may be null where there is none). 0, or a negative number saying where it failed; the packet is then to be dropped.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rebuild(skb: *mut __sk_buff, buffer: *mut Pending, offset: u32) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    if scratch.facts.summed == 0 && scratch.facts.payload_len != 0 && sum_payload(skb) != 0 {
        return -2;
    }
    if load_old_headers(skb) != 0 {
        return -2;
    }
    let (header_len, payload_len) = (scratch.make.header_len, scratch.make.payload_len);
    let mut payload_sum = 0;
    if payload_len != 0 {
        if buffer.is_null() || payload_len > SEGMENT_MAX as u32 {
            return -3;
        }
        payload_sum = sum_buffer(buffer, offset, payload_len);
    }
    let v6 = scratch.facts.v6 != 0;
    let (pseudo, segment) = write_headers(scratch, payload_sum);
    let l4 = (ETHERNET_LEN + if v6 { IPV6_LEN } else { IPV4_LEN }) as u32;
    // SAFETY: sizes are those of the arrays or checked right before the call.
    unsafe {
        // Cut into the TCP header and grown again: a packet that grows loses CHECKSUM_COMPLETE, whose sum would not
        // survive what follows; an unfinished checksum stays unfinished.
        if bpf_skb_change_tail(skb, l4 + 18, 0) != 0 || bpf_skb_change_tail(skb, l4 + header_len + payload_len, 0) != 0
        {
            return -4;
        }
        let ip = (&raw const scratch.make.new_ip).cast();
        let stored = if v6 {
            bpf_skb_store_bytes(skb, ETHERNET_LEN as u32, ip, IPV6_LEN as u32, 0)
        } else {
            bpf_skb_store_bytes(skb, ETHERNET_LEN as u32, ip, IPV4_LEN as u32, 0)
        };
        let Some(n) = size::<60>(header_len as usize) else { return -5 };
        if stored != 0 || bpf_skb_store_bytes(skb, l4, (&raw const scratch.make.new_tcp).cast(), n, 0) != 0 {
            return -6;
        }
        if payload_len != 0 && !buffer.is_null() {
            let Some(n) = size::<SEGMENT_MAX>(payload_len as usize) else { return -7 };
            let from = opaque(offset as usize);
            if from > PENDING_MAX {
                return -7;
            }
            let data = (&raw const (*buffer).data).cast::<u8>().add(from);
            if bpf_skb_store_bytes(skb, l4 + header_len, data.cast(), n, 0) != 0 {
                return -8;
            }
        }
    }
    scratch.facts.header_len = header_len;
    scratch.facts.payload_len = payload_len;
    scratch.facts.payload_sum = payload_sum;
    scratch.facts.summed = 1;
    if Tc(skb).replace_sums(l4 as usize + 16, v6, pseudo, segment) { 0 } else { -9 }
}

/// Writes the new IP header and completes the new TCP header with the old checksum; the differences of the pseudo
/// header and of the segment.
#[inline(always)]
fn write_headers(scratch: &mut Scratch, payload_sum: u32) -> (u64, u64) {
    let (make, facts) = (&mut scratch.make, &scratch.facts);
    let old_len = (facts.header_len + facts.payload_len) as u16;
    let new_len = (make.header_len + make.payload_len) as u16;
    let (source, destination) = (make.source.words(), make.destination.words());
    let word = make.ip_word;
    let new = &mut make.new_ip;
    if facts.v6 != 0 {
        let len = new_len.to_be_bytes();
        new[0] = u32::from_ne_bytes(word);
        new[1] = u32::from_ne_bytes([len[0], len[1], PROTOCOL_TCP, TTL]);
        for i in 0..4 {
            new[2 + i] = source[i];
            new[6 + i] = destination[i];
        }
    } else {
        let len = (new_len + IPV4_LEN as u16).to_be_bytes();
        new[0] = u32::from_ne_bytes([0x45, word[1], len[0], len[1]]);
        // RFC 6864 4.1: an atomic datagram (DF set) needs no identification.
        new[1] = u32::from_ne_bytes([0, 0, 0x40, 0]);
        new[2] = u32::from_ne_bytes([TTL, PROTOCOL_TCP, 0, 0]);
        new[3] = source[3];
        new[4] = destination[3];
        let total: u64 = new[0] as u64 + new[1] as u64 + new[2] as u64 + new[3] as u64 + new[4] as u64;
        let check = (!fold(total)).to_ne_bytes();
        new[2] = u32::from_ne_bytes([TTL, PROTOCOL_TCP, check[0], check[1]]);
    }
    let field = checksum_field(&make.old_tcp).to_ne_bytes();
    clear_checksum(&mut make.old_tcp);
    clear_checksum(&mut make.new_tcp);
    // SAFETY: whole arrays of a map value, or 8 and 32 bytes inside them.
    let (pseudo, segment) = unsafe {
        let (old_ip, new_ip) = ((&raw mut make.old_ip).cast::<u8>(), (&raw mut make.new_ip).cast::<u8>());
        let addresses = if facts.v6 != 0 {
            bpf_csum_diff(old_ip.add(8).cast(), 32, new_ip.add(8).cast(), 32, 0)
        } else {
            bpf_csum_diff(old_ip.add(12).cast(), 8, new_ip.add(12).cast(), 8, 0)
        };
        let (old_tcp, new_tcp) = ((&raw mut make.old_tcp).cast(), (&raw mut make.new_tcp).cast());
        (addresses as u32, bpf_csum_diff(old_tcp, 64, new_tcp, 64, 0) as u32)
    };
    let old_urgent = make.new_tcp[4].to_ne_bytes();
    make.new_tcp[4] = u32::from_ne_bytes([field[0], field[1], old_urgent[2], old_urgent[3]]);
    let lengths = (!old_len.to_be()) as u64 + new_len.to_be() as u64;
    (pseudo as u64 + lengths, segment as u64 + (!facts.payload_sum) as u64 + payload_sum as u64)
}

#[inline(always)]
fn clear_checksum(tcp: &mut [u32; 16]) {
    let bytes = tcp[4].to_ne_bytes();
    tcp[4] = u32::from_ne_bytes([0, 0, bytes[2], bytes[3]]);
}

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
    let (from, to) = (scratch.key.client_port, backend.endpoint.port);
    make.new_tcp[0] = u32::from_ne_bytes([from[0], from[1], to[0], to[1]]);
    make.new_tcp[1] = header.seq.to_be();
    make.new_tcp[2] = header.ack.to_be();
    let window = header.window.to_be_bytes();
    make.new_tcp[3] = u32::from_ne_bytes([(header.len as u8 / 4) << 4, header.flags, window[0], window[1]]);
    true
}

/// The IP word without ECN bits: SYNs and resets are never ECN-capable (RFC 3168 6.1.1).
#[inline(always)]
fn without_ecn(scratch: &Scratch, word: [u8; 4]) -> [u8; 4] {
    if scratch.facts.v6 != 0 {
        // Traffic class is the low nibble of byte 0 and the high one of byte 1.
        [0x60 | word[0] & 0x0f, word[1] & 0xcf, word[2], word[3]]
    } else {
        [word[0], word[1] & 0xfc, word[2], word[3]]
    }
}

/// Makes sure that the next hop to a backend is known; its interface, or a negative number.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn hop_to(skb: *mut __sk_buff, id: u32) -> i32 {
    let (Some(scratch), Some(backend)) = (scratch(), backend(id)) else { return -1 };
    let (endpoint, hop) = (&backend.endpoint, &mut backend.hop);
    if refresh(&Tc(skb), hop, &scratch.key.client, &endpoint.address, scratch.facts.seconds) != fib::SUCCESS {
        return -1;
    }
    scratch.redirect = backend.hop.ifindex;
    0
}

/// Writes the Ethernet header towards a backend whose hop is known.
#[inline(always)]
fn write_ethernet(skb: *mut __sk_buff, id: u32) -> i32 {
    let Some(backend) = backend(id) else { return -1 };
    let hop: *const u8 = (&raw const backend.hop.destination).cast();
    // SAFETY: destination and source lie next to each other in `Hop`: 12 bytes.
    unsafe { bpf_skb_store_bytes(skb, 0, hop.cast(), 12, 0) as i32 }
}

/// Turns the packet at hand into the SYN that opens the owner: the client's own sequence number, the timestamp of its
/// original SYN (so that any later client segment passes PAWS, RFC 7323 5), and of the options only what the first
/// backend agreed to. A SYN that cannot be made now is made when the client repeats its hello.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn syn_to_owner(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    let Some(flow) = FLOWS.get_ptr(&scratch.key) else { return drop(Counter::FlowBusy) };
    // SAFETY: a map value; what is read of it does not change while the flow waits.
    let flow = unsafe { &*flow };
    let owner = flow.owner as u32;
    if hop_to(skb, owner) != 0 {
        return drop(Counter::EmitFailed);
    }
    let ecn = if flow.agreed & options::ECN != 0 { flags::ECE | flags::CWR } else { 0 };
    let header =
        Header { seq: Word(flow.word).isn(), ack: 0, flags: flags::SYN | ecn, window: flow.syn_window, len: 40 };
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
    next::REDIRECT
}

/// The packet at hand becomes the reset in `scratch.reset` and leaves.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn reset_packet(skb: *mut __sk_buff) -> i32 {
    if make_reset(skb) == 0 { next::REDIRECT } else { drop(Counter::EmitFailed) }
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

/// Turns the packet at hand into the reset in `scratch.reset`, in the client's name. 0 with `scratch.redirect` set, or
/// negative.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn make_reset(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    let (id, seq) = (scratch.reset.backend, scratch.reset.seq);
    if hop_to(skb, id) != 0 {
        return -1;
    }
    let header = Header { seq, ack: 0, flags: flags::RST, window: 0, len: TCP_LEN as u32 };
    let word = if scratch.facts.v6 != 0 { [0x60, 0, 0, 0] } else { [0x45, 0, 0, 0] };
    if !describe(scratch, id, word, &header) {
        return -1;
    }
    if rebuild(skb, core::ptr::null_mut(), 0) != 0 {
        return -2;
    }
    write_ethernet(skb, id)
}

/// The progress of sending the buffered data.
struct Emitting {
    skb: *mut __sk_buff,
    buffer: *mut Pending,
    backend: u32,
    have: u32,
    chunk: u32,
    offset: u32,
    seq: u32,
    ack: u32,
    ts: u32,
    ts_echo: u32,
    header_len: u32,
    window: u32,
    ip_word: [u8; 4],
    result: i32,
}

unsafe extern "C" fn emit_step(_index: u32, context: *mut c_void) -> core::ffi::c_long {
    // SAFETY: bpf_loop hands back the context it was given.
    unsafe {
        let e = context.cast::<Emitting>();
        let Some(scratch) = scratch() else { return 1 };
        let left = (*e).have.wrapping_sub((*e).offset);
        let last = left <= (*e).chunk;
        let len = if last { left } else { (*e).chunk };
        let header = Header {
            seq: (*e).seq.wrapping_add((*e).offset),
            ack: (*e).ack,
            flags: flags::ACK | if last { flags::PSH } else { 0 },
            window: (*e).window as u16,
            len: (*e).header_len,
        };
        if !describe(scratch, (*e).backend, (*e).ip_word, &header) {
            return 1;
        }
        if (*e).header_len != TCP_LEN as u32 {
            scratch.make.new_tcp[5] = u32::from_ne_bytes([kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
            scratch.make.new_tcp[6] = (*e).ts.to_be();
            scratch.make.new_tcp[7] = (*e).ts_echo.to_be();
        }
        scratch.make.payload_len = len;
        let failed = rebuild((*e).skb, (*e).buffer, (*e).offset);
        if failed != 0 || write_ethernet((*e).skb, (*e).backend) != 0 {
            (*e).result = -20 + failed;
            return 1;
        }
        if last {
            (*e).result = 0;
            return 1;
        }
        bpf_clone_redirect((*e).skb, scratch.redirect, 0);
        (*e).offset += len;
        0
    }
}

/// Sends the buffered data to the owner (`to_owner`) or to the first backend, as segments made of the packet at hand:
/// all but the last as copies. The packet's own data is part of it, or is repeated by its sender.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn emit_buffered(skb: *mut __sk_buff, to_owner: u32) -> i32 {
    let failed = emit(skb, to_owner);
    let Some(scratch) = scratch() else { return next::DROP };
    if to_owner == 0 {
        forget(scratch);
    } else {
        let _ = PENDING.remove(&scratch.key);
    }
    match failed {
        0 => {
            if to_owner == 0 {
                count(Counter::Flushed);
            }
            next::REDIRECT
        }
        1 => next::DROP,
        _ => drop(Counter::EmitFailed),
    }
}

/// 0 with `scratch.redirect` set, 1 where nothing is buffered, or negative.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit(skb: *mut __sk_buff, to_owner: u32) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    let Some(flow) = FLOWS.get_ptr(&scratch.key) else { return -1 };
    // SAFETY: a map value; what is read of it does not change once the flow is settled.
    let flow = unsafe { &*flow };
    let Some(buffer) = PENDING.get_ptr_mut(&scratch.key) else {
        count(Counter::PendingLost);
        return 1;
    };
    // SAFETY: a map value; the flow's state says that nobody changes it any more.
    let have = unsafe { steer_common::ranges::contiguous(&(*buffer).ranges) };
    if have == 0 || have > PENDING_MAX as u32 {
        return 1;
    }
    let (id, isn, ts_echo) = if to_owner != 0 {
        (flow.owner as u32, flow.owner_isn, flow.first_ts.wrapping_sub(flow.ts_delta))
    } else {
        (flow.first as u32, flow.first_isn, flow.first_ts)
    };
    if hop_to(skb, id) != 0 {
        return -2;
    }
    let timestamps = if flow.agreed & options::TIMESTAMPS != 0 { 12 } else { 0 };
    let mut chunk = (flow.told_mss as u32).saturating_sub(timestamps) & !3;
    if chunk > SEGMENT_MAX as u32 {
        chunk = SEGMENT_MAX as u32;
    }
    if chunk < SEGMENT_MIN {
        chunk = SEGMENT_MIN;
    }
    let mut emitting = Emitting {
        skb,
        buffer,
        backend: id,
        have,
        chunk,
        offset: 0,
        seq: Word(flow.word).isn().wrapping_add(1),
        ack: isn.wrapping_add(1),
        ts: flow.hello_ts,
        ts_echo,
        header_len: TCP_LEN as u32 + timestamps,
        window: flow.hello_window as u32,
        ip_word: flow.ip_word,
        result: -3,
    };
    // SAFETY: the callback matches the helper's signature, the context outlives the call.
    unsafe {
        bpf_loop(SEGMENTS_MAX, emit_step as *mut c_void, (&raw mut emitting).cast(), 0);
        (&raw const emitting.result).read_volatile()
    }
}

/// Copies `len` bytes at `from` of the packet to `data[offset ..]` of the buffer. 0, or -1 where they are not there.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn store_in_buffer(
    skb: *mut __sk_buff,
    buffer: *mut Pending,
    offset: u32,
    from: u32,
    len: u32,
) -> i32 {
    if buffer.is_null() {
        return -1;
    }
    let (mut done, len) = (0u32, len);
    for _ in 0..limit::<{ PENDING_MAX.div_ceil(PENDING_SLACK) as i32 }>() {
        let left = len.wrapping_sub(done) as usize;
        let piece = if left > PENDING_SLACK { PENDING_SLACK } else { left };
        let Some(n) = size::<PENDING_SLACK>(piece) else { break };
        let at = opaque((offset + done) as usize);
        if at > PENDING_MAX {
            return -1;
        }
        // SAFETY: `at + n` is at most PENDING_MAX + PENDING_SLACK, the array's size.
        unsafe {
            let to = (&raw mut (*buffer).data).cast::<u8>().add(at);
            if bpf_skb_load_bytes(skb.cast(), from + done, to.cast(), n) != 0 {
                return -1;
            }
        }
        done += n;
    }
    0
}

/// Makes a buffer of this CPU empty and puts it into `pending`; false where the table refuses.
#[inline(always)]
pub(crate) fn new_buffer(scratch: &Scratch) -> bool {
    let Some(buffer) = spare() else { return false };
    // SAFETY: per-CPU memory.
    unsafe {
        (*buffer).ranges = Default::default();
        (*buffer).first_byte_at = scratch.facts.now;
        (*buffer).grown_at = scratch.facts.now;
        PENDING.insert(&scratch.key, &*buffer, 0).is_ok()
    }
}
