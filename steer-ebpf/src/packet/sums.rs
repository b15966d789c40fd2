//! What a packet and the buffered data sum up to (RFC 1071): the packet's checksum is judged, and
//! known parts of it are replaced without reading it again. TC only.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_csum_diff, bpf_loop, bpf_skb_load_bytes},
};
use core::ffi::c_void;
use steer_common::{
    checksum::{fold, fold32},
    shared::{PENDING_MAX, Pending},
    wire::{
        ETHERNET_LEN,
        ip::{IPV4_LEN, IPV6_LEN, Ip, PROTOCOL_TCP},
        tcp::{OPTIONS_MAX, TCP_LEN},
    },
};

use crate::{
    hook::{Hook as _, tc::Tc},
    scratch::{Sum, scratch, spare},
    verifier::{limit, mask, opaque, size},
};

/// bpf_csum_diff takes no more at once before Linux 6.14, bytes.
const SUM_MAX: usize = 512;

/// Sum of `len` bytes at `from`, one to [`SUM_MAX`] and a multiple of four; added to `seed`.
#[inline(always)]
unsafe fn sum(from: *const c_void, len: u32, seed: u32) -> u32 {
    // SAFETY: the caller vouches for the memory; the verifier checks it.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, from.cast_mut().cast(), len, seed) as u32 }
}

/// The progress of a sum over a segment.
struct Summing {
    skb: *mut __sk_buff,
    buffer: *mut Pending,
    offset: u32,
    left: u32,
    /// Bytes of the piece at hand that are not summed: those of the header.
    skip: u32,
    sum: u32,
    failed: u32,
}

/// Loads the next [`SUM_MAX`] bytes or what is left, and sums them but for those to be skipped; 1
/// where there are no more, or nothing can be read.
#[inline(always)]
unsafe fn sum_piece(s: *mut Summing) -> core::ffi::c_long {
    // SAFETY: the caller's; the buffer is a whole map value.
    unsafe {
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
        (*s).offset += n;
        (*s).left = (left - n as usize) as u32;
        let skip = mask::<0x3f>((*s).skip as usize);
        (*s).skip = 0;
        if let Some(words) = size::<{ SUM_MAX / 4 }>((n as usize).wrapping_sub(skip).div_ceil(4)) {
            (*s).sum = sum(data.add(skip).cast(), words * 4, (*s).sum);
        }
        if (*s).left == 0 { 1 } else { 0 }
    }
}

unsafe extern "C" fn sum_step(_index: u32, context: *mut c_void) -> core::ffi::c_long {
    // SAFETY: bpf_loop hands back the context it was given.
    unsafe { sum_piece(context.cast()) }
}

/// Sums the payload of the packet at hand into `scratch.sum`, unless that was done, and
/// checks its TCP checksum (RFC 9293 3.1). 0, or -1 where the packet could
/// not be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sum_payload(skb: *mut __sk_buff) -> i32 {
    let (Some(scratch), Some(buffer)) = (scratch(), spare()) else { return -1 };
    if scratch.sum.known != 0 {
        return 0;
    }
    let (offset, skip) = (scratch.l4(), scratch.header_len());
    let left = skip + scratch.payload_len();
    let mut summing = Summing { skb, buffer, offset, left, skip, sum: 0, failed: 0 };
    // SAFETY: the segment's start is in the buffer then; the header's length is checked.
    let more = unsafe { sum_piece(&raw mut summing) } == 0;
    let Some(header_len) = size::<60>(skip as usize & !3) else { return -1 };
    // SAFETY: as above.
    let (header, field) = unsafe {
        let data = (&raw const (*buffer).data).cast::<u8>();
        (sum(data.cast(), header_len, 0), data.add(16).cast::<u16>().read())
    };
    if more {
        const PIECES: u32 = (u16::MAX as usize).div_ceil(SUM_MAX) as u32;
        // SAFETY: the callback matches the helper's signature, the context outlives the call.
        unsafe { bpf_loop(PIECES, sum_step as *mut c_void, (&raw mut summing).cast(), 0) };
    }
    // SAFETY: read back what the callback wrote.
    let (payload, failed) = unsafe {
        ((&raw const summing.sum).read_volatile(), (&raw const summing.failed).read_volatile())
    };
    if failed != 0 {
        return -1;
    }
    let pseudo = pseudo_sum(&scratch.ip);
    // Right, or not finished yet.
    let good = fold(pseudo + header as u64 + payload as u64) == 0xffff || fold(pseudo) == field;
    scratch.sum = Sum { payload, good: good as u8, known: 1 };
    0
}

/// Whether the packet at hand is what its sender sent: its TCP checksum is right, or not finished
/// yet. 1 or 0; 0 also where that cannot be judged, as of a fragment.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_sound(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    // Several segments in one were put together by the kernel, which looked at their checksums.
    if Tc(skb).aggregated() {
        return 1;
    }
    if sum_payload(skb) != 0 { 0 } else { scratch.sum.good as i32 }
}

/// The checksum of a TCP header in words, as memory holds it.
#[inline(always)]
pub(crate) fn checksum_field(tcp: &[u32; 16]) -> u16 {
    let bytes = tcp[4].to_ne_bytes();
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

/// Loads the headers of the packet at hand, zero behind the TCP header's end. 0, or -1 where they
/// are not plain.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn load_old_headers(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    let (make, v6) = (&mut scratch.make, scratch.ip.v6);
    let plain = (ETHERNET_LEN + if v6 { IPV6_LEN } else { IPV4_LEN }) as u32;
    if scratch.ip.l4 as u32 != plain {
        return -1;
    }
    make.old_tcp = [0; 16];
    let ip = (&raw mut make.old_ip).cast();
    let tcp = (&raw mut make.old_tcp).cast::<u8>();
    // SAFETY: the sizes are those of the arrays or below.
    unsafe {
        let loaded = if v6 {
            bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, ip, IPV6_LEN as u32)
        } else {
            bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, ip, IPV4_LEN as u32)
        };
        if loaded != 0 || bpf_skb_load_bytes(skb.cast(), plain, tcp.cast(), TCP_LEN as u32) != 0 {
            return -1;
        }
        let options = scratch.segment.header_len.wrapping_sub(TCP_LEN);
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
pub(crate) extern "C" fn sum_buffer(buffer: *mut Pending, offset: u32, len: u32) -> u32 {
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

/// Sum of the pseudo header (RFC 9293 3.1, RFC 8200 8.1). The mapped prefix of an IPv4 address is
/// no part of it.
#[inline(always)]
pub(crate) fn pseudo_sum(ip: &Ip) -> u64 {
    let (source, destination) = (ip.source.words(), ip.destination.words());
    let mut sum = (source[3] as u64) + (destination[3] as u64);
    if ip.v6 {
        sum += source[0] as u64 + source[1] as u64 + source[2] as u64;
        sum += destination[0] as u64 + destination[1] as u64 + destination[2] as u64;
    }
    sum + (ip.l4_len as u16).to_be() as u64 + (PROTOCOL_TCP as u16).to_be() as u64
}

/// Longest payload of a packet that is made, bytes.
pub(crate) const SEGMENT_MAX: usize = 2048;
