//! IP fragments of a steered flow: only the first carries ports, the others follow it by their
//! identification.
//!
//! A TCP checksum covers the whole segment and stands in the first fragment; what changes there is
//! a difference, so the later ones need new addresses only. A later fragment that overtakes its
//! first one is held, for only the first one says whose it is; when that one has gone its way, what
//! was held comes in by its interface once more. Held is only what comes before the first one has
//! gone, so that nothing comes in for ever.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use steer_common::{
    checksum::{replaced16, replaced32, update},
    counters::Counter,
    flow::Direction,
    shared::{
        ADDRESS_OF_BACKEND, ADDRESS_OF_MEMBER, ADDRESS_OF_VIP, FRAGMENTS_FROM_BACKEND,
        FRAGMENTS_PASS, FRAGMENTS_WAIT, FragmentKey, FragmentRoute, HELD_FRAGMENTS, HELD_MAX, Held,
        HeldKey, ROLE_ADDRESS,
    },
    wire::{
        ETHERNET_LEN,
        ip::{IPV6_LEN, Ip, PROTOCOL_TCP},
        lower, upper,
    },
};

use crate::{
    forward::bridge::set_tag_of,
    hook::{Hook, tc::Tc},
    maps::{FRAGMENTS, HELD, count, directory_head, listed},
    scratch::{Scratch, scratch, seconds, spare},
    stage::{Stage, act, drop, pass},
    verifier::{limit, size},
};

/// Seconds that a receiver waits for what is missing (Linux; RFC 8200 4.5 has 60). Later the number
/// means another datagram.
const LIFE: u32 = 30;

/// The first fragment of a TCP datagram comes: until it has gone its way its later ones wait.
#[inline(always)]
pub(crate) fn begin(scratch: &mut Scratch) {
    if !may_be_ours(scratch) {
        return;
    }
    set_key(scratch);
    // One that passed comes in again, or a copy of it: the others go on passing.
    if fate(scratch).is_none_or(|route| route.flags & FRAGMENTS_PASS == 0) {
        scratch.route.flags = FRAGMENTS_WAIT;
        set_fate(scratch);
    }
    scratch.begun = 1;
}

/// The first fragment at hand is on its way to `scratch.route.hop`, changed as `scratch.change`
/// says, by returning `action`: the later ones follow it. What becomes of the packet at hand.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sent(skb: *mut __sk_buff, action: u32) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    set_key(scratch);
    count(Counter::FragmentForwarded);
    let ifindex = scratch.route.hop.ifindex;
    // Left to neighbour discovery: the sender repeats the segment, and then the hop is known. The
    // later ones of this one wait in vain.
    if ifindex == 0 {
        return act(scratch, action as u8);
    }
    scratch.route.address = scratch.change.address;
    scratch.route.flags = match scratch.change.direction {
        Direction::ToBackend => 0,
        Direction::ToClient => FRAGMENTS_FROM_BACKEND,
    };
    set_fate(scratch);
    if any_held() == 0 {
        return act(scratch, action as u8);
    }
    copy(skb, ifindex, 0);
    release(skb);
    Stage::Drop
}

/// The first fragment at hand passes, and so do the later ones. What becomes of the packet at hand.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn passed(skb: *mut __sk_buff) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    scratch.route.hop.ifindex = 0;
    scratch.route.flags = FRAGMENTS_PASS;
    set_fate(scratch);
    if any_held() == 0 {
        return Stage::Pass;
    }
    copy(skb, Tc(skb).ingress(), INGRESS);
    release(skb);
    Stage::Drop
}

/// `BPF_F_INGRESS` of bpf_clone_redirect: what is copied comes in by the interface, behind what is
/// waiting there.
const INGRESS: u64 = 1;

/// A copy of the packet leaves by an interface, or comes in by it.
#[inline(always)]
fn copy(skb: *mut __sk_buff, ifindex: u32, flags: u64) {
    // SAFETY: a helper call on the program's context. A copy that is lost is repeated by its
    // sender.
    unsafe { bpf_clone_redirect(skb, ifindex, flags) };
}

