//! A client's packet of a flow that is not settled: SYNs, first acknowledgements, and the data that decides.

use core::ptr::null_mut;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use steer_common::{
    counters::Counter,
    decide::slot,
    flow::{State, Word},
    rehome::{self, ClientAct},
    shared::{
        BACKEND_PRESENT, BACKEND_UP, FLOW_ACK_SWALLOWED, FLOW_CLOSED, FLOW_COLLIDED, FLOW_LEARNED, FLOW_MADE,
        FLOW_RESET, Flow, NO_BACKEND, SWITCH_LEAVE, SWITCH_RESIZING, VIP_OBSERVE, VIP_RETURN_BY_ROUTE, VIP_SWALLOW,
        options,
    },
    wire::{
        ip::Part,
        tcp::{Segment, flags},
        tls::server_flight::Follow,
    },
};

use crate::{
    certificate::hear_answer,
    foreign,
    hook::tc::Tc,
    legs::{self, take_leg},
    lock::{self, mark, unlock},
    maps::{
        FLOWS, Facts, HANDSHAKES, LOOKUP, PENDING, Piece, Reset, SETTINGS, SPLICES, Scratch, backend, count,
        count_backend, count_index, scratch, switch,
    },
    next::{self, drop, pass},
    options::read_options,
    rehome::first_data,
    stamps::{comes_by, idle, note_end, note_hop},
    sums::is_sound,
    traces::{enter_syn_trace, enter_trace, find_syn_trace, find_trace, forget_syn_trace, forget_trace, restore},
};

/// A SYN: the same first backend for a repeated one, the holder for a known flow, else as the lookup table says.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn client_syn(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    if scratch.facts.flags & (flags::ACK | flags::RST | flags::FIN) != 0 {
        return no_flow(scratch);
    }
    if let Some(id) = holder(scratch) {
        count(Counter::SynKnownFlow);
        return on_known(skb, scratch, id);
    }
    if switch(SWITCH_LEAVE) && !is_of_handshake(scratch) {
        return pass(Counter::Left);
    }
    prepare_offer(skb, scratch);
    let first = match repeated(scratch) {
        Repeated::At(id) => {
            count(Counter::SynRepeated);
            count_backend(id as u32, |stats| stats.syns += 1);
            return next::PLAIN | id as i32;
        }
        // Another handshake with these addresses is on its way: whichever is the client's, both can go on.
        Repeated::Other(id) => {
            count(Counter::SynKnownFlow);
            return next::PLAIN | id as i32;
        }
        Repeated::No => lookup(scratch),
    };
    if first == NO_BACKEND {
        return drop(Counter::NoBackend);
    }
    if collided(scratch, first) {
        // Where there is none its own has to do: whose record says that it is taken may be gone.
        let port = take_leg(first as u32, scratch.key.service as u32, scratch.facts.seq) as u16;
        scratch.first_port = port.to_ne_bytes();
    }
    count(Counter::Syn);
    count_backend(first as u32, |stats| stats.syns += 1);
    remember(skb, scratch, first);
    if leaves_syn_traces(scratch) {
        enter_syn_trace(first as u32);
    }
    next::PLAIN | first as i32
}

/// Reads what the SYN offers. Where the flow may move, what would keep it from moving is taken out.
#[inline(always)]
fn prepare_offer(skb: *mut __sk_buff, scratch: &mut Scratch) {
    let observes = scratch.vip.flags & VIP_OBSERVE != 0;
    let read = read_options(skb, 0);
    if read == 0 && !observes && scratch.offer.cleared != 0 && scratch.offer.options & options::SIGNED == 0 {
        read_options(skb, 1);
    }
    if scratch.facts.accurate_ecn != 0 && !observes {
        clear_accurate_ecn(skb, &scratch.facts);
    }
}

/// Whether this very SYN was seen before.
#[inline(always)]
fn is_of_handshake(scratch: &Scratch) -> bool {
    // SAFETY: one word is read.
    let known = unsafe { HANDSHAKES.get(&scratch.key) };
    known.is_some_and(|known| Word(known.word).isn() == scratch.facts.seq)
}

/// What is known of a SYN from one before.
enum Repeated {
    /// The same one went to this backend, which is still up.
    At(u16),
    /// Another one did, and was answered a moment ago.
    Other(u16),
    No,
}

