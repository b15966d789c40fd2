//! Ports that are taken at a backend, and the ports that connections have there instead
//! ([`steer_common::legs`]).

use steer_common::{
    counters::Counter,
    flow::{Direction, StateWord},
    legs::{TRIES, candidate},
    shared::{
        FLOW_MADE, FlowKey, LEG_BACKEND_ENDED, LEG_CLIENT_ENDED, LEG_ENDED, Leg, SERVICE_BACKEND,
        SERVICE_WAY_THERE, SWITCH_LEGS,
    },
    wire::tcp::flags,
};

use crate::{
    flows::{foreign, stamps::idle, traces::find_trace},
    maps::{FLOWS, HANDSHAKES, LEGS, SPLICES, count, set_switch, switch},
    scratch::{Scratch, scratch},
    verifier::limit,
};

/// The leg under which a backend knows a connection of the client in `scratch.key`, whose port is
/// the one at the backend.
#[inline(always)]
pub(crate) fn find(scratch: &Scratch, id: u32) -> Option<Leg> {
    if !switch(SWITCH_LEGS) {
        return None;
    }
    stamped(&foreign::at_backend(scratch, id), scratch.seconds)
}

/// The port at a backend of the connection of the client in `scratch.key` that has another one
/// there than the client's own. `direct` says whether the client dialled the backend itself.
#[inline(always)]
pub(crate) fn way_there(scratch: &Scratch, id: u32, direct: bool) -> Option<Leg> {
    if !switch(SWITCH_LEGS) {
        return None;
    }
    let mut key = foreign::at_backend(scratch, id);
    key.service |= SERVICE_WAY_THERE;
    stamped(&key, scratch.seconds).filter(|leg| {
        // Another flow from the same port may have one, too, to another VIP of the pool.
        is_direct(scratch, leg) == direct && (direct || leg.flow_service() == scratch.key.service)
    })
}

/// A packet of backend `id` in an inline pool: where that is not what its flow's client dialled, or
/// knows the client by another port, `scratch.key` becomes the flow's, and `scratch.first_port` the
/// port there.
#[inline(always)]
pub(crate) fn resolve(scratch: &mut Scratch, id: u32) {
    if scratch.key.dialled().is_some()
        && let Some(leg) = find(scratch, id)
    {
        if leg.port != scratch.key.client_port {
            scratch.first_port = scratch.key.client_port;
        }
        follow(scratch, &leg);
    }
}

/// Whether a leg is of a connection that its client dialled to a backend itself, beside a VIP: none
/// of the flow's that `scratch.key` is of. In an inline pool all are flows.
#[inline(always)]
pub(crate) fn is_direct(scratch: &Scratch, leg: &Leg) -> bool {
    leg.service & SERVICE_BACKEND != 0 && scratch.key.dialled().is_none()
}

/// Makes `scratch.key` that of the flow whose leg it is.
#[inline(always)]
pub(crate) fn follow(scratch: &mut Scratch, leg: &Leg) {
    scratch.key.client_port = leg.port;
    if !is_direct(scratch, leg) {
        scratch.key.service = leg.flow_service();
        scratch.entrance = leg.entrance();
    }
}

#[inline(always)]
fn stamped(key: &FlowKey, seconds: u32) -> Option<Leg> {
    let leg = LEGS.get_ptr_mut(key)?;
    // SAFETY: a map value; one word is written, and a lost race costs one stamp.
    unsafe {
        if (*leg).seen != seconds {
            (*leg).seen = seconds;
        }
        Some(*leg)
    }
}

/// Whether a connection has the port of this key at its backend instead of its own.
#[inline(always)]
pub(crate) fn has(key: &FlowKey) -> bool {
    // SAFETY: only asked whether it is there.
    switch(SWITCH_LEGS) && unsafe { LEGS.get(key) }.is_some()
}

