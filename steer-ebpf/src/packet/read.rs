//! What a packet is: its headers, who sent it to whom, and the key of its flow.

use aya_ebpf::bindings::__sk_buff;
use steer_common::{
    counters::Counter,
    flow::Direction,
    shared::{
        ADDRESS_OF_VIP, Address, NO_ENTRANCE, ROLE_ADDRESS, ROLE_BACKEND, ROLE_BRIDGED,
        ROLE_MEMBER, ROLE_NONE, ROLE_VIP, SERVICE_BACKEND, Vip,
    },
    wire::{
        ETHERNET_LEN, ETHERTYPE_IPV6, Packet as _, byte,
        ip::{self, NotIp, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, Part},
        lower, tcp,
        tls::client_hello,
        upper,
    },
};

use crate::{
    hook::{Hook, tc::Tc},
    maps::{backend, directory_head, listed, service_of},
    scratch::{Scratch, scratch},
    stage::{Stage, drop, pass},
};

/// What a packet is to us.
pub(crate) enum Role {
    /// From a client to a VIP, or to a backend of an inline pool: the record of the VIP or the
    /// pool.
    Client(*const Vip),
    /// From a backend; its number.
    Server(u32),
    /// From anyone else to a backend itself; its number.
    Direct(u32),
}

/// Headers that lie in fragments of the buffer (rare) are pulled into its linear part.
#[inline(always)]
pub(crate) fn make_headers_linear(hook: &Tc) {
    const HEADERS: usize = 14 + 60 + 60;
    let (linear, whole) = (hook.window().len(), hook.len());
    if linear < 14 + 40 + 32 && linear < whole {
        let wanted = if whole < HEADERS { whole } else { HEADERS };
        // SAFETY: a helper call on the program's context; on failure the parser finds the packet
        // cut short.
        unsafe { aya_ebpf::helpers::generated::bpf_skb_pull_data(hook.0, wanted as u32) };
    }
}

/// Reads the headers into `scratch.ip` and `scratch.segment` (as locals they would not fit on the
/// stack); `Err` says why the packet is no TCP segment to look at.
#[inline(always)]
pub(crate) fn read<H: Hook>(hook: &H, scratch: &mut Scratch) -> Result<(), Counter> {
    let window = hook.window();
    let ip = &mut scratch.ip;
    match ip::parse_into(&window, || hook.aggregate_len(), ip) {
        Ok(()) => {}
        Err(NotIp::Other) => return Err(Counter::NotOurs),
        Err(NotIp::Vlan) => return Err(Counter::VlanPassed),
        Err(NotIp::Malformed) => {
            ip.protocol = 0;
            return Err(Counter::Malformed);
        }
    }
    if ip.protocol == PROTOCOL_ICMP || ip.protocol == PROTOCOL_ICMPV6 {
        return Err(Counter::IcmpPassed);
    }
    if ip.protocol != PROTOCOL_TCP {
        return Err(Counter::NotOurs);
    }
    if ip.part == Part::Later || (H::XDP && ip.part == Part::First) {
        return Err(Counter::FragmentPassed);
    }
    let Some(segment) = tcp::parse(&window, ip) else { return Err(Counter::Malformed) };
    scratch.segment = segment;
    Ok(())
}

