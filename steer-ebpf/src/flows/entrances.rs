//! Several VIPs that share one pool, the *entrances* of its flows.
//!
//! A backend's packet does not say which of them its client dialled. So the key of a flow has the
//! pool's number, whatever VIP it came by, and its record says which. A client that uses one port to
//! two of them has two flows: the second one's key tells the entrance ([`SERVICE_BESIDE`]), and it
//! has other ports at its backends, so that its answers are found by their legs.

use steer_common::{
    flow::{State, StateWord},
    shared::{FLOW_MADE, Flow, FlowKey, NO_BACKEND, NO_ENTRANCE, SWITCH_LEGS},
    wire::tcp::flags,
};

use crate::{
    flows::{stamps::idle, traces::find_trace},
    maps::{FLOWS, HANDSHAKES, SPLICES, switch},
    scratch::{Scratch, scratch},
};

/// Whose the usual key is of a client's address and port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// A flow's by the entrance that was dialled.
    Its,
    /// A flow's by another one.
    Others,
    Nobodys,
}

/// Makes `scratch.key` that of the client's flow by the entrance that it dialled, where it is the
/// key beside the usual one.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn choose_key() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let beside = FlowKey { service: scratch.key.service_beside(scratch.entrance), ..scratch.key };
    let usual = scratch.key.service;
    let takes = match whose(scratch) {
        Whose::Its => false,
        Whose::Others => true,
        // The other one is gone; a flow that began beside it stays where it is.
        Whose::Nobodys if switch(SWITCH_LEGS) => {
            is_known(&beside) || {
                scratch.key.service = beside.service;
                find_trace() as u16 != NO_BACKEND
            }
        }
        Whose::Nobodys => false,
    };
    scratch.key.service = if takes { beside.service } else { usual };
    takes as i32
}

fn is_known(key: &FlowKey) -> bool {
    // SAFETY: only asked whether they are there.
    unsafe {
        FLOWS.get(key).is_some() || SPLICES.get(key).is_some() || HANDSHAKES.get(key).is_some()
    }
}

#[inline(always)]
fn whose(scratch: &mut Scratch) -> Whose {
    /// A handshake that nobody answers is none, seconds.
    const PATIENCE: u32 = 10;
    let (entrance, syn) = (scratch.entrance, scratch.segment.any(flags::SYN));
    let timeout = scratch.vip.flow_timeout;
    // SAFETY: fields are read as words.
    let flow = unsafe { FLOWS.get(&scratch.key).or_else(|| SPLICES.get(&scratch.key)) };
    if let Some(flow) = flow {
        if flow.entrance() == entrance {
            return Whose::Its;
        }
        // One that is over claims no port; the next SYN-ACK replaces it.
        if !syn || !flow.closing() && idle(flow, scratch.seconds) <= timeout {
            return Whose::Others;
        }
    }
    // SAFETY: as above.
    if let Some(handshake) = unsafe { HANDSHAKES.get(&scratch.key) } {
        if handshake.entrance() == entrance {
            return Whose::Its;
        }
        let lasts = if is_adopted(handshake) { timeout } else { PATIENCE };
        if handshake.flags & FLOW_MADE == 0 && idle(handshake, scratch.seconds) <= lasts {
            return Whose::Others;
        }
        if !syn {
            let traced = find_trace() as u16 != NO_BACKEND;
            return if traced { Whose::Its } else { Whose::Others };
        }
    }
    if flow.is_none() && is_traced_to_another(scratch) { Whose::Others } else { Whose::Nobodys }
}

#[inline(always)]
fn is_adopted(handshake: &Flow) -> bool {
    StateWord(handshake.word).state() == State::Adopted
}

/// Whether a flow left a trace whose client came by another entrance.
#[inline(always)]
fn is_traced_to_another(scratch: &mut Scratch) -> bool {
    let entrance = scratch.entrance;
    scratch.entrance = NO_ENTRANCE;
    let any = find_trace() as u16 != NO_BACKEND;
    scratch.entrance = entrance;
    any && find_trace() as u16 == NO_BACKEND
}
