//! Frames at the ports of a bridge (the bridge shape). The bridge forwards whatever is not moved,
//! as if there were no program; only what goes to another backend than the one that was dialled, or
//! comes from one, is redirected from port to port. The way there is what earlier frames showed: a
//! bridge has no routes, and need not have addresses. TC only.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_store_bytes};
use steer_common::{
    counters::Counter,
    shared::{
        BRIDGE_PATH_LIFE, HOP_SECONDS, HOP_VLAN_AT, Hop, INTERFACE_BRIDGE_AT, INTERFACE_INSIDE,
        INTERFACE_OUTSIDE, INTERFACE_WAITS, MAX_BRIDGES, swapped,
    },
    wire::Packet as _,
};

use crate::{
    hook::{Hook, tc::Tc},
    maps::{FLOWS, LEGS, SPLICES, backend, bridge_path, interface, takes_vlan},
    packet::read::Role,
    port::Port,
    scratch::{Scratch, scratch},
    stage::{Stage, drop, pass},
};

/// The port that a frame for another station came in by, not for many; `Err` where the frame's tag
/// is not one that is looked at.
#[inline(always)]
pub(crate) fn port(hook: &Tc) -> Result<Port, Counter> {
    if !hook.for_another() {
        return Ok(Port::NONE);
    }
    let flags = interface(hook.ingress());
    let sides = flags & (INTERFACE_OUTSIDE | INTERFACE_INSIDE);
    let bridge = flags >> INTERFACE_BRIDGE_AT & (MAX_BRIDGES - 1);
    if sides == 0 {
        return Ok(Port { sides: flags & INTERFACE_WAITS });
    }
    if hook.oddly_tagged() || !takes_vlan(bridge, hook.vlan()) {
        return Err(Counter::VlanPassed);
    }
    Ok(Port { sides })
}

/// A frame at a port that does not forward, or whose bridge is not there: of a flow that was moved
/// it must not go on to the backend that was dialled, which would reset it. Its sender repeats it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn wait(from_backend: u32) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Pass };
    // Every moved flow has a leg at its owner.
    // SAFETY: only asked whether they are there.
    let moved = unsafe {
        if from_backend != 0 {
            LEGS.get(&scratch.key).is_some()
        } else {
            SPLICES.get(&scratch.key).is_some()
        }
    };
    if moved { drop(Counter::NoRoute) } else { pass(Counter::OtherStation) }
}

/// Notes what a frame at a port shows of the way to the backend that it goes to or comes from;
/// `Err` where it is of another VLAN than the backend.
#[inline(always)]
pub(crate) fn note(hook: &Tc, scratch: &Scratch, role: &Role) -> Result<(), Counter> {
    let (id, sent) = match role {
        Role::Client(_) => (scratch.key.dialled().unwrap_or(0) as u32, true),
        Role::Server(id) => (*id, false),
        Role::Direct(_) => return Ok(()),
    };
    let (Some(backend), Some(path)) = (backend(id), bridge_path(id)) else { return Ok(()) };
    let (vlan, seconds) = (hook.vlan(), scratch.way.seconds);
    if backend.vlan != 0 && backend.vlan != vlan {
        return Err(Counter::VlanPassed);
    }
    if !sent {
        if path.heard != seconds || path.ifindex != hook.ingress() {
            path.ifindex = hook.ingress();
            path.heard = seconds;
        }
        return Ok(());
    }
    let other = path.vlan != vlan;
    // What goes by this path stays where it goes: whoever else speaks of that address may be anybody.
    if other && path.sent != 0 && seconds.wrapping_sub(path.sent) <= BRIDGE_PATH_LIFE {
        path.mixed = seconds;
        return Ok(());
    }
    if other || path.sent != seconds {
        let Some(ethernet) = hook.window().words::<3>(0) else { return Ok(()) };
        path.set_words(ethernet);
        path.vlan = vlan;
        path.sent = seconds;
    }
    Ok(())
}

/// Brings the hop to a backend up to date by what frames showed, as `refresh` does by the forwarding
/// table; false where none is known or its port does not forward.
#[inline(always)]
pub(crate) fn way_to<H: Hook>(hook: &H, hop: &mut Hop, id: u32, seconds: u32) -> bool {
    if hop.ifindex == 0 || seconds.wrapping_sub(hop.asked) > HOP_SECONDS {
        let Some(path) = bridge_path(id) else { return false };
        if path.sent == 0 || path.heard == 0 {
            return false;
        }
        // Field by field: the stack has no room for another hop.
        hop.set_words(path.words());
        hop.ifindex = path.ifindex;
        hop.mtu = hook.mtu(path.ifindex);
        hop.flags = path.vlan << HOP_VLAN_AT;
        hop.asked = seconds;
    }
    interface(hop.ifindex) & INTERFACE_INSIDE != 0
}

/// As [`way_to`], of the hop that a client's packets came from, which they alone keep up to date.
#[inline(always)]
pub(crate) fn way_back(hop: &Hop) -> bool {
    interface(hop.ifindex) & INTERFACE_OUTSIDE != 0
}

/// Why a flow cannot be moved from its first backend to an owner: nobody knows the way there, or to
/// whom of two its frames would go.
#[inline(always)]
pub(crate) fn refuses(first: u32, owner: u32, seconds: u32) -> Option<Counter> {
    let (Some(first), Some(owner)) = (bridge_path(first), bridge_path(owner)) else {
        return Some(Counter::OwnerNoRoute);
    };
    if first.is_mixed(seconds) || owner.is_mixed(seconds) {
        return Some(Counter::VlanAmbiguous);
    }
    if owner.is_known(seconds) { None } else { Some(Counter::OwnerNoRoute) }
}

/// Writes stations and tag of the packet at hand, which is made of a client's, to the backend that
/// the client dialled: those that the client's own packets have, whoever else speaks of that backend.
/// False where the flow is with another one, or its client's hop is not known.
#[inline(always)]
pub(crate) fn write_as_client(skb: *mut __sk_buff, scratch: &Scratch, id: u32) -> bool {
    // SAFETY: fields are read as words.
    let Some(flow) = (unsafe { FLOWS.get(&scratch.key) }) else { return false };
    let hop = &flow.client_hop;
    if !scratch.port.is_bridges() || flow.first as u32 != id || hop.ifindex == 0 {
        return false;
    }
    if set_tag(skb, hop.vlan() as u32) != 0 {
        return false;
    }
    let ethernet = swapped(hop.words());
    // SAFETY: 12 bytes of the stack.
    unsafe { bpf_skb_store_bytes(skb, 0, (&raw const ethernet).cast(), 12, 0) == 0 }
}

/// Gives the packet at hand the tag that a hop's frames have; 0, or negative where that fails. Only
/// at a bridge: elsewhere no packet has a tag.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn set_tag(skb: *mut __sk_buff, vlan: u32) -> i32 {
    if Tc(skb).set_vlan(vlan as u16) { 0 } else { -1 }
}

/// As [`set_tag`], where the packet came to a bridge.
#[inline(always)]
pub(crate) fn set_tag_of(skb: *mut __sk_buff, hop: &Hop) -> i32 {
    match scratch() {
        Some(scratch) if scratch.port.is_bridges() => set_tag(skb, hop.vlan() as u32),
        _ => 0,
    }
}