/// Whether another connection than the flow in `scratch.key` has the client's own port at a
/// backend.
#[inline(always)]
pub(crate) fn is_taken(scratch: &mut Scratch, id: u32) -> bool {
    let key = foreign::at_backend(scratch, id);
    let (seconds, timeout) = (scratch.seconds, scratch.vip.flow_timeout);
    if has(&key) {
        return true;
    }
    let service = scratch.key.service;
    if service == key.service {
        return false;
    }
    // Answers to the client's own port are looked for under the usual key.
    if scratch.key.is_beside() {
        return true;
    }
    if foreign::is_there(&key, seconds, timeout) {
        return true;
    }
    if scratch.key.dialled().is_none() {
        return false;
    }
    // A flow that dialled that backend itself.
    scratch.key.service = key.service;
    let taken = is_a_flows(scratch, id);
    scratch.key.service = service;
    taken
}

/// The flow in `scratch.key`, of an inline pool, goes to a backend that it did not dial, with its
/// client's own port: false where that is not possible.
#[inline(always)]
pub(crate) fn hold(scratch: &Scratch, id: u32) -> bool {
    const ONLY_NEW: u64 = 1;
    set_switch(SWITCH_LEGS);
    let key = &scratch.key;
    let leg = Leg { seen: scratch.seconds, port: key.client_port, service: key.service };
    LEGS.insert(&foreign::at_backend(scratch, id), &leg, ONLY_NEW).is_ok()
}

/// Undoes [`hold`]: another connection has the port there.
#[inline(always)]
pub(crate) fn release(scratch: &Scratch, id: u32) {
    if scratch.key.dialled().is_some() {
        let _ = LEGS.remove(&foreign::at_backend(scratch, id));
    }
}

/// Whether the flow in `scratch.key` has the port of its client at a backend; what the key says was
/// dialled is a VIP, or that backend.
#[inline(always)]
pub(crate) fn is_a_flows(scratch: &Scratch, id: u32) -> bool {
    // SAFETY: fields are read as words.
    let flow = unsafe { FLOWS.get(&scratch.key).or_else(|| SPLICES.get(&scratch.key)) };
    if let Some(flow) = flow {
        let at_first =
            flow.first as u32 == id && flow.first_port == [0; 2] && flow.holder() == flow.first;
        let at_owner = flow.owner as u32 == id && flow.owner_port == [0; 2];
        // A backend that closed first keeps the port for TIME_WAIT (RFC 9293 3.6.1; Linux: 60 s). It
        // may refuse another SYN there, so nobody is moved onto it; who dialled it anyhow is not
        // kept from it.
        const TIME_WAIT: u32 = 61;
        let lasts = match (flow.closing(), scratch.key.dialled()) {
            (false, _) => scratch.vip.flow_timeout,
            (true, Some(_)) => TIME_WAIT,
            (true, None) => 0,
        };
        let live = lasts != 0 && idle(flow, scratch.seconds) <= lasts;
        if live && (at_first || at_owner) {
            return true;
        }
    }
    if flow.is_none() && find_trace() as u32 == id {
        return true;
    }
    /// A handshake that nobody answers is none, seconds.
    const PATIENCE: u32 = 10;
    // SAFETY: as above.
    let handshake = unsafe { HANDSHAKES.get(&scratch.key) };
    handshake.is_some_and(|handshake| {
        handshake.first as u32 == id
            && handshake.first_port == [0; 2]
            && handshake.flags & FLOW_MADE == 0
            && flow.is_none_or(|flow| StateWord(flow.word).isn() != StateWord(handshake.word).isn())
            && idle(handshake, scratch.seconds) <= PATIENCE
    })
}

/// Gives a connection of the client in `scratch.key` a port at a backend. `service` is what the
/// client dialled, with its entrance ([`service`]), `number` what tells its connections apart. The port as it stands in memory, or 0
/// where none was free.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn take_leg(id: u32, service: u32, number: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    set_switch(SWITCH_LEGS);
    for attempt in 0..limit::<{ TRIES as i32 }>() {
        let port = u16::from_ne_bytes(candidate(&scratch.key, number, attempt)) as u32;
        if take_port(id, service, port) != 0 {
            count(Counter::LegTranslated);
            return port;
        }
    }
    count(Counter::LegCollided);
    0
}

