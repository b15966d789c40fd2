//! The errors we owe: Fragmentation-Needed and Packet-Too-Big, where a redirect would drop a packet
//! silently.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use steer_common::{
    checksum::fold,
    counters::Counter,
    shared::swapped,
    wire::{
        ETHERNET_LEN,
        ip::{IPV4_LEN, IPV6_LEN, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP},
        tcp::TCP_LEN,
    },
};

use crate::{
    forward::icmp::ICMP_LEN,
    hook::{Hook, tc::Tc},
    maps::count,
    packet::rebuild::TTL,
    scratch::{Scratch, scratch},
    stage::{Stage, drop},
};

/// The next hop's MTU, `scratch.hop.mtu`, is too small for the packet, which is untouched so far.
/// Its sender is told so in the name of whom it wrote to: a client in the VIP's, a backend in its
/// client's. Where the sender allows routers to fragment it, it is cut instead ([`resegment`]).
///
/// [`resegment`]: crate::resegment
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn too_big(skb: *mut __sk_buff) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if scratch.ip.may_fragment {
        return Stage::Cut;
    }
    if !quote_packet(skb, scratch) || !cut(skb, scratch.ip.l4) {
        return drop(Counter::TooBigDropped);
    }
    let l4 = (ETHERNET_LEN + if scratch.ip.v6 { IPV6_LEN } else { IPV4_LEN }) as u32;
    let len = if scratch.ip.v6 { QUOTE_V6 } else { QUOTE_V4 };
    let (outer, message) =
        ((&raw const scratch.quote.outer).cast(), (&raw const scratch.quote.message).cast());
    // SAFETY: the sizes are those of the arrays or below.
    let made = unsafe {
        bpf_skb_change_tail(skb, l4 + len, 0) == 0
            && bpf_skb_store_bytes(skb, 0, (&raw const scratch.make.old_ip).cast(), 12, 0) == 0
            && if scratch.ip.v6 {
                bpf_skb_store_bytes(skb, ETHERNET_LEN as u32, outer, IPV6_LEN as u32, 0) == 0
                    && bpf_skb_store_bytes(skb, l4, message, QUOTE_V6, 0) == 0
            } else {
                bpf_skb_store_bytes(skb, ETHERNET_LEN as u32, outer, IPV4_LEN as u32, 0) == 0
                    && bpf_skb_store_bytes(skb, l4, message, QUOTE_V4, 0) == 0
            }
    };
    if !made {
        return drop(Counter::EmitFailed);
    }
    count(Counter::TooBig);
    scratch.redirect = Tc(skb).ingress();
    Stage::Redirect
}

/// ICMP message that quotes an IP header and a TCP header without options, bytes.
const QUOTE_V4: u32 = (ICMP_LEN + IPV4_LEN + TCP_LEN) as u32;
const QUOTE_V6: u32 = (ICMP_LEN + IPV6_LEN + TCP_LEN) as u32;

/// Prepares the error, which quotes the packet without its IP options or extension headers: headers
/// in `scratch.quote`, the way back in `scratch.make.old_ip` (three words).
#[inline(always)]
fn quote_packet(skb: *mut __sk_buff, scratch: &mut Scratch) -> bool {
    let v6 = scratch.ip.v6;
    let (mtu, l4) = (scratch.hop.mtu as u32, scratch.ip.l4 as u32);
    let quote = &mut scratch.quote;
    let inner = (&raw mut quote.message).cast::<u32>().wrapping_add(2);
    let mut ethernet = [0u32; 3];
    // SAFETY: two words into the array the rest of it holds 64 bytes; the frame's start is 12 bytes
    // of the stack.
    let loaded = unsafe {
        bpf_skb_load_bytes(skb.cast(), 0, (&raw mut ethernet).cast(), 12) == 0
            && if v6 {
                let tcp = inner.wrapping_add(IPV6_LEN / 4);
                bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, inner.cast(), IPV6_LEN as u32)
                    == 0
                    && bpf_skb_load_bytes(skb.cast(), l4, tcp.cast(), TCP_LEN as u32) == 0
            } else {
                let tcp = inner.wrapping_add(IPV4_LEN / 4);
                bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, inner.cast(), IPV4_LEN as u32)
                    == 0
                    && bpf_skb_load_bytes(skb.cast(), l4, tcp.cast(), TCP_LEN as u32) == 0
            }
    };
    let back = swapped(ethernet);
    for i in 0..3 {
        scratch.make.old_ip[i] = back[i];
    }
    let (message, outer) = (&mut quote.message, &mut quote.outer);
    // The quoted header is followed by TCP: next header of IPv6, header length of IPv4.
    if v6 {
        let word = message[3].to_ne_bytes();
        message[3] = u32::from_ne_bytes([word[0], word[1], PROTOCOL_TCP, word[3]]);
        write_v6(message, outer, mtu);
    } else {
        let word = message[2].to_ne_bytes();
        message[2] = u32::from_ne_bytes([0x45, word[1], word[2], word[3]]);
        write_v4(message, outer, mtu);
    }
    loaded
}

