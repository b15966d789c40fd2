//! One packet becomes another, in place. TC only.
//!
//! The packet at hand is resized and rewritten; its checksum is carried over by differences, so
//! that it is right for finished and unfinished checksums alike and a corrupt packet stays corrupt.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_csum_diff, bpf_skb_change_tail, bpf_skb_store_bytes},
};
use steer_common::{
    checksum::fold,
    shared::{PENDING_MAX, Pending},
    wire::{
        ETHERNET_LEN,
        ip::{IPV4_LEN, IPV6_LEN, PROTOCOL_TCP},
    },
};

use crate::{
    hook::tc::Tc,
    packet::sums::{SEGMENT_MAX, checksum_field, load_old_headers, sum_buffer},
    scratch::{Scratch, scratch},
    verifier::{opaque, size},
};

/// Hop limit of packets that are made.
pub(crate) const TTL: u8 = 64;

/// Turns the packet at hand into the one described by `scratch.make`, its payload `data[offset ..]`
/// of the buffer (which may be null where there is none). 0, or a negative number saying where it
/// failed; the packet is then to be dropped.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn rebuild(skb: *mut __sk_buff, buffer: *mut Pending, offset: u32) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    // The stage before it summed the payload, or could not.
    if scratch.sum.known == 0 && scratch.payload_len() != 0 || load_old_headers(skb) != 0 {
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
    let v6 = scratch.ip.v6;
    let (pseudo, segment) = write_headers(scratch, payload_sum);
    let l4 = (ETHERNET_LEN + if v6 { IPV6_LEN } else { IPV4_LEN }) as u32;
    // SAFETY: sizes are those of the arrays or checked right before the call.
    unsafe {
        // Cut into the TCP header and grown again: a packet that grows loses CHECKSUM_COMPLETE,
        // whose sum would not survive what follows; an unfinished checksum stays unfinished.
        if bpf_skb_change_tail(skb, l4 + 18, 0) != 0
            || bpf_skb_change_tail(skb, l4 + header_len + payload_len, 0) != 0
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
        if stored != 0
            || bpf_skb_store_bytes(skb, l4, (&raw const scratch.make.new_tcp).cast(), n, 0) != 0
        {
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
    scratch.segment.header_len = header_len as usize;
    scratch.segment.payload_len = payload_len as usize;
    scratch.sum.payload = payload_sum;
    scratch.sum.known = 1;
    if Tc(skb).replace_sums(l4 as usize + 16, v6, pseudo, segment) { 0 } else { -9 }
}

/// Writes the new IP header and completes the new TCP header with the old checksum; the differences
/// of the pseudo header and of the segment.
#[inline(always)]
fn write_headers(scratch: &mut Scratch, payload_sum: u32) -> (u64, u64) {
    let old_len = (scratch.header_len() + scratch.payload_len()) as u16;
    let old_payload_sum = scratch.sum.payload;
    let (make, v6) = (&mut scratch.make, scratch.ip.v6);
    let new_len = (make.header_len + make.payload_len) as u16;
    let (source, destination) = (make.source.words(), make.destination.words());
    let word = make.ip_word;
    let new = &mut make.new_ip;
    if v6 {
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
        let total: u64 =
            new[0] as u64 + new[1] as u64 + new[2] as u64 + new[3] as u64 + new[4] as u64;
        let check = (!fold(total)).to_ne_bytes();
        new[2] = u32::from_ne_bytes([TTL, PROTOCOL_TCP, check[0], check[1]]);
    }
    let field = checksum_field(&make.old_tcp).to_ne_bytes();
    clear_checksum(&mut make.old_tcp);
    clear_checksum(&mut make.new_tcp);
    // SAFETY: whole arrays of a map value, or 8 and 32 bytes inside them.
    let (pseudo, segment) = unsafe {
        let (old_ip, new_ip) =
            ((&raw mut make.old_ip).cast::<u8>(), (&raw mut make.new_ip).cast::<u8>());
        let addresses = if v6 {
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
    (pseudo as u64 + lengths, segment as u64 + (!old_payload_sum) as u64 + payload_sum as u64)
}

#[inline(always)]
fn clear_checksum(tcp: &mut [u32; 16]) {
    let bytes = tcp[4].to_ne_bytes();
    tcp[4] = u32::from_ne_bytes([0, 0, bytes[2], bytes[3]]);
}
