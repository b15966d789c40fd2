//! IP fragments of a steered flow: only the first carries ports, the others follow it by their identification.
//!
//! A TCP checksum covers the whole segment and stands in the first fragment; what changes there is a difference, so the
//! later ones need new addresses only. A later fragment that overtakes its first one is held, for only the first one says
//! whose it is; when that one comes, it and what was held come in by their interface once more, in their order.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use steer_common::{
    checksum::{replaced16, replaced32, update},
    counters::Counter,
    shared::{ADDRESS_OF_BACKEND, ADDRESS_OF_VIP, FragmentKey, HELD_FRAGMENTS, HELD_MAX, Held, HeldKey, ROLE_ADDRESS},
    wire::{
        ETHERNET_LEN,
        ip::{IPV6_LEN, Ip, PROTOCOL_TCP},
        lower, upper,
    },
};

use crate::{
    hook::{Hook, tc::Tc},
    maps::{FRAGMENTS, HELD, Scratch, count, directory_head, listed, scratch, seconds, spare},
    next::{self, drop, pass},
    verifier::{limit, size},
};

/// Seconds that a receiver waits for what is missing (Linux; RFC 8200 4.5 has 60). Later the number means another datagram.
const LIFE: u32 = 30;

/// The first fragment of a TCP datagram, before anything else becomes of it: from now on its later ones pass, unless it is
/// sent on and they follow it. 1 where some of them overtook it: then they all come in once more, and the packet at hand is
/// done with.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn begin(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    if !may_be_ours(scratch) {
        return 0;
    }
    enter_key(scratch);
    // From here on none is held: what waits for a first fragment that comes in again would have it come in again for ever.
    scratch.route.hop.ifindex = 0;
    scratch.route.seen = seconds(scratch);
    let _ = FRAGMENTS.insert(&scratch.fragment, &scratch.route, 0);
    // SAFETY: only asked whether it is there.
    if unsafe { HELD.get(&HeldKey { datagram: scratch.fragment, number: 0 }) }.is_some() {
        let ingress = Tc(skb).ingress();
        come_in_again(skb, ingress);
        for number in 0..limit::<{ HELD_FRAGMENTS as i32 }>() {
            if release(skb, number) != 0 {
                come_in_again(skb, ingress);
            }
        }
        return 1;
    }
    0
}

/// A copy of the packet comes in by its interface, behind what is waiting there.
#[inline(always)]
fn come_in_again(skb: *mut __sk_buff, ingress: u32) {
    /// `BPF_F_INGRESS`.
    const INGRESS: u64 = 1;
    // SAFETY: a helper call on the program's context. A copy that is lost is repeated by its sender.
    unsafe { bpf_clone_redirect(skb, ingress, INGRESS) };
}

/// Turns the packet at hand into the held fragment of this number; 0 where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn release(skb: *mut __sk_buff, number: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let key = HeldKey { datagram: scratch.fragment, number };
    let Some(held) = HELD.get_ptr(&key) else { return 0 };
    // SAFETY: a map value; where it is replaced meanwhile, its sender's checksum tells.
    let (len, seen) = unsafe { ((*held).len, (*held).seen) };
    let fresh = seconds(scratch).wrapping_sub(seen) as i32 <= LIFE as i32;
    let mut made = 0;
    if let (true, Some(n)) = (fresh, size::<HELD_MAX>(len as usize)) {
        // Cut behind its IP header and grown again: a packet that grows loses CHECKSUM_COMPLETE, whose sum would be another
        // packet's.
        // SAFETY: a map value of `HELD_MAX` bytes.
        unsafe {
            if bpf_skb_change_tail(skb, scratch.ip.l4 as u32, 0) == 0
                && bpf_skb_change_tail(skb, n, 0) == 0
                && bpf_skb_store_bytes(skb, 0, (&raw const (*held).frame).cast(), n, 0) == 0
            {
                made = 1;
            }
        }
    }
    let _ = HELD.remove(&key);
    made
}

/// Keeps a later fragment until the first one comes; false where there is no room for it.
#[inline(always)]
fn hold(skb: *mut __sk_buff, scratch: &mut Scratch) -> bool {
    let Some(buffer) = spare() else { return false };
    let Some(n) = size::<HELD_MAX>(Tc(skb).len()) else { return false };
    // SAFETY: a buffer of this CPU's that is larger and is not in use.
    let held = unsafe { (&raw mut (*buffer).data).cast::<Held>() };
    // SAFETY: as above; `n` is at most the frame's size.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*held).frame).cast(), n) != 0 {
            return false;
        }
        (*held).len = n;
        (*held).seen = seconds(scratch);
    }
    for number in 0..limit::<{ HELD_FRAGMENTS as i32 }>() {
        let key = HeldKey { datagram: scratch.fragment, number };
        // SAFETY: as above; one word is read.
        let (taken, held) = unsafe { (HELD.get(&key).map(|other| other.seen), &*held) };
        let stale = |seen: u32| held.seen.wrapping_sub(seen) as i32 > LIFE as i32;
        if taken.is_none_or(stale) {
            return HELD.insert(&key, held, 0).is_ok();
        }
    }
    false
}

/// Whether a fragment may be of a steered flow, by its addresses: to a VIP's, or from a backend's.
#[inline(always)]
fn may_be_ours(scratch: &Scratch) -> bool {
    let ip = &scratch.ip;
    let Some(head) = directory_head() else { return false };
    let stands =
        |address, bit| listed(head, address, [0; 2]).is_some_and(|at| at.role == ROLE_ADDRESS && at.id & bit != 0);
    ip.protocol == PROTOCOL_TCP && (stands(&ip.destination, ADDRESS_OF_VIP) || stands(&ip.source, ADDRESS_OF_BACKEND))
}

/// Remembers where the fragment at hand, the first of its datagram, went: `scratch.change` and `scratch.route.hop`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn remember_first() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    enter_key(scratch);
    // Left to neighbour discovery: the sender repeats the segment, and then the hop is known. The later ones of this one
    // wait in vain.
    if scratch.route.hop.ifindex == 0 {
        let _ = FRAGMENTS.remove(&scratch.fragment);
        return 0;
    }
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
    let seconds = seconds(scratch);
    // SAFETY: a map value that is replaced as a whole.
    let known = FRAGMENTS.get_ptr(&scratch.fragment).map(|route| unsafe { &*route });
    let Some(route) = known.filter(|route| seconds.wrapping_sub(route.seen) as i32 <= LIFE as i32) else {
        let held = may_be_ours(scratch) && hold(skb, scratch);
        return if held { drop(Counter::FragmentHeld) } else { pass(Counter::FragmentPassed) };
    };
    if route.hop.ifindex == 0 {
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