/// What is known of the datagram in `scratch.fragment`; none where its number means another one by
/// now.
#[inline(always)]
fn fate(scratch: &mut Scratch) -> Option<&'static FragmentRoute> {
    let seconds = seconds(scratch);
    // SAFETY: a map value that is replaced as a whole.
    let known = FRAGMENTS.get_ptr(&scratch.fragment).map(|route| unsafe { &*route });
    known.filter(|route| seconds.wrapping_sub(route.seen) as i32 <= LIFE as i32)
}

/// Enters `scratch.route` for the datagram in `scratch.fragment`.
#[inline(always)]
fn set_fate(scratch: &mut Scratch) {
    scratch.route.seen = seconds(scratch);
    let _ = FRAGMENTS.insert(&scratch.fragment, &scratch.route, 0);
}

/// 1 where a later fragment of the datagram in `scratch.fragment` is held.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn any_held() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    for number in 0..limit::<{ HELD_FRAGMENTS as i32 }>() {
        // SAFETY: only asked whether it is there.
        if unsafe { HELD.get(&HeldKey { datagram: scratch.fragment, number }) }.is_some() {
            return 1;
        }
    }
    0
}

/// What is held of the datagram in `scratch.fragment` comes in again. The packet at hand is used up
/// for it.
#[inline(always)]
fn release(skb: *mut __sk_buff) {
    for number in 0..limit::<{ HELD_FRAGMENTS as i32 }>() {
        let ifindex = become_held(skb, number);
        if ifindex != 0 {
            copy(skb, ifindex as u32, INGRESS);
        }
    }
}

/// Turns the packet at hand into the held fragment of this number, which is given up; the interface
/// that it came by, or 0 where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn become_held(skb: *mut __sk_buff, number: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let key = HeldKey { datagram: scratch.fragment, number };
    let Some(held) = HELD.get_ptr(&key) else { return 0 };
    // SAFETY: a map value; where it is replaced meanwhile, its sender's checksum tells.
    let (len, ifindex, seen) = unsafe { ((*held).len, (*held).ifindex, (*held).seen) };
    let fresh = seconds(scratch).wrapping_sub(seen) as i32 <= LIFE as i32;
    let mut made = 0;
    if let (true, Some(n)) = (fresh, size::<HELD_MAX>(len as usize)) {
        // Cut behind its IP header and grown again: a packet that grows loses CHECKSUM_COMPLETE,
        // whose sum would be another packet's. SAFETY: a map value of `HELD_MAX` bytes.
        unsafe {
            if bpf_skb_change_tail(skb, scratch.ip.l4 as u32, 0) == 0
                && bpf_skb_change_tail(skb, n, 0) == 0
                && bpf_skb_store_bytes(skb, 0, (&raw const (*held).frame).cast(), n, 0) == 0
            {
                made = ifindex as i32;
            }
        }
    }
    let _ = HELD.remove(&key);
    made
}

/// Keeps a later fragment until the first one has gone its way; its number, or -1 where there is no
/// room for it.
#[inline(always)]
fn hold(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let Some(buffer) = spare() else { return -1 };
    let Some(n) = size::<HELD_MAX>(Tc(skb).len()) else { return -1 };
    // SAFETY: a buffer of this CPU's that is larger and is not in use.
    let held = unsafe { (&raw mut (*buffer).data).cast::<Held>() };
    // SAFETY: as above; `n` is at most the frame's size.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*held).frame).cast(), n) != 0 {
            return -1;
        }
        ((*held).len, (*held).ifindex, (*held).seen) = (n, Tc(skb).ingress(), seconds(scratch));
    }
    for number in 0..limit::<{ HELD_FRAGMENTS as i32 }>() {
        let key = HeldKey { datagram: scratch.fragment, number };
        // SAFETY: as above; one word is read.
        let (taken, held) = unsafe { (HELD.get(&key).map(|other| other.seen), &*held) };
        let stale = |seen: u32| held.seen.wrapping_sub(seen) as i32 > LIFE as i32;
        if taken.is_none_or(stale) {
            return if HELD.insert(&key, held, 0).is_ok() { number as i32 } else { -1 };
        }
    }
    -1
}

