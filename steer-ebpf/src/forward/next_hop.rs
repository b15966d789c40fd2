//! A packet of ours goes on: addresses, numbers and options rewritten, next hop written,
//! redirected.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_fib_lookup},
    helpers::generated::bpf_redirect_neigh,
};
use steer_common::{
    checksum::{fold, replaced16, replaced32, update},
    counters::Counter,
    flow::Direction,
    shared::{Address, HOP_SECONDS, HOP_TAKES_XDP, Hop, INTERFACE_TAKES_XDP},
    splice::rescale_window,
    wire::{
        ETHERNET_LEN, Packet,
        ip::{IPV6_LEN, Ip, PROTOCOL_TCP},
        lower,
        tcp::{Edits, Segment, TCP_LEN, flags},
        upper,
    },
};

use crate::{
    change::Change,
    forward::bridge,
    hook::{Difference, Hook, tc::Tc},
    maps::{backend, backend_path, count, interface},
    packet::{options::OptionsHook, sums::pseudo_sum},
    scratch::scratch,
};

/// Why a packet was not sent on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The other hook can do it (unfinished checksum, no neighbour yet).
    OtherHook(Counter),
    /// Dropped.
    Dropped(Counter),
    /// The MTU of the next hop, which is in `scratch.hop` now, is too small.
    TooBig,
    /// The hop limit is used up.
    HopLimit,
}

/// Rewrites the packet and sends it to `hop`, or without one (TC only) leaves it to the kernel's
/// neighbour discovery on the interface that the forwarding table named; the action to return.
#[inline(always)]
pub(crate) fn send<H: OptionsHook>(
    hook: &H,
    ip: &Ip,
    segment: &Segment,
    change: &Change,
    hop: Option<&Hop>,
) -> Result<u16, Refused> {
    if change.hops != 0 && ip.hop_limit <= 1 {
        return Err(Refused::HopLimit);
    }
    let headers = ip.header_on_wire() + segment.header_len;
    let mtu = hop.map_or(0, |hop| hop.mtu);
    if mtu != 0 && hook.wire_len(headers + segment.payload_len, headers) > mtu as usize {
        if let (Some(scratch), Some(hop)) = (scratch(), hop) {
            scratch.hop = *hop;
        }
        return Err(Refused::TooBig);
    }
    rewrite(hook, ip, segment, change, hop)?;
    if let Some(hop) = hop {
        return Ok(hook.redirect(hop.ifindex) as u16);
    }
    count(Counter::NeighbourAsked);
    let ifindex = scratch().map_or(0, |scratch| scratch.fib.ifindex);
    // SAFETY: a helper call without parameters of ours.
    Ok(unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) } as u16)
}

/// Applies `change` to the packet in place, checksums included.
#[inline(always)]
pub(crate) fn rewrite<H: OptionsHook>(
    hook: &H,
    ip: &Ip,
    segment: &Segment,
    change: &Change,
    hop: Option<&Hop>,
) -> Result<(), Refused> {
    const CUT: Refused = Refused::Dropped(Counter::Malformed);
    let mut difference = Difference { pseudo: 0, segment: 0, uncovered: 0 };
    if change.spliced && segment.header_len > TCP_LEN {
        let Some(edited) = edit_options(hook, ip, segment, &change.edits) else {
            return Err(Refused::Dropped(Counter::OptionsMalformed));
        };
        difference.segment += edited;
    }
    let source = change.direction == Direction::ToClient;
    let mut window = hook.window();
    if let Some(hop) = hop {
        *window.words_mut::<3>(0).ok_or(CUT)? = hop.words();
    }
    if ip.v6 {
        let h = window.words_mut::<{ IPV6_LEN / 4 }>(ETHERNET_LEN).ok_or(CUT)?;
        // Byte 7 of an IPv6 header: hop limit, the last of its word.
        let word = (u32::from_be(h[1]) - change.hops as u32).to_be();
        difference.uncovered += replaced32(h[1], word);
        h[1] = word;
        let new = change.address.words();
        let at = if source { 8 } else { 24 };
        let h = window.words_mut::<4>(ETHERNET_LEN + at).ok_or(CUT)?;
        for i in 0..4 {
            difference.pseudo += replaced32(h[i], new[i]);
            h[i] = new[i];
        }
    } else {
        let new = change.address.words()[3];
        let at = if source { 12 } else { 16 };
        let h = window.words_mut::<1>(ETHERNET_LEN + at).ok_or(CUT)?;
        difference.pseudo += replaced32(h[0], new);
        h[0] = new;
        // Bytes 8 to 11 of an IPv4 header: TTL, protocol, header checksum.
        let h = window.words_mut::<1>(ETHERNET_LEN + 8).ok_or(CUT)?;
        let (ttl, sum) = (upper(h[0]), lower(h[0]));
        let less = ttl - ((change.hops as u16) << 8);
        let changed = difference.pseudo + replaced16(ttl.to_be(), less.to_be());
        let sum = u16::from_be(update(sum.to_be(), changed));
        h[0] = ((less as u32) << 16 | sum as u32).to_be();
    }
    let tcp = window.words_mut::<{ TCP_LEN / 4 }>(ip.l4).ok_or(CUT)?;
    let mut ports = with_port(tcp[0], change.port, source);
    if u16::from_ne_bytes(change.client_port) != 0 {
        ports = with_port(ports, change.client_port, !source);
    }
    difference.segment += replace(&mut tcp[0], ports);
    if change.spliced {
        difference.segment += splice_header(tcp, change);
    }
    if hook.finish(ip.l4 + 16, ip.v6, difference, change.finished) {
        Ok(())
    } else {
        Err(Refused::Dropped(Counter::EmitFailed))
    }
}