/// Fragmentation needed (RFC 1191 4), from where the packet went to where it came from.
#[inline(always)]
fn write_v4(message: &mut [u32; 18], outer: &mut [u32; 10], mtu: u32) {
    const LEN: u16 = IPV4_LEN as u16 + QUOTE_V4 as u16;
    const WORDS: usize = QUOTE_V4 as usize / 4;
    message[1] = (mtu & 0xffff).to_be();
    message[0] = u32::from_ne_bytes([3, 4, 0, 0]);
    let mut sum = 0u64;
    for word in message.iter().take(WORDS) {
        sum += *word as u64;
    }
    let check = (!fold(sum)).to_ne_bytes();
    message[0] = u32::from_ne_bytes([3, 4, check[0], check[1]]);
    let len = LEN.to_be_bytes();
    outer[0] = u32::from_ne_bytes([0x45, 0xc0, len[0], len[1]]);
    outer[1] = 0;
    outer[2] = u32::from_ne_bytes([TTL, PROTOCOL_ICMP, 0, 0]);
    outer[3] = message[2 + 4];
    outer[4] = message[2 + 3];
    let mut sum = 0u64;
    for word in outer.iter().take(5) {
        sum += *word as u64;
    }
    let check = (!fold(sum)).to_ne_bytes();
    outer[2] = u32::from_ne_bytes([TTL, PROTOCOL_ICMP, check[0], check[1]]);
}

/// Packet too big (RFC 4443 3.2).
#[inline(always)]
fn write_v6(message: &mut [u32; 18], outer: &mut [u32; 10], mtu: u32) {
    const WORDS: usize = QUOTE_V6 as usize / 4;
    message[1] = mtu.to_be();
    message[0] = u32::from_ne_bytes([2, 0, 0, 0]);
    let len = (QUOTE_V6 as u16).to_be_bytes();
    outer[0] = u32::from_ne_bytes([0x60, 0, 0, 0]);
    outer[1] = u32::from_ne_bytes([len[0], len[1], PROTOCOL_ICMPV6, TTL]);
    for i in 0..4 {
        outer[2 + i] = message[2 + 6 + i];
        outer[6 + i] = message[2 + 2 + i];
    }
    let mut sum = (QUOTE_V6.to_be() as u64) + (PROTOCOL_ICMPV6 as u32).to_be() as u64;
    for word in message.iter().take(WORDS) {
        sum += *word as u64;
    }
    for word in outer.iter().skip(2) {
        sum += *word as u64;
    }
    let check = (!fold(sum)).to_ne_bytes();
    message[0] = u32::from_ne_bytes([2, 0, check[0], check[1]]);
}

/// Cuts away the packet's headers behind its Ethernet header. The second cut begins behind the
/// place where an unfinished TCP checksum was to start, at which the kernel forgets it: it must not
/// be written into the error.
#[inline(always)]
fn cut(skb: *mut __sk_buff, l4: usize) -> bool {
    /// `BPF_ADJ_ROOM_MAC`.
    const BEHIND_ETHERNET: u32 = 1;
    const SECOND: i32 = 4;
    let first = (l4 - ETHERNET_LEN + TCP_LEN) as i32;
    // SAFETY: helper calls on the program's context.
    unsafe {
        bpf_skb_adjust_room(skb, -first, BEHIND_ETHERNET, 0) == 0
            && bpf_skb_adjust_room(skb, -SECOND, BEHIND_ETHERNET, 0) == 0
    }
}