/// Whether a fragment may be of a steered flow, by its addresses: to a VIP's or an inline pool's, or
/// from a backend's.
#[inline(always)]
fn may_be_ours(scratch: &Scratch) -> bool {
    let ip = &scratch.ip;
    let Some(head) = directory_head() else { return false };
    let stands = |address, bit| {
        listed(head, address, [0; 2]).is_some_and(|at| at.role == ROLE_ADDRESS && at.id & bit != 0)
    };
    ip.protocol == PROTOCOL_TCP
        && (stands(&ip.destination, ADDRESS_OF_VIP | ADDRESS_OF_MEMBER)
            || stands(&ip.source, ADDRESS_OF_BACKEND))
}

/// Where the first fragment of the datagram in `scratch.fragment` went, if it has gone.
#[inline(always)]
fn settled_fate(scratch: &mut Scratch) -> Option<&'static FragmentRoute> {
    fate(scratch).filter(|route| route.flags & FRAGMENTS_WAIT == 0)
}

/// Sends a later fragment where its first one went.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_later(skb: *mut __sk_buff) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if scratch.port.waits() {
        return pass(Counter::FragmentPassed);
    }
    set_key(scratch);
    let mut known = settled_fate(scratch);
    if known.is_none() {
        let number = if may_be_ours(scratch) { hold(skb, scratch) } else { -1 };
        if number < 0 {
            return pass(Counter::FragmentPassed);
        }
        // The first one may have gone its way on another CPU meanwhile, before it could see that
        // this one waits.
        known = settled_fate(scratch);
        if known.is_some() {
            let _ = HELD.remove(&HeldKey { datagram: scratch.fragment, number: number as u32 });
        }
    }
    let Some(route) = known else { return drop(Counter::FragmentHeld) };
    if route.flags & FRAGMENTS_PASS != 0 {
        return pass(Counter::FragmentPassed);
    }
    let hops = scratch.port.hops() as u16;
    if hops != 0 && scratch.ip.hop_limit <= 1 {
        return drop(Counter::HopLimit);
    }
    if set_tag_of(skb, &route.hop) != 0 {
        return drop(Counter::EmitFailed);
    }
    let hook = Tc(skb);
    let mut window = hook.window();
    let ip: &Ip = &scratch.ip;
    let Some(ethernet) = window.words_mut::<3>(0) else { return drop(Counter::Malformed) };
    *ethernet = route.hop.words();
    let source = route.flags & FRAGMENTS_FROM_BACKEND != 0;
    let new = route.address.words();
    if ip.v6 {
        let Some(h) = window.words_mut::<{ IPV6_LEN / 4 }>(ETHERNET_LEN) else {
            return drop(Counter::Malformed);
        };
        let word = (u32::from_be(h[1]) - hops as u32).to_be();
        let mut difference = replaced32(h[1], word);
        h[1] = word;
        let Some(h) = window.words_mut::<4>(ETHERNET_LEN + if source { 8 } else { 24 }) else {
            return drop(Counter::Malformed);
        };
        for i in 0..4 {
            difference += replaced32(h[i], new[i]);
            h[i] = new[i];
        }
        // No header checksum balances the change (IPv4 has one), and the TCP checksum is in the
        // first fragment.
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
        let less = ttl - (hops << 8);
        let difference = replaced32(old, new[3]) + replaced16(ttl.to_be(), less.to_be());
        h[2] = ((less as u32) << 16 | u16::from_be(update(sum.to_be(), difference)) as u32).to_be();
    }
    count(Counter::FragmentForwarded);
    scratch.redirect = route.hop.ifindex;
    Stage::Redirect
}

/// Enters the datagram's key into `scratch.fragment`.
#[inline(always)]
fn set_key(scratch: &mut Scratch) {
    let (ip, key): (&Ip, &mut FragmentKey) = (&scratch.ip, &mut scratch.fragment);
    key.source = ip.source;
    key.destination = ip.destination;
    key.id = ip.fragment_id;
}