/// Whether a SYN of these addresses was seen before. One with another number is an attacker's or the next connection's: it
/// must not take the place of a handshake that its client is about to complete.
#[inline(always)]
fn repeated(scratch: &mut Scratch) -> Repeated {
    /// Seconds within which a client acknowledges what it got.
    const PATIENCE: u32 = 2;
    // SAFETY: the fields are read at once.
    let Some(known) = (unsafe { HANDSHAKES.get(&scratch.key) }) else { return Repeated::No };
    let (word, first, port, bits) = (Word(known.word), known.first, known.first_port, known.flags);
    let fresh = idle(known, scratch.facts.seconds) <= PATIENCE;
    if !is_up(first) || bits & FLOW_COLLIDED != 0 {
        return Repeated::No;
    }
    match word.state() {
        State::Syn | State::SynAck if word.isn() == scratch.facts.seq => {
            scratch.first_port = port;
            Repeated::At(first)
        }
        State::SynAck if fresh && bits & FLOW_MADE == 0 => {
            scratch.first_port = port;
            Repeated::Other(first)
        }
        _ => Repeated::No,
    }
}

/// Whether the client's port is taken at a backend: by a connection that is known, or by one that the backend answered for
/// when the SYN came first.
#[inline(always)]
fn collided(scratch: &Scratch, first: u16) -> bool {
    // SAFETY: one word is read.
    let answered = unsafe { HANDSHAKES.get(&scratch.key) }
        .is_some_and(|known| known.flags & FLOW_COLLIDED != 0 && known.first == first);
    answered || legs::is_taken(scratch, first as u32)
}

/// A SYN on a known live flow goes to the backend that has it, and is remembered in case that one takes it for a new one.
#[inline(always)]
fn on_known(skb: *mut __sk_buff, scratch: &mut Scratch, id: u16) -> i32 {
    prepare_offer(skb, scratch);
    if let Repeated::No = repeated(scratch) {
        // SAFETY: the fields are read at once.
        let flow = unsafe { FLOWS.get(&scratch.key).or_else(|| SPLICES.get(&scratch.key)) };
        scratch.first_port = flow.map_or([0; 2], |flow| flow.port_at_holder());
        count(Counter::Syn);
        remember(skb, scratch, id);
    }
    next::PLAIN | id as i32
}

/// The backend that holds a live flow of these addresses: a SYN must not move it, whoever sent it. A flow that both sides
/// ended is not live: its ports are free for the next one, which goes where the lookup table says today.
#[inline(always)]
fn holder(scratch: &Scratch) -> Option<u16> {
    // SAFETY: the fields are read at once.
    let id = match unsafe { FLOWS.get(&scratch.key).or_else(|| SPLICES.get(&scratch.key)) } {
        Some(flow) => {
            let live = !flow.closing() && idle(flow, scratch.facts.seconds) <= scratch.vip.flow_timeout;
            if live { flow.holder() } else { NO_BACKEND }
        }
        None => find_trace() as u16,
    };
    (id != NO_BACKEND && is_up(id)).then_some(id)
}

#[inline(always)]
pub(crate) fn is_up(id: u16) -> bool {
    const UP: u16 = BACKEND_PRESENT | BACKEND_UP;
    backend(id as u32).is_some_and(|b| b.flags & UP == UP)
}

/// The backend that the VIP's lookup table names for the client.
#[inline(always)]
pub(crate) fn lookup(scratch: &Scratch) -> u16 {
    let slot = slot(&scratch.vip, &scratch.key.client, scratch.key.client_port);
    LOOKUP.get(scratch.vip.lookup_base.wrapping_add(slot)).copied().unwrap_or(NO_BACKEND)
}

/// Clears the request for AccECN (the AE bit): the servers then agree on classic ECN, which can be compared.
#[inline(always)]
fn clear_accurate_ecn(skb: *mut __sk_buff, facts: &Facts) {
    let at = facts.l4 + 12;
    let mut bytes = [0u8; 2];
    // SAFETY: two bytes of the stack.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), at, (&raw mut bytes).cast(), 2) != 0 {
            return;
        }
        let old = u16::from_ne_bytes(bytes);
        bytes[0] &= !1;
        let new = u16::from_ne_bytes(bytes);
        if bpf_skb_store_bytes(skb, at, (&raw const bytes).cast(), 2, 0) == 0 {
            let difference = steer_common::checksum::replaced16(old, new);
            Tc(skb).replace_sums(facts.l4 as usize + 16, facts.v6 != 0, 0, difference);
        }
    }
}

