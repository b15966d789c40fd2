//! IP fragments of a steered flow: only the first carries ports, the others follow it by their identification.
//!
//! A TCP checksum covers the whole segment and stands in the first fragment; what changes there is a difference, so the
//! later ones need new addresses only. A later fragment that overtakes its first is passed to the stack, which never
//! gets the first and forgets it; the sender repeats the segment.

use aya_ebpf::bindings::__sk_buff;
use steer_common::{
    checksum::{replaced16, replaced32, update},
    counters::Counter,
    shared::FragmentKey,
    wire::{
        ETHERNET_LEN,
        ip::{IPV6_LEN, Ip},
        lower, upper,
    },
};

use crate::{
    hook::{Hook, tc::Tc},
    maps::{FRAGMENTS, Scratch, count, scratch, seconds},
    next::{self, drop, pass},
};

/// Remembers where the fragment at hand, the first of its datagram, went: `scratch.change` and `scratch.route.hop`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn remember_first() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    // Left to neighbour discovery: the sender repeats the segment, and then the hop is known.
    if scratch.route.hop.ifindex == 0 {
        return 0;
    }
    enter_key(scratch);
    scratch.route.address = scratch.change.address;
    scratch.route.source = scratch.change.source as u32;
    scratch.route.seen = seconds(scratch);
    let _ = FRAGMENTS.insert(&scratch.fragment, &scratch.route, 0);
    count(Counter::FragmentForwarded);
    0
}

/// Sends a later fragment where its first one went.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_later(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    enter_key(scratch);
    /// Seconds that a receiver waits for what is missing (Linux; RFC 8200 4.5 has 60). Later the number means another
    /// datagram.
    const LIFE: u32 = 30;
    let Some(route) = FRAGMENTS.get_ptr(&scratch.fragment) else { return pass(Counter::FragmentPassed) };
    // SAFETY: a map value that is written once.
    let route = unsafe { &*route };
    let seconds = seconds(scratch);
    if seconds.wrapping_sub(route.seen) as i32 > LIFE as i32 {
        return pass(Counter::FragmentPassed);
    }
    if scratch.ip.hop_limit <= 1 {
        return drop(Counter::HopLimit);
    }
    let hook = Tc(skb);
    let mut window = hook.window();
    let ip: &Ip = &scratch.ip;
    let Some(ethernet) = window.words_mut::<3>(0) else { return drop(Counter::Malformed) };
    *ethernet = route.hop.words();
    let source = route.source != 0;
    let new = route.address.words();
    if ip.v6 {
        let Some(h) = window.words_mut::<{ IPV6_LEN / 4 }>(ETHERNET_LEN) else { return drop(Counter::Malformed) };
        let word = (u32::from_be(h[1]) - 1).to_be();
        let mut difference = replaced32(h[1], word);
        h[1] = word;
        let Some(h) = window.words_mut::<4>(ETHERNET_LEN + if source { 8 } else { 24 }) else {
            return drop(Counter::Malformed);
        };
        for i in 0..4 {
            difference += replaced32(h[i], new[i]);
            h[i] = new[i];
        }
        // No header checksum balances the change (IPv4 has one), and the TCP checksum is in the first fragment.
        hook.uncovered(difference);
    } else {
        let Some(h) = window.words_mut::<5>(ETHERNET_LEN) else { return drop(Counter::Malformed) };
        let old = if source { h[3] } else { h[4] };
        if source {
            h[3] = new[3];
        } else {
            h[4] = new[3];
        }
        let (ttl, sum) = (upper(h[2]), lower(h[2]));
        let less = ttl - 0x100;
        let difference = replaced32(old, new[3]) + replaced16(ttl.to_be(), less.to_be());
        h[2] = ((less as u32) << 16 | u16::from_be(update(sum.to_be(), difference)) as u32).to_be();
    }
    count(Counter::FragmentForwarded);
    scratch.redirect = route.hop.ifindex;
    next::REDIRECT
}

/// Enters the datagram's key into `scratch.fragment`.
#[inline(always)]
fn enter_key(scratch: &mut Scratch) {
    let (ip, key): (&Ip, &mut FragmentKey) = (&scratch.ip, &mut scratch.fragment);
    key.source = ip.source;
    key.destination = ip.destination;
    key.id = ip.fragment_id;
}