/// Gives a connection this port at a backend, as [`take_leg`] has it; 0 where it is not free. By
/// itself, so that a try is verified once, not as often as is tried.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_port(id: u32, service: u32, port: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    const ONLY_NEW: u64 = 1;
    let leg = Leg { seen: scratch.seconds, port: scratch.key.client_port, service: service as u16 };
    let mut key = foreign::at_backend(scratch, id);
    key.client_port = (port as u16).to_ne_bytes();
    let of_flow = match scratch.key.dialled() {
        Some(_) => key,
        None => {
            FlowKey { client_port: key.client_port, service: scratch.key.pool(), ..scratch.key }
        }
    };
    // SAFETY: only asked whether they are there.
    let others = unsafe { FLOWS.get(&of_flow).is_some() || HANDSHAKES.get(&of_flow).is_some() };
    if others
        || foreign::is_there(&key, scratch.seconds, u32::MAX / 2)
        || LEGS.insert(&key, &leg, ONLY_NEW).is_err()
    {
        return 0;
    }
    // An inline pool's flow that is moved is never forgotten, so nobody asks for its way; of a VIP's
    // the way is entered when its client completed the handshake, so that SYNs alone leave nothing
    // that lasts.
    // SAFETY: only asked whether it is there.
    let made = unsafe { FLOWS.get(&scratch.key) }.is_some();
    let lasts = match scratch.key.dialled() {
        Some(dialled) => dialled as u32 == id,
        None => made || leg.service & SERVICE_BACKEND != 0,
    };
    if lasts {
        enter_way(scratch, id, &Leg { port: key.client_port, ..leg });
    }
    1
}

/// Enters which port the flow in `scratch.key`, which its client has made, has at its first backend,
/// where that is another one than its own.
#[inline(always)]
pub(crate) fn enter_way_of_first(scratch: &Scratch, id: u32, port: [u8; 2]) {
    if port != [0; 2] && scratch.key.dialled().is_none() {
        let service = service(scratch) as u16;
        enter_way(scratch, id, &Leg { seen: scratch.seconds, port, service });
    }
}

/// Enters the way there of a connection: its port at the backend, found by its own.
#[inline(always)]
fn enter_way(scratch: &Scratch, id: u32, leg: &Leg) {
    let mut there = foreign::at_backend(scratch, id);
    there.service |= SERVICE_WAY_THERE;
    // Of two that have other ports here it may be the other's already.
    // SAFETY: fields are read as half-words.
    let others = scratch.key.is_beside()
        && unsafe { LEGS.get(&there) }
            .is_some_and(|known| known.flow_service() != leg.flow_service());
    if !others {
        let _ = LEGS.insert(&there, leg, 0);
    }
}

/// What the client in `scratch.key` dialled, as [`take_leg`] wants it.
#[inline(always)]
pub(crate) fn service(scratch: &Scratch) -> u32 {
    scratch.key.service_of_leg(scratch.entrance) as u32
}

/// As [`take_leg`], for a connection that the client in `scratch.key` dials to a backend itself; 1
/// where it has a port.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn take_direct_leg(id: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let service = foreign::at_backend(scratch, id).service;
    (take_leg(id, service as u32, scratch.segment.seq) != 0) as i32
}

/// Notes the beginning or the end of a connection that the client in `scratch.key` dialled to a
/// backend itself, in both of its entries. `own` is the client's port, `there` the one at the
/// backend, both as they stand in memory. A lost race of two CPUs costs one bit: then the entries
/// age as those of an idle connection.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn record_direct_end(id: u32, own: u32, there: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let bits = scratch.segment.flags;
    let ended = match scratch.direction {
        Direction::ToClient if bits & flags::RST != 0 => LEG_ENDED,
        Direction::ToClient => LEG_BACKEND_ENDED,
        Direction::ToBackend => LEG_CLIENT_ENDED,
    };
    for (port, way) in [(there, 0), (own, SERVICE_WAY_THERE)] {
        let mut key = foreign::at_backend(scratch, id);
        key.service |= way;
        key.client_port = (port as u16).to_ne_bytes();
        if let Some(leg) = LEGS.get_ptr_mut(&key) {
            // SAFETY: a map value; a half-word.
            let service = unsafe { &mut (*leg).service };
            *service =
                if bits & flags::SYN != 0 { *service & !LEG_ENDED } else { *service | ended };
        }
    }
    0
}
