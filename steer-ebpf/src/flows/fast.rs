//! The cache of settled flows ([`steer_common::fast`]): found by their packets, entered from their
//! records, and taken back by whoever looks at a record.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg},
    ptr::null_mut,
};

use steer_common::{
    counters::Counter,
    fast::{
        BEHIND, HOP_PROBES, HOPS, OLD, QUIET, hop_place, is_held, is_hop, is_of, is_used,
        may_be_entered, pair, slot_of, take_back,
    },
    shared::{FastSlot, Flow, FlowKey, Hop, HopSlot},
    wire::tcp::flags,
};

use crate::{
    flows::{lock, stamps::advanced},
    maps::{FAST, FAST_SLOTS, FLOWS, HOP_SLOTS, SETTINGS, SPLICES, count},
    scratch::{Facts, Scratch, scratch},
    verifier::barrier,
};

/// A slot that was read; what it says of its flow is in `scratch.lent`.
#[derive(Clone, Copy)]
pub(crate) struct Lent {
    pub(crate) slot: *mut FastSlot,
    /// In `hops`.
    pub(crate) hop: *mut Hop,
}

/// Where the sender of a segment stands after it, as the slot is to have it.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) next: u32,
    /// Whether the segment is the furthest yet.
    pub(crate) new: bool,
    /// Whether the record has to hear of it.
    pub(crate) far: bool,
}

/// The slot of the flow in `scratch.key` that its record has lent, found by its client's packet or
/// (`to_client`) by its backend's.
#[inline(always)]
pub(crate) fn find(scratch: &mut Scratch, to_client: bool) -> Option<Lent> {
    let slots = slots();
    if slots == 0 {
        return None;
    }
    let first = pair(&scratch.key, SETTINGS.get(0)?.secret, slots);
    lent(FAST.get_ptr_mut(first)?, scratch, to_client)
        .or_else(|| lent(FAST.get_ptr_mut(first + 1)?, scratch, to_client))
}

/// What a slot says, if it is this flow's and nobody writes it meanwhile.
#[inline(always)]
fn lent(slot: *mut FastSlot, scratch: &mut Scratch, to_client: bool) -> Option<Lent> {
    let version = version(slot);
    barrier();
    // SAFETY: array elements live as long as the program; what is read is used only where the
    // version says that nobody wrote it meanwhile.
    let read = unsafe { &*slot };
    let key = &scratch.key;
    let its = if to_client { is_held(read, key) } else { is_of(read, key) };
    if version & 1 != 0 || !its || !is_used(read, scratch.way.seconds) {
        return None;
    }
    let hop = HOP_SLOTS.get_ptr_mut(read.hop as u32 & (HOPS - 1))?;
    // SAFETY: as above; an aligned word.
    let hop_version = unsafe { (&raw const (*hop).version).read_volatile() };
    scratch.lent = Facts {
        translation: read.translation,
        service: read.key.service,
        holder: read.holder,
        port: read.port,
    };
    let same_hop = hop_version as u16 == read.hop_version;
    barrier();
    // SAFETY: a field of it.
    let lent = Lent { slot, hop: unsafe { &raw mut (*hop).hop } };
    (same_hop && self::version(slot) == version).then_some(lent)
}

/// What a segment changes of its flow's numbers; `None` where it is nowhere near them.
#[inline(always)]
pub(crate) fn stamp(lent: Lent, scratch: &Scratch, to_client: bool) -> Option<Stamp> {
    let segment = &scratch.segment;
    // SAFETY: as in `lent`; two aligned words.
    let (client, server) = unsafe { ((*lent.slot).client_next, (*lent.slot).server_next) };
    let sent_to_client = server.wrapping_add(scratch.lent.translation.delta);
    let (next, sent_by_other) = if to_client { (server, client) } else { (client, sent_to_client) };
    let end = advanced(next, sent_by_other, segment)?;
    let far = (next ^ end) & !(BEHIND - 1) != 0;
    Some(Stamp { next: end, new: end != next, far })
}

/// As [`crate::flows::stamps::is_exact`].
#[inline(always)]
pub(crate) fn is_exact(lent: Lent, scratch: &Scratch) -> bool {
    let segment = &scratch.segment;
    // SAFETY: as in `lent`; two aligned words.
    let (client, server) = unsafe { ((*lent.slot).client_next, (*lent.slot).server_next) };
    segment.seq == client
        || (segment.any(flags::ACK)
            && segment.ack == server.wrapping_add(scratch.lent.translation.delta))
}

/// Whether the client was not heard for some time.
#[inline(always)]
pub(crate) fn is_quiet(lent: Lent, seconds: u32) -> bool {
    // SAFETY: as in `lent`; an aligned word.
    seconds.wrapping_sub(unsafe { (*lent.slot).heard }) as i32 > QUIET as i32
}