/// Remembers what the SYN offers.
#[inline(always)]
fn remember(skb: *mut __sk_buff, scratch: &mut Scratch, first: u16) {
    const ECN_SETUP: u8 = flags::ECE | flags::CWR;
    let (facts, offer) = (&scratch.facts, &scratch.offer);
    let ecn = if facts.flags & ECN_SETUP == ECN_SETUP { options::ECN } else { 0 };
    let flow = &mut scratch.flow;
    *flow = Flow::default();
    flow.word = Word::new(State::Syn, facts.seq).0;
    flow.first = first;
    flow.owner = first;
    flow.seen = facts.seconds;
    flow.client_ts = offer.ts;
    flow.syn_window = facts.window;
    flow.client_mss = offer.mss;
    flow.client_scale = offer.scale;
    flow.offered = offer.options | ecn;
    flow.first_port = scratch.first_port;
    if scratch.vip.flags & VIP_RETURN_BY_ROUTE == 0 {
        note_hop(&Tc(skb), &mut flow.client_hop);
    }
    // A full table forgets its oldest; the client then gets plain layer 4.
    let _ = HANDSHAKES.insert(&scratch.key, &*flow, 0);
}

/// A packet to a VIP of which nothing is known. While connections may live that are older than the gateway it is one of
/// theirs, remembered and passed; and so it is where the gateway only looks, or is being left. Else it goes where the lookup
/// table says and is remembered, so that what is answered is known.
#[inline(always)]
fn no_flow(scratch: &mut Scratch) -> i32 {
    let ends = scratch.facts.flags & flags::RST != 0;
    if !taking_over(scratch) {
        let older = is_young(scratch);
        if older && !ends {
            foreign::remember(&scratch.key, scratch.facts.seconds);
        }
        if older || scratch.vip.flags & VIP_OBSERVE != 0 || switch(SWITCH_LEAVE) {
            return pass(Counter::ForeignPassed);
        }
    }
    let id = lookup(scratch);
    if id == NO_BACKEND {
        return drop(Counter::NoBackend);
    }
    count(Counter::NoFlowForwarded);
    if !ends {
        adopt(scratch, id);
    }
    next::PLAIN | id as i32
}

/// Whether connections to the VIP that are older than the gateway may live: one that says nothing for as long as a flow may
/// be idle is gone.
#[inline(always)]
fn is_young(scratch: &Scratch) -> bool {
    let vip = &scratch.vip;
    vip.since != 0 && (scratch.facts.seconds.wrapping_sub(vip.since) as i32) <= vip.flow_timeout as i32
}

/// Whether a handshake's record alone does not tell a connection of this gateway from another: while older ones may live, or
/// while the interface that the other side's packets come by may have other tables.
#[inline(always)]
pub(crate) fn leaves_syn_traces(scratch: &Scratch) -> bool {
    is_young(scratch) || switch(SWITCH_RESIZING)
}

/// Whether the operator said that this gateway takes over the flows of another one, and that time is not up.
#[inline(always)]
pub(crate) fn taking_over(scratch: &Scratch) -> bool {
    let until = SETTINGS.get(0).map_or(0, |settings| settings.takeover_until);
    until != 0 && (until.wrapping_sub(scratch.facts.seconds) as i32) > 0
}

/// Remembers the flow in `scratch.key` as one that went to a backend, and of which nothing else is known. Its place is
/// among handshakes, which anybody can fill.
#[inline(always)]
fn adopt(scratch: &mut Scratch, first: u16) {
    let (seconds, flow) = (scratch.facts.seconds, &mut scratch.flow);
    *flow = Flow::default();
    flow.word = Word::new(State::Adopted, 0).0;
    flow.first = first;
    flow.owner = first;
    flow.seen = seconds;
    let _ = HANDSHAKES.insert(&scratch.key, &*flow, 0);
}

/// Any other segment of a client.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn client_segment(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    let was = flow;
    let mut flow = known(scratch, was);
    if flow.is_null() {
        flow = match unknown(scratch) {
            Ok(flow) => flow,
            Err(said) => return said,
        };
    }
    let fresh = if flow == was { 0 } else { next::FRESH };
    scratch.held = lock::read(flow).isn();
    let Some(state) = State::from_number(lock::lock(flow) as u8) else { return drop(Counter::FlowBusy) };
    if !matches!(state, State::First | State::Spliced) {
        return held(scratch, skb, flow, state) | fresh;
    }
    unlock(flow, state);
    next::SETTLED | fresh
}

/// What else a client's packet says of its settled flow: an end, the client's certificate or its second hello, another way
/// back to it. 1 where the segment may be the client's second hello.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn settled_client(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a map value.
    let record = unsafe { &mut *flow };
    if scratch.facts.flags & (flags::FIN | flags::RST) != 0 {
        note_end(skb, flow);
    }
    let carries = scratch.facts.payload_len != 0 || scratch.ip.part != Part::Whole;
    let mut again = 0;
    if carries && record.flags & FLOW_LEARNED == 0 {
        again = hear_answer(skb, flow);
    }
    let moved = scratch.facts.seq == record.client_next && !comes_by(&Tc(skb), record);
    if moved && is_sound(skb) != 0 {
        note_hop(&Tc(skb), &mut record.client_hop);
    }
    again
}