/// Finds out by address alone what a packet is to us: one interface may carry both sides. What
/// dials a backend itself is found where the packet's sender is no backend. What a client dialled is
/// entered into the flow's key. The ports of a bridge have pools of their own.
#[inline(always)]
pub(crate) fn classify(scratch: &mut Scratch) -> Option<Role> {
    let (ip, segment) = (&scratch.ip, &scratch.segment);
    let head = directory_head()?;
    let (mut role, mut id) = (ROLE_NONE, 0);
    let bridges = scratch.port.is_bridges();
    if let Some(dialled) = listed(head, &ip.destination, segment.destination_port) {
        (role, id) = (dialled.role, dialled.id);
        let vip = &raw const dialled.vip;
        let member = if bridges { ROLE_BRIDGED } else { ROLE_MEMBER };
        if role == ROLE_VIP && !bridges {
            (scratch.key.service, scratch.entrance) = dialled.pool_and_entrance();
            return Some(Role::Client(vip));
        }
        if role == member {
            (scratch.key.service, scratch.entrance) = (SERVICE_BACKEND | id, 0);
            return Some(Role::Client(vip));
        }
    }
    scratch.entrance = NO_ENTRANCE;
    if let Some(sender) = listed(head, &ip.source, segment.source_port) {
        let role = sender.role;
        let its = if bridges {
            role == ROLE_BRIDGED
        } else {
            role == ROLE_BACKEND || role == ROLE_MEMBER
        };
        if its {
            return Some(Role::Server(sender.id as u32));
        }
    }
    (role == ROLE_BACKEND && !bridges).then_some(Role::Direct(id as u32))
}

/// A packet that cannot be read: dropped where it would reach the local stack, or a client, in the
/// name of a VIP's flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn unreadable(skb: *mut __sk_buff) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if scratch.port.is_bridges() {
        return pass(Counter::Malformed);
    }
    let window = Tc(skb).window();
    if scratch.ip.protocol == PROTOCOL_TCP {
        // The TCP header is cut short or its length lies; its ports can be read, or nobody reads
        // anything.
        let Some([ports]) = window.words::<1>(scratch.ip.l4) else {
            return pass(Counter::Malformed);
        };
        scratch.segment.source_port = upper(ports).to_be_bytes();
        scratch.segment.destination_port = lower(ports).to_be_bytes();
        return match classify(scratch) {
            Some(Role::Client(_) | Role::Server(_)) => drop(Counter::MalformedDropped),
            Some(Role::Direct(_)) | None => pass(Counter::Malformed),
        };
    }
    // Behind an IPv6 header that can be read: extension headers that lie, or are more than are
    // walked.
    let (ethernet, ipv6) = (window.words::<1>(12), window.words::<4>(ETHERNET_LEN + 24));
    if let (Some([kind]), Some(destination), Some(head)) = (ethernet, ipv6, directory_head())
        && upper(kind) == ETHERTYPE_IPV6
        && byte(kind, 2) >> 4 == 6
        && listed(head, &Address::from_words(destination), [0; 2])
            .is_some_and(|at| at.role == ROLE_ADDRESS && at.id & ADDRESS_OF_VIP != 0)
    {
        return drop(Counter::MalformedDropped);
    }
    pass(Counter::Malformed)
}

/// Whether the packet begins as a hello does, which comes where its flow is not settled: to look
/// for it among settled ones would be in vain, and the slow path can carry it in any case.
#[inline(always)]
pub(crate) fn begins_hello<H: Hook>(hook: &H, scratch: &Scratch, role: &Role) -> bool {
    let segment = &scratch.segment;
    matches!(role, Role::Client(_))
        && segment.payload_len != 0
        && hook
            .window()
            .words::<2>(scratch.ip.l4 + segment.header_len)
            .is_some_and(client_hello::begins)
}

/// Enters the rest of the flow's key into `scratch.key`; false where the backend has no record.
#[inline(always)]
pub(crate) fn set_key(scratch: &mut Scratch, role: &Role) -> bool {
    let (direction, service) = match role {
        Role::Client(_) => (Direction::ToBackend, scratch.key.service),
        Role::Server(id) => match backend(*id) {
            Some(backend) => (Direction::ToClient, service_of(backend, *id)),
            None => return false,
        },
        Role::Direct(id) => match backend(*id) {
            Some(backend) => (Direction::ToBackend, backend.vip_id),
            None => return false,
        },
    };
    let (ip, segment, key) = (&scratch.ip, &scratch.segment, &mut scratch.key);
    (key.client, key.client_port) = match direction {
        Direction::ToBackend => (ip.source, segment.source_port),
        Direction::ToClient => (ip.destination, segment.destination_port),
    };
    key.service = service;
    true
}