/// Enters what a segment changes.
#[inline(always)]
pub(crate) fn record(slot: *mut FastSlot, stamp: Stamp, to_client: bool, seconds: u32) {
    // SAFETY: an array's element; aligned words, and a lost race costs one stamp.
    let slot = unsafe { &mut *slot };
    if stamp.new {
        *(if to_client { &mut slot.server_next } else { &mut slot.client_next }) = stamp.next;
    }
    if slot.seen != seconds {
        // A table that forgets who is not used knows by look-ups alone who is: one every other
        // second. What it forgot all the same the next packet puts back, while its trace is fresh.
        if (slot.seen ^ seconds) & !1 != 0 && FLOWS.get_ptr(&slot.key).is_none() {
            slot.entered = OLD;
        }
        slot.seen = seconds;
    }
    if !to_client && slot.heard != seconds {
        slot.heard = seconds;
    }
    if stamp.far {
        slot.entered = OLD;
    }
}

/// Takes what a flow's slot has back into its record, which is about to be looked at (null: it has
/// none any more), and into its splice: the slot is empty then.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn take_back_fast(key: *const FlowKey, flow: *mut Flow) -> i32 {
    let (slots, false) = (slots(), key.is_null()) else { return 0 };
    let (Some(settings), true) = (SETTINGS.get(0), slots != 0) else { return 0 };
    // SAFETY: not null; whole values of the caller's.
    let key = unsafe { &*key };
    let first = pair(key, settings.secret, slots);
    for way in 0..2 {
        let Some(slot) = FAST.get_ptr_mut(first + way) else { return 0 };
        let version = version(slot);
        barrier();
        // SAFETY: array elements live as long as the program; what is read counts only where the
        // version says that nobody wrote it meanwhile.
        let read = unsafe { &*slot };
        if version & 1 != 0 || read.entered == 0 || !is_of(read, key) {
            continue;
        }
        let lent = *read;
        barrier();
        if self::version(slot) != version {
            continue;
        }
        give_back(slot, &lent, flow);
    }
    0
}

/// Empties a slot, whose flow's record (or null) and splice get what it knew.
#[inline(always)]
fn give_back(slot: *mut FastSlot, lent: &FastSlot, flow: *mut Flow) {
    // SAFETY: an array's element; an aligned word.
    unsafe { (*slot).entered = 0 };
    let Some(hop) = HOP_SLOTS.get_ptr(lent.hop as u32 & (HOPS - 1)) else { return };
    // SAFETY: as above; a lost race costs one question.
    let hop = unsafe { &*hop };
    if !flow.is_null() {
        // SAFETY: a whole map value; words, and a lost race costs one stamp.
        take_back(lent, unsafe { &mut *flow }, hop);
    }
    if lent.translation.spliced != 0 {
        // What the record tells its splice once a second, the slot told nobody.
        // SAFETY: the slot's key, in the map's memory.
        if let Some(splice) = SPLICES.get_ptr_mut(unsafe { &(*slot).key }) {
            // SAFETY: as above.
            take_back(lent, unsafe { &mut *splice }, hop);
        }
    }
}

/// Enters the settled flow in `scratch.key`, in place of nobody who uses a slot.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn enter_fast() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let (key, seconds) = (&scratch.key, scratch.way.seconds);
    let Some(flow) = FLOWS.get_ptr_mut(key) else { return 0 };
    // SAFETY: a map value; words, and a lost race costs one stamp.
    let flow = unsafe { &*flow };
    let (slots, Some(settings)) = (slots(), SETTINGS.get(0)) else { return 0 };
    let word = lock::read(flow);
    if slots == 0 || !may_be_entered(flow) || !word.is_settled() {
        return 0;
    }
    let Some(slot) = free_slot(pair(key, settings.secret, slots), key, seconds) else {
        count(Counter::FastFull);
        return 0;
    };
    let hop = hop_of(&flow.client_hop, seconds);
    let Some(hop_slot) = HOP_SLOTS.get_ptr(hop as u32) else {
        count(Counter::FastHopsFull);
        return 0;
    };
    let was = version(slot);
    if was & 1 != 0 || !begin(slot, was) {
        return 0;
    }
    // SAFETY: an array's element, which only this CPU writes while its version is odd.
    let before = unsafe { &*slot };
    if before.entered != 0 && !is_of(before, key) {
        if is_used(before, seconds) {
            end(slot, was.wrapping_add(2));
            return 0;
        }
        let others = FLOWS.get_ptr_mut(&before.key).unwrap_or(null_mut());
        give_back(slot, &{ *before }, others);
    }
    // SAFETY: an aligned word of an array's element.
    let hop_version = unsafe { (&raw const (*hop_slot).version).read_volatile() };
    let new = slot_of(key, flow, hop as u16, hop_version, seconds);
    // SAFETY: as above.
    unsafe { *slot = FastSlot { version: was.wrapping_add(1), ..new } };
    end(slot, was.wrapping_add(2));
    // Whoever changed the record before now has not seen the slot.
    let still = FLOWS.get_ptr_mut(key).is_some_and(|now| {
        // SAFETY: as above.
        let (now, hop) = unsafe { (&*now, &*hop_slot) };
        may_be_entered(now)
            && lock::read(now) == word
            && is_hop(hop, &now.client_hop)
            && hop.version == hop_version
            && hop_version & 1 == 0
    });
    if still {
        count(Counter::FastEntered);
    } else {
        // SAFETY: as above; an aligned word.
        unsafe { (*slot).entered = 0 };
    }
    0
}