/// The first word of a TCP header with another source or destination port.
#[inline(always)]
fn with_port(ports: u32, port: [u8; 2], source: bool) -> u32 {
    // Where the source port stands in the word as memory holds it.
    const SOURCE_AT: u32 = if cfg!(target_endian = "little") { 0 } else { 16 };
    let port = u16::from_ne_bytes(port) as u32;
    let at = if source { SOURCE_AT } else { 16 - SOURCE_AT };
    ports & !(0xffff << at) | port << at
}

/// Replaces a word and says what that does to a sum.
#[inline(always)]
fn replace(word: &mut u32, new: u32) -> u64 {
    let old = *word;
    *word = new;
    replaced32(old, new)
}

/// Translates sequence and acknowledgement numbers and the window of a TCP header.
#[inline(always)]
fn splice_header(tcp: &mut [u32; TCP_LEN / 4], change: &Change) -> u64 {
    let seq = u32::from_be(tcp[1]).wrapping_add(change.seq).to_be();
    let mut difference = replace(&mut tcp[1], seq);
    let last = u32::from_be(tcp[3]);
    if (last >> 16) as u8 & flags::ACK != 0 {
        let ack = u32::from_be(tcp[2]).wrapping_add(change.ack).to_be();
        difference += replace(&mut tcp[2], ack);
    }
    if change.scale_from != change.scale_to {
        let window = rescale_window(last as u16, change.scale_from, change.scale_to);
        difference += replace(&mut tcp[3], (last & 0xffff_0000 | window as u32).to_be());
    }
    difference
}

/// Translates the options and says what that does to a sum: the layouts that nearly every segment
/// has in place, any other by the walker.
#[inline(always)]
fn edit_options<H: OptionsHook>(
    hook: &H,
    ip: &Ip,
    segment: &Segment,
    edits: &Edits,
) -> Option<u64> {
    // RFC 7323 3.2: TSecr counts only where ACK is set.
    let ts_echo = if segment.any(flags::ACK) { edits.ts_echo } else { 0 };
    let edits = Edits { ts_echo, ..*edits };
    let at = ip.l4 + TCP_LEN;
    let difference = match segment.header_len - TCP_LEN {
        12 => edit_stamps(hook, at, &edits),
        24 => edit_sack::<H, 2>(hook, at, &edits),
        32 => edit_sack::<H, 4>(hook, at, &edits),
        40 => edit_sack::<H, 6>(hook, at, &edits),
        _ => None,
    };
    if difference.is_some() {
        return difference;
    }
    let scratch = scratch()?;
    scratch.edits = edits;
    hook.translate_options(at, segment.header_len - TCP_LEN).then_some(scratch.walker.difference)
}

/// Translates timestamps behind two NOPs (RFC 7323 appendix A); `None` where the options start
/// otherwise.
#[inline(always)]
fn edit_stamps<H: Hook>(hook: &H, at: usize, edits: &Edits) -> Option<u64> {
    const STAMPS: u32 = u32::from_ne_bytes([1, 1, 8, 10]);
    let mut window = hook.window();
    let h = window.words_mut::<3>(at)?;
    if h[0] != STAMPS {
        return None;
    }
    Some(add(&mut h[1], edits.ts_value) + add(&mut h[2], edits.ts_echo))
}

/// As [`edit_stamps`], with `EDGES` edges of SACK blocks behind two more NOPs (RFC 2018 3).
#[inline(always)]
fn edit_sack<H: Hook, const EDGES: usize>(hook: &H, at: usize, edits: &Edits) -> Option<u64> {
    const SACK_AT: usize = 12;
    let mut window = hook.window();
    if window.words::<1>(at + SACK_AT)? != [u32::from_ne_bytes([1, 1, 5, 2 + 4 * EDGES as u8])] {
        return None;
    }
    let mut difference = edit_stamps(hook, at, edits)?;
    if edits.sack != 0 {
        let h = window.words_mut::<EDGES>(at + SACK_AT + 4)?;
        for edge in h {
            difference += add(edge, edits.sack);
        }
    }
    Some(difference)
}