/// A client's packet whose flow has no record: one is made where it completes a handshake, or where a trace is left of the
/// flow. `Err` says what else becomes of the packet.
#[inline(always)]
fn unknown(scratch: &mut Scratch) -> Result<*mut Flow, i32> {
    let handshake = HANDSHAKES.get_ptr_mut(&scratch.key);
    if let Some(handshake) = handshake
        && let Some(made) = establish(scratch, handshake)
    {
        return made;
    }
    if foreign::is_known(&scratch.key, scratch.facts.seconds, scratch.vip.flow_timeout) {
        if scratch.facts.flags & flags::RST != 0 {
            foreign::forget(&scratch.key);
        }
        return Err(pass(Counter::ForeignPassed));
    }
    let first = find_trace() as u16;
    if first != NO_BACKEND {
        return restore(scratch, first).ok_or(next::PLAIN | first as i32);
    }
    let Some(handshake) = handshake else {
        if leaves_syn_traces(scratch) && scratch.facts.flags & flags::RST == 0 {
            let first = find_syn_trace() as u16;
            if first != NO_BACKEND {
                count(Counter::NoFlowForwarded);
                adopt(scratch, first);
                return Err(next::PLAIN | first as i32);
            }
        }
        return Err(no_flow(scratch));
    };
    // SAFETY: a map value; a lost race costs one stamp.
    let handshake = unsafe { &mut *handshake };
    scratch.first_port = handshake.first_port;
    if Word(handshake.word).state() != State::Adopted {
        count(Counter::HandshakeMismatch);
    }
    handshake.seen = scratch.facts.seconds;
    Err(next::PLAIN | handshake.first as i32)
}

/// The flow's record, `flow` where `flows` has it; where only `splices` has it, it is put back into `flows`. Null where
/// nobody has it.
#[inline(always)]
pub(crate) fn known(scratch: &mut Scratch, flow: *mut Flow) -> *mut Flow {
    if !flow.is_null() {
        // SAFETY: a whole map value.
        if idle(unsafe { &*flow }, scratch.facts.seconds) <= scratch.vip.flow_timeout {
            return flow;
        }
        let _ = FLOWS.remove(&scratch.key);
        let _ = SPLICES.remove(&scratch.key);
        return null_mut();
    }
    let Some(kept) = SPLICES.get_ptr_mut(&scratch.key) else { return null_mut() };
    // SAFETY: map values of the same type.
    unsafe {
        (*kept).seen = scratch.facts.seconds;
        if FLOWS.insert(&scratch.key, &*kept, 0).is_err() {
            return null_mut();
        }
    }
    FLOWS.get_ptr_mut(&scratch.key).unwrap_or(null_mut())
}

/// Makes a flow of a handshake whose first backend this segment acknowledges, `None` where it does not; `Err` says what
/// becomes of the packet.
#[inline(always)]
fn establish(scratch: &mut Scratch, known: *mut Flow) -> Option<Result<*mut Flow, i32>> {
    /// A first segment further ahead than any window without scale is not of this handshake, bytes.
    const REACH: u32 = u16::MAX as u32;
    // SAFETY: a map value; copied at once.
    unsafe { copy_flow(&mut scratch.flow, known) };
    let (facts, flow) = (&scratch.facts, &mut scratch.flow);
    let isn = Word(flow.word).isn();
    // A keepalive stands one before the first byte.
    let ahead = facts.seq.wrapping_sub(isn);
    if Word(flow.word).state() != State::SynAck
        || facts.flags & flags::ACK == 0
        || facts.flags & flags::RST != 0
        || facts.ack != flow.first_isn.wrapping_add(1)
        || ahead > REACH
    {
        return None;
    }
    let bare = facts.payload_len == 0 && facts.flags & flags::FIN == 0;
    if bare && scratch.vip.flags & VIP_SWALLOW != 0 && flow.flags & FLOW_ACK_SWALLOWED == 0 {
        // SAFETY: as above; a lost race swallows another bare acknowledgement.
        unsafe { (*known).flags |= FLOW_ACK_SWALLOWED };
        count(Counter::AckSwallowed);
        return Some(Err(next::DROP));
    }
    // What a handshake was marked with is not the flow's: a refused SYN, say, ends no connection.
    flow.flags = 0;
    flow.word = Word::new(State::Established, isn).0;
    flow.seen = facts.seconds;
    flow.client_next = isn.wrapping_add(1);
    flow.server_next = flow.first_isn.wrapping_add(1);
    flow.follow = Follow::new(flow.server_next);
    let first = flow.first;
    // Where two CPUs race, one inserts and both go on with what is there.
    const ONLY_NEW: u64 = 1;
    if FLOWS.insert(&scratch.key, &*flow, ONLY_NEW).is_ok() {
        mark(known, FLOW_MADE);
        count(Counter::FlowEstablished);
        count_backend(first as u32, |stats| stats.flows += 1);
        enter_trace(first as u32);
        foreign::forget(&scratch.key);
        if leaves_syn_traces(scratch) {
            forget_syn_trace();
        }
    }
    Some(FLOWS.get_ptr_mut(&scratch.key).ok_or(next::PLAIN | first as i32))
}