/// A slot of the pair that is the flow's already, or that nobody uses.
#[inline(always)]
fn free_slot(first: u32, key: &FlowKey, seconds: u32) -> Option<*mut FastSlot> {
    let (one, other) = (FAST.get_ptr_mut(first)?, FAST.get_ptr_mut(first + 1)?);
    // SAFETY: array elements live as long as the program.
    let (a, b) = unsafe { (&*one, &*other) };
    if is_of(a, key) {
        Some(one)
    } else if is_of(b, key) || !is_used(b, seconds) {
        Some(other)
    } else if !is_used(a, seconds) {
        Some(one)
    } else {
        None
    }
}

/// The slot of a hop in `hops`, made where there is room; else a negative number.
#[inline(always)]
fn hop_of(hop: &Hop, seconds: u32) -> i32 {
    let Some(settings) = SETTINGS.get(0) else { return -1 };
    let own = hop_place(hop, settings.secret);
    let mut free = -1;
    for probe in 0..HOP_PROBES {
        let at = (own + probe) & (HOPS - 1);
        let Some(slot) = HOP_SLOTS.get_ptr_mut(at) else { return -1 };
        // SAFETY: array elements live as long as the program; a lost race costs one stamp.
        let slot = unsafe { &mut *slot };
        if is_hop(slot, hop) && slot.version & 1 == 0 {
            slot.used = seconds;
            return at as i32;
        }
        if free < 0 && is_hop_free(slot, seconds) {
            free = at as i32;
        }
    }
    let Some(slot) = HOP_SLOTS.get_ptr_mut(free as u32) else { return -1 };
    // SAFETY: as above.
    let version = unsafe { &raw mut (*slot).version };
    // SAFETY: an aligned word of an array's element.
    let was = unsafe { version.read_volatile() };
    if was & 1 != 0 || !swap(version, was) {
        return -1;
    }
    // SAFETY: only this CPU writes the slot while its version is odd.
    unsafe {
        (*slot).hop = *hop;
        (*slot).used = seconds;
        atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(version, was.wrapping_add(2));
    }
    free
}

/// Whether no flow that is entered goes by this hop.
#[inline(always)]
fn is_hop_free(slot: &HopSlot, seconds: u32) -> bool {
    // Another CPU may be a second ahead.
    let idle = seconds.wrapping_sub(slot.used) as i32;
    slot.hop.ifindex == 0 || idle > 2 * steer_common::fast::LIFE as i32
}

/// Whether there is a cache. Where there is none the kernel drops what stands behind this: the
/// number is a constant to it.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    slots() != 0
}

/// How many slots the map `fast` has.
#[inline(always)]
fn slots() -> u32 {
    // SAFETY: a constant that the loader writes before the programs are loaded.
    unsafe { (&raw const FAST_SLOTS).read_volatile() }
}

#[inline(always)]
fn version(slot: *const FastSlot) -> u32 {
    // SAFETY: an aligned word of an array's element.
    unsafe { (&raw const (*slot).version).read_volatile() }
}

/// Makes a slot's version odd; false where another CPU was faster.
#[inline(always)]
fn begin(slot: *mut FastSlot, was: u32) -> bool {
    // SAFETY: as above.
    swap(unsafe { &raw mut (*slot).version }, was)
}

#[inline(always)]
fn swap(version: *mut u32, was: u32) -> bool {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    // SAFETY: callers hold a pointer to an aligned word of an array's element.
    unsafe { atomic_cxchg::<u32, ORDER, ORDER>(version, was, was.wrapping_add(1)).1 }
}

/// Makes it even again; nothing written before is seen after it, nor the other way round.
#[inline(always)]
fn end(slot: *mut FastSlot, version: u32) {
    // SAFETY: as above.
    unsafe {
        atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(&raw mut (*slot).version, version);
    }
}
