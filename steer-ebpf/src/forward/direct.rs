//! Packets of clients to a backend itself. They pass untouched, but where the client's port is
//! taken at that backend by a flow of a VIP: then the connection has another port there.

use steer_common::{counters::Counter, wire::tcp::flags};

use crate::{
    flows::{
        foreign::{self, at_backend},
        legs,
        table::remove,
        traces::{forget_syn_trace, forget_trace},
    },
    maps::{FLOWS, SPLICES, backend, count, vip_of},
    scratch::{Scratch, scratch},
    stage::{Stage, direct_plain, pass},
};

/// A packet to backend `scratch.backend` itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn direct_segment() -> Stage {
    let Some(scratch) = scratch() else { return Stage::Pass };
    let (id, bits) = (scratch.backend, scratch.segment.flags);
    if bits & (flags::FIN | flags::RST) != 0 {
        foreign::forget(&at_backend(scratch, id));
    }
    if let Some(leg) = legs::way_there(scratch, id, true) {
        if bits & (flags::SYN | flags::FIN | flags::RST) != 0 {
            let own = u16::from_ne_bytes(scratch.key.client_port);
            legs::record_direct_end(id, own as u32, u16::from_ne_bytes(leg.port) as u32);
        }
        scratch.first_port = leg.port;
        return direct_plain(scratch, id);
    }
    if bits & (flags::SYN | flags::ACK) == flags::SYN {
        return syn(scratch, id);
    }
    pass(Counter::NotOurs)
}

/// A SYN: the connection is remembered, so that nobody else is given its port. A flow of the VIP
/// that ended on the same addresses is over.
#[inline(always)]
fn syn(scratch: &mut Scratch, id: u32) -> Stage {
    let Some(vip) = backend(id).and_then(vip_of) else { return Stage::Pass };
    // SAFETY: a map value, copied at once.
    scratch.vip = unsafe { *vip };
    count(Counter::DirectAccess);
    scratch.first_port = [0; 2];
    if legs::is_a_flows(scratch, id) || legs::has(&at_backend(scratch, id)) {
        if legs::take_direct_leg(id) == 0 {
            return Stage::Pass;
        }
        if let Some(leg) = legs::way_there(scratch, id, true) {
            scratch.first_port = leg.port;
        }
        return direct_plain(scratch, id);
    }
    // SAFETY: fields are read as words.
    let flow = unsafe { FLOWS.get(&scratch.key).or_else(|| SPLICES.get(&scratch.key)) };
    if flow.is_some_and(|flow| flow.closing() && flow.holder() as u32 == id) {
        remove(scratch);
        let _ = SPLICES.remove(&scratch.key);
        forget_trace();
    }
    foreign::remember(&at_backend(scratch, id), scratch.seconds);
    forget_syn_trace();
    Stage::Pass
}