/// Copies a flow's record word by word: as one assignment it would pass through the stack.
///
/// # Safety
///
/// Both point to whole records.
#[inline(always)]
pub(crate) unsafe fn copy_flow(to: *mut Flow, from: *const Flow) {
    const WORDS: usize = size_of::<Flow>() / 8;
    // SAFETY: the caller vouches for both; the type is a multiple of eight bytes and so aligned.
    unsafe {
        let (to, from) = (to.cast::<u64>(), from.cast::<u64>());
        for i in 0..WORDS {
            to.add(i).write_volatile(from.add(i).read_volatile());
        }
    }
}

/// A segment on an established, gathering or waiting flow, which this CPU holds; unlocks it unless the data is to be
/// dealt with.
#[inline(always)]
fn held(scratch: *mut Scratch, skb: *mut __sk_buff, flow: *mut Flow, state: State) -> i32 {
    // SAFETY: the caller's.
    let scratch = unsafe { &mut *scratch };
    let segment = segment(&scratch.facts);
    let buffer = if state == State::Established { None } else { PENDING.get_ptr_mut(&scratch.key) };
    // SAFETY: a map value; the flow is locked.
    let highest = buffer.map_or(0, |buffer| steer_common::ranges::highest(unsafe { &(*buffer).ranges }));
    // SAFETY: a map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    let expected = Word(record.word).isn().wrapping_add(1);
    match rehome::client(record, state, &segment, scratch.facts.ip_options != 0, highest) {
        ClientAct::Forward => {
            unlock(flow, state);
            next::FORWARD
        }
        ClientAct::Drop(reason) => {
            unlock(flow, state);
            drop(reason)
        }
        ClientAct::Settle(reason) => {
            settle(flow);
            count_index(reason as u32);
            if state == State::Established { next::FORWARD } else { next::FLUSH }
        }
        ClientAct::Reset => {
            mark(flow, FLOW_RESET | FLOW_CLOSED);
            scratch.reset = Reset { backend: record.first as u32, seq: expected };
            settle(flow);
            forget(scratch);
            forget_trace();
            count(Counter::WaitReset);
            next::RESET
        }
        ClientAct::Data(data) => {
            let from = scratch.facts.l4 + scratch.facts.header_len + data.skip;
            scratch.piece = Piece { offset: data.offset, from, len: data.len, state: state as u32, ..Piece::default() };
            if state == State::Established { first_data(scratch, skb, flow) } else { next::DATA }
        }
    }
}

/// Forgets what was kept of a flow for the case that it moves.
#[inline(always)]
pub(crate) fn forget(scratch: &Scratch) {
    let _ = PENDING.remove(&scratch.key);
    let _ = SPLICES.remove(&scratch.key);
}

/// The first backend gets a flow that this CPU holds, for good.
#[inline(always)]
pub(crate) fn settle(flow: *mut Flow) {
    unlock(flow, State::First);
}

/// The packet at hand as the state machine wants it.
#[inline(always)]
pub(crate) fn segment(facts: &Facts) -> Segment {
    Segment {
        source_port: [0; 2],
        destination_port: [0; 2],
        seq: facts.seq,
        ack: facts.ack,
        window: facts.window,
        flags: facts.flags,
        accurate_ecn: facts.accurate_ecn != 0,
        header_len: facts.header_len as usize,
        payload_len: facts.payload_len as usize,
    }
}

/// Marks a settled flow as one from which nothing is learned.
#[inline(always)]
pub(crate) fn nothing_to_learn(flow: *mut Flow) {
    mark(flow, FLOW_LEARNED);
}
