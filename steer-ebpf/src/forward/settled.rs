//! The way of a packet of a settled flow: by what the cache of settled flows knows, or by its record.

use steer_common::{
    fast::LEAST_TIMEOUT,
    flow::Direction,
    shared::{
        FLOW_CLOSED, FLOW_LEARNED, FLOW_RIVALLED, Flow, HOP_TAKES_XDP, Hop, NO_BACKEND, swapped,
    },
    wire::{Packet as _, lower},
};

use crate::{
    flows::{
        fast, legs, lock,
        stamps::{comes_by, comes_by_hop, idle, is_exact},
        table,
    },
    forward::{
        deliver::{go_back_by, go_by},
        next_hop::unfinished,
    },
    hook::Hook,
    maps::{backend, backend_path},
    packet::read::Role,
    scratch::Scratch,
};

/// Enters the way of a packet of a flow that has a backend for good and from which nothing is to
/// be learned; of any other flow it enters the record. False where the packet is not such a one.
#[inline(always)]
pub(crate) fn settled_flow<H: Hook>(
    hook: &H,
    scratch: &mut Scratch,
    role: &Role,
    flow: &mut *mut Flow,
) -> bool {
    if fast_flow(hook, scratch, role) {
        return true;
    }
    if let Role::Server(id) = role {
        legs::resolve(scratch, *id);
    }
    *flow = table::find(scratch);
    if flow.is_null() {
        return false;
    }
    // SAFETY: a map value; each field is read and written as a word, and a lost race costs one
    // stamp.
    let record = unsafe { &mut **flow };
    if matches!(role, Role::Client(_)) && record.entrance() != scratch.entrance {
        return false;
    }
    let word = lock::read(record);
    const WANTED: u32 = FLOW_LEARNED | FLOW_CLOSED | FLOW_RIVALLED;
    if !word.is_settled() || record.flags & WANTED != FLOW_LEARNED {
        return false;
    }
    let (holder, port) = record.holding();
    scratch.way.id = holder as u32;
    let goes = match role {
        Role::Client(vip) => {
            scratch.way.client_port = port;
            // SAFETY: as above.
            let timeout = unsafe { (**vip).flow_timeout };
            let exact = is_exact(record, &scratch.segment);
            let known = (H::XDP || exact) && comes_by(hook, record);
            scratch.way.enters = exact && known && timeout >= LEAST_TIMEOUT;
            idle(record, scratch.way.seconds) <= timeout && (known || !(H::XDP || exact))
        }
        // What its backend sends to the client's own port is another connection's where the flow
        // has another port there.
        Role::Server(from) => {
            (scratch.way.direction, scratch.way.from_vip) = (Direction::ToClient, true);
            if u16::from_ne_bytes(port) != 0 {
                scratch.way.client_port = scratch.key.client_port;
            }
            *from == scratch.way.id
                && u16::from_ne_bytes(port) == u16::from_ne_bytes(scratch.first_port)
                && (!H::XDP || is_for_us(hook, scratch.way.id))
        }
        Role::Direct(_) => false,
    };
    let stamped = is_stamped(hook, scratch);
    scratch.way.enters &= goes && stamped && record.client_hop.ifindex != 0;
    if goes && stamped {
        go_by(hook, record, scratch);
    }
    goes
}

/// Whether this hook stamps the packet into its flow: what XDP is about to hand to TC is stamped
/// there.
#[inline(always)]
fn is_stamped<H: Hook>(hook: &H, scratch: &Scratch) -> bool {
    !H::XDP || !unfinished(hook, &scratch.ip)
}

/// As [`settled_flow`], of a flow that its record has lent to the cache. A client's segment that is
/// at no exact number, and any that may show that its flow's way is another one by now, goes by the
/// record.
#[inline(never)]
fn fast_flow<H: Hook>(hook: &H, scratch: &mut Scratch, role: &Role) -> bool {
    let to_client = matches!(role, Role::Server(_));
    let Some(lent) = fast::find(scratch, to_client) else { return false };
    let Some(stamp) = fast::stamp(lent, scratch, to_client) else { return false };
    let holder = scratch.lent.holder as u32;
    let ours = match role {
        Role::Client(_) => {
            // SAFETY: an array's element; a lost race costs one packet's way.
            let hop = unsafe { &*lent.hop };
            // A backend's number may have been given to another pool's.
            let pool = match scratch.key.dialled() {
                Some(dialled) => {
                    backend(dialled as u32).map_or(NO_BACKEND, |backend| backend.vip_id)
                }
                None => scratch.key.service,
            };
            let its = backend(holder).is_some_and(|backend| backend.vip_id == pool);
            let entrance = scratch.lent.translation.entrance;
            its && entrance == scratch.entrance
                && fast::is_exact(lent, scratch)
                && comes_by_hop(hook, hop)
        }
        Role::Server(from) => {
            *from == holder
                && u16::from_ne_bytes(scratch.lent.port) == 0
                && (stamp.new || !fast::is_quiet(lent, scratch.way.seconds))
                && (!H::XDP || is_for_us(hook, *from))
        }
        Role::Direct(_) => false,
    };
    if !ours {
        return false;
    }
    scratch.way.id = holder;
    scratch.key.service = scratch.lent.service;
    if to_client {
        (scratch.way.direction, scratch.way.from_vip) = (Direction::ToClient, true);
    } else {
        scratch.way.client_port = scratch.lent.port;
    }
    (scratch.way.translation, scratch.way.new) = (scratch.lent.translation, stamp.new);
    if to_client {
        // SAFETY: an array's element; a lost race costs one question.
        go_back_by(hook, unsafe { &mut *lent.hop }, scratch);
    }
    // What XDP may not send is stamped where it is sent.
    let sent_here = !H::XDP || !to_client || takes_xdp(lent.hop);
    if sent_here && is_stamped(hook, scratch) {
        fast::record(lent.slot, stamp, to_client, scratch.way.seconds);
    }
    true
}

/// Whether XDP may send to a hop of `hops`.
#[inline(always)]
fn takes_xdp(hop: *const Hop) -> bool {
    // SAFETY: an array's element; an aligned half-word.
    unsafe { (*hop).flags & HOP_TAKES_XDP != 0 }
}

/// Whether a frame from a backend is for the station that the gateway's frames to it come from.
#[inline(always)]
fn is_for_us<H: Hook>(hook: &H, id: u32) -> bool {
    let (Some(path), Some(ethernet)) = (backend_path(id), hook.window().words::<3>(0)) else {
        return false;
    };
    let (ours, theirs) = (path.hop.words(), swapped(ethernet));
    // The source address: the last six of twelve bytes.
    path.hop.ifindex == hook.ingress() && ours[2] == theirs[2] && lower(ours[1]) == lower(theirs[1])
}