/// Adds to a big-endian word and says what that does to a sum.
#[inline(always)]
fn add(word: &mut u32, more: u32) -> u64 {
    let new = u32::from_be(*word).wrapping_add(more).to_be();
    replace(word, new)
}

/// Whether the checksum of this single segment is unfinished: its field holds the pseudo header's
/// sum and nothing else, as a local virtual link hands packets over. One in 65 536 finished ones
/// looks the same.
#[inline(always)]
pub(crate) fn unfinished<H: Hook>(hook: &H, ip: &Ip) -> bool {
    // All ones and zero are the same number.
    let zero = |sum: u16| if sum == u16::MAX { 0 } else { sum };
    hook.window()
        .be16(ip.l4 + 16)
        .is_some_and(|field| zero(fold(pseudo_sum(ip))) == zero(field.to_be()))
}

/// Answers of the forwarding table (`BPF_FIB_LKUP_RET_*`).
pub(crate) mod fib {
    /// A next hop with its neighbour.
    pub(crate) const SUCCESS: i32 = 0;
    /// To be delivered here.
    pub(crate) const NOT_FORWARDED: i32 = 4;
    /// A next hop whose neighbour is not resolved.
    pub(crate) const NO_NEIGHBOUR: i32 = 7;
}

/// Brings `hop` (a backend's) up to date where it is old; what the forwarding table said.
#[inline(always)]
pub(crate) fn refresh<H: Hook>(
    hook: &H,
    hop: &mut Hop,
    source: &Address,
    destination: &Address,
    seconds: u32,
) -> i32 {
    if hop.ifindex != 0 && seconds.wrapping_sub(hop.asked) <= HOP_SECONDS {
        return fib::SUCCESS;
    }
    let Some(scratch) = scratch() else { return -1 };
    let params = &mut scratch.fib;
    let answer = fib_lookup(hook, params, source, destination);
    if answer == fib::SUCCESS {
        // SAFETY: the kernel filled `mtu_result`, a plain number.
        let mtu = unsafe { params.__bindgen_anon_1.mtu_result };
        let ethernet = Hop::mac_addresses(params.dmac, params.smac);
        *hop = Hop {
            ifindex: params.ifindex,
            ethernet,
            mtu,
            flags: hop_flags(params.ifindex),
            asked: seconds,
        };
    }
    answer
}

/// What a next hop's interface takes, as its flags.
#[inline(always)]
pub(crate) fn hop_flags(ifindex: u32) -> u16 {
    if interface(ifindex) & INTERFACE_TAKES_XDP != 0 { HOP_TAKES_XDP } else { 0 }
}

/// Asks the forwarding table for the way to `destination`; interface and MAC addresses are written
/// to `params`.
#[inline(always)]
pub(crate) fn fib_lookup<H: Hook>(
    hook: &H,
    params: &mut bpf_fib_lookup,
    source: &Address,
    destination: &Address,
) -> i32 {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    count(Counter::HopAsked);
    const WORDS: usize = size_of::<bpf_fib_lookup>() / 8;
    // SAFETY: a plain structure of 64 bytes of which all-zero is a valid value.
    unsafe { (&raw mut *params).cast::<[u64; WORDS]>().write_unaligned([0; WORDS]) };
    params.l4_protocol = PROTOCOL_TCP;
    params.ifindex = hook.ingress();
    // A length that every MTU allows: asked only so that the kernel tells the route's MTU.
    params.__bindgen_anon_1.tot_len = 1;
    if destination.is_v4() {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = source.words()[3];
        params.__bindgen_anon_4.ipv4_dst = destination.words()[3];
    } else {
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = source.words();
        params.__bindgen_anon_4.ipv6_dst = destination.words();
    }
    let params: *mut bpf_fib_lookup = params;
    hook.fib(params)
}

/// Makes sure that the next hop to a backend is known; its interface, or a negative number.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn hop_to(skb: *mut __sk_buff, id: u32) -> i32 {
    let (Some(scratch), Some(backend)) = (scratch(), backend(id)) else { return -1 };
    let Some(path) = backend_path(id) else { return -1 };
    let (endpoint, hop, seconds) = (&backend.endpoint, &mut path.hop, scratch.seconds);
    let known = if scratch.port.is_bridges() {
        bridge::way_to(&Tc(skb), hop, id, seconds)
    } else {
        refresh(&Tc(skb), hop, &scratch.key.client, &endpoint.address, seconds) == fib::SUCCESS
    };
    if !known {
        return -1;
    }
    scratch.redirect = path.hop.ifindex;
    0
}
