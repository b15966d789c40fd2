//! ICMP errors about flows of ours, translated as the packets they quote were (RFC 5508 4.2 for the
//! general shape).

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use steer_common::{
    checksum::{replaced16, replaced32, update},
    counters::Counter,
    flow::{State, StateWord},
    shared::{
        Address, BACKEND_BRIDGED, Endpoint, Flow, FlowKey, PROTOCOL_TCP, ROLE_BRIDGED, ROLE_MEMBER,
        ROLE_VIP, SERVICE_BACKEND,
    },
    wire::{
        ETHERNET_LEN, byte,
        ip::{IPV4_LEN, IPV6_LEN, Ip, Part},
        lower, upper,
    },
};

use crate::{
    flows::{legs, stamps::AHEAD, table},
    forward::{
        bridge::{self, set_tag_of},
        next_hop::{fib, hop_to, refresh},
    },
    hook::tc::Tc,
    maps::{
        BACKEND_IDS, HANDSHAKES, SPLICES, backend, backend_path, count, directory_head, listed,
        service_of, shown,
    },
    scratch::{Quote, Scratch, scratch, seconds},
    stage::{Stage, drop, pass},
};

/// Length of an ICMP header, bytes.
pub(crate) const ICMP_LEN: usize = 8;
/// Bytes of a quoted TCP header that every error carries (RFC 792, RFC 4443 2.4): ports and
/// sequence number.
const QUOTED: usize = 8;

/// Error types of ICMP (RFC 792): destination unreachable, time exceeded, parameter problem.
const V4_ERRORS: [u8; 3] = [3, 11, 12];
/// Error types of ICMPv6 (RFC 4443): destination unreachable, packet too big, time exceeded,
/// parameter problem.
const V6_ERRORS: [u8; 4] = [1, 2, 3, 4];

/// An ICMP error: if it is about a flow of ours it goes to whoever sent the quoted packet, quoting
/// what that one sent. All other ICMP passes untouched.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn translate_error(skb: *mut __sk_buff) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    seconds(scratch);
    if scratch.port.waits() || !load(skb, scratch) {
        return pass(Counter::IcmpPassed);
    }
    let port = scratch.port;
    let target = if port.is_inside() && !port.is_outside() { None } else { about_server(scratch) };
    let target = if port.is_outside() && !port.is_inside() {
        target
    } else {
        target.or_else(|| about_client(scratch))
    };
    let Some(target) = target else {
        return pass(Counter::IcmpPassed);
    };
    if port.is_bridges() {
        if is_as_it_came(scratch) {
            return pass(Counter::IcmpPassed);
        }
    } else if scratch.ip.hop_limit <= 1 {
        return drop(Counter::HopLimit);
    }
    match target {
        Target::Backend(id) => {
            if hop_to(skb, id) != 0 {
                let own = scratch.key.dialled().is_some_and(|dialled| dialled as u32 == id);
                return if own { pass(Counter::LeftToStack) } else { drop(Counter::NoRoute) };
            }
            let Some(path) = backend_path(id) else { return Stage::Drop };
            scratch.hop = path.hop;
        }
        Target::Client => {
            if port.is_bridges() {
                if !bridge::way_back(&scratch.hop) {
                    return drop(Counter::NoRoute);
                }
            } else if scratch.hop.ifindex == 0 {
                let (ip, hop) = (&scratch.ip, &mut scratch.hop);
                if refresh(&Tc(skb), hop, &ip.source, &ip.destination, scratch.seconds)
                    != fib::SUCCESS
                {
                    return drop(Counter::NoRoute);
                }
            }
        }
    }
    send(skb, scratch)
}

/// Loads the error; false where it is none, quotes no TCP or is not plain.
#[inline(always)]
fn load(skb: *mut __sk_buff, scratch: &mut Scratch) -> bool {
    let (v6, ip_len) = (scratch.ip.v6, if scratch.ip.v6 { IPV6_LEN } else { IPV4_LEN });
    let plain = ETHERNET_LEN + ip_len;
    if scratch.ip.l4 != plain || scratch.ip.part != Part::Whole {
        return false;
    }
    let quote = &mut scratch.quote;
    let (outer, message) = ((&raw mut quote.outer).cast(), (&raw mut quote.message).cast());
    const V4: usize = ICMP_LEN + IPV4_LEN + QUOTED;
    const V6: usize = ICMP_LEN + IPV6_LEN + QUOTED;
    // SAFETY: the sizes are those of the arrays or below.
    let loaded = unsafe {
        if v6 {
            bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, outer, IPV6_LEN as u32) == 0
                && bpf_skb_load_bytes(skb.cast(), plain as u32, message, V6 as u32) == 0
        } else {
            bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, outer, IPV4_LEN as u32) == 0
                && bpf_skb_load_bytes(skb.cast(), plain as u32, message, V4 as u32) == 0
        }
    };
    let (kind, inner) = (byte(quote.message[0], 0), &quote.message[2..]);
    loaded
        && if v6 {
            V6_ERRORS.contains(&kind)
                && byte(inner[0], 0) >> 4 == 6
                && byte(inner[1], 2) == PROTOCOL_TCP
        } else {
            V4_ERRORS.contains(&kind)
                && byte(inner[0], 0) == 0x45
                && byte(inner[2], 1) == PROTOCOL_TCP
        }
}

/// Whether the flow in `scratch.key` is with the backend that its client dialled, and with the
/// client's own port: an error about it says what it is to say.
#[inline(always)]
fn is_as_it_came(scratch: &Scratch) -> bool {
    flow(scratch).is_some_and(|flow| {
        scratch.key.dialled() == Some(flow.holder()) && flow.port_at_holder() == [0; 2]
    })
}

/// Who gets the error.
#[derive(Clone, Copy)]
enum Target {
    Backend(u32),
    Client,
}

/// Words of the message: where the quoted source and destination addresses and the TCP header
/// start.
#[inline(always)]
const fn places(v6: bool) -> (usize, usize, usize) {
    if v6 { (4, 8, 12) } else { (5, 6, 7) }
}

/// The address of one or four words at `at` of the message.
#[inline(always)]
fn address(quote: &Quote, v6: bool, at: usize) -> Address {
    let m = &quote.message;
    if v6 {
        Address::from_words([m[at & 15], m[(at + 1) & 15], m[(at + 2) & 15], m[(at + 3) & 15]])
    } else {
        Address::from_words([0, 0, 0x0000_ffff_u32.to_be(), m[at & 15]])
    }
}

/// The flow of `scratch.key`, or the handshake that will be one.
#[inline(always)]
fn flow(scratch: &Scratch) -> Option<&'static Flow> {
    let flow = table::find(scratch);
    let flow = if flow.is_null() { SPLICES.get_ptr(&scratch.key) } else { Some(flow.cast_const()) };
    // SAFETY: fields are read as words.
    flow.or_else(|| HANDSHAKES.get_ptr(&scratch.key)).map(|p| unsafe { &*p })
}

/// Whether a sequence number, the sender's own, is one that it has used: a quote of something that
/// was never sent is a forgery. Of a handshake there is one packet a side.
#[inline(always)]
fn was_sent(flow: &Flow, seq: u32, by_client: bool) -> bool {
    let word = StateWord(flow.word);
    match word.state() {
        State::Syn | State::SynAck if by_client => seq.wrapping_sub(word.isn()) <= 1,
        State::SynAck => seq == flow.first_isn,
        State::Syn | State::Adopted => false,
        _ => {
            (if by_client { flow.client_next } else { flow.server_next }).wrapping_sub(seq) <= AHEAD
        }
    }
}

/// About a packet from a backend to a client, which left as the VIP's: goes to the backend.
#[inline(always)]
fn about_server(scratch: &mut Scratch) -> Option<Target> {
    let v6 = scratch.ip.v6;
    let (source, destination, tcp) = places(v6);
    let ports = scratch.quote.message[tcp];
    scratch.endpoint = Endpoint::tcp(address(&scratch.quote, v6, source), upper(ports));
    let at = listed(directory_head()?, &scratch.endpoint.address, scratch.endpoint.port)?;
    let bridges = scratch.port.is_bridges();
    let (service, entrance) = match at.role {
        ROLE_VIP if !bridges => at.pool_and_entrance(),
        ROLE_MEMBER if !bridges => (SERVICE_BACKEND | at.id, 0),
        ROLE_BRIDGED if bridges => (SERVICE_BACKEND | at.id, 0),
        _ => return None,
    };
    let client = address(&scratch.quote, v6, destination);
    scratch.key = FlowKey { client, client_port: lower(ports).to_be_bytes(), service };
    let mut found = flow(scratch);
    if service & SERVICE_BACKEND == 0 && found.is_none_or(|flow| flow.entrance() != entrance) {
        scratch.key.service = scratch.key.service_beside(entrance);
        found = flow(scratch);
    }
    let flow = found?;
    let holder = flow.holder() as u32;
    let delta = if StateWord(flow.word).state() == State::Spliced { flow.delta } else { 0 };
    let seq = u32::from_be(scratch.quote.message[tcp + 1]).wrapping_sub(delta);
    if !was_sent(flow, seq, false) {
        return None;
    }
    let port = flow.port_at_holder();
    let client_port = if port == [0; 2] { lower(ports) } else { u16::from_be_bytes(port) };
    let endpoint = backend(holder)?.endpoint;
    put_address(scratch, source, &endpoint.address);
    let quote = &mut scratch.quote;
    quote.message[tcp] = ((endpoint.port() as u32) << 16 | client_port as u32).to_be();
    quote.message[tcp + 1] = seq.to_be();
    put_outer(scratch, false, &endpoint.address);
    Some(Target::Backend(holder))
}

/// About a packet from a client to its backend: goes to the client, quoting the VIP.
#[inline(always)]
fn about_client(scratch: &mut Scratch) -> Option<Target> {
    let v6 = scratch.ip.v6;
    let (source, destination, tcp) = places(v6);
    let ports = scratch.quote.message[tcp];
    scratch.endpoint = Endpoint::tcp(address(&scratch.quote, v6, destination), lower(ports));
    // SAFETY: one number is read.
    let id = unsafe { *BACKEND_IDS.get(&scratch.endpoint)? };
    let backend = backend(id)?;
    if scratch.port.is_bridges() != (backend.flags & BACKEND_BRIDGED != 0) {
        return None;
    }
    let (client, client_port) = (address(&scratch.quote, v6, source), upper(ports).to_be_bytes());
    scratch.key = FlowKey { client, client_port, service: service_of(backend, id) };
    let seq = u32::from_be(scratch.quote.message[tcp + 1]);
    let mut client_port = upper(ports);
    let its = |flow: Option<&'static Flow>| {
        flow.filter(|flow| flow.holder() as u32 == id && was_sent(flow, seq, true))
    };
    let mut found = its(flow(scratch));
    if found.is_none() {
        // The backend knows the client under another port, or was not the one that it dialled.
        let leg = legs::find(scratch, id)?;
        client_port = u16::from_be_bytes(leg.port);
        legs::follow(scratch, &leg);
        found = its(flow(scratch));
    }
    let found = found?;
    scratch.hop = found.client_hop;
    let shown = shown(&scratch.key, backend, found.entrance());
    put_address(scratch, destination, &shown.address);
    scratch.quote.message[tcp] = ((client_port as u32) << 16 | shown.port() as u32).to_be();
    // Whoever sent it stays its source, but for the backend itself, which clients know as what they
    // dialled.
    if scratch.ip.source == backend.endpoint.address {
        put_outer(scratch, true, &shown.address);
    }
    Some(Target::Client)
}

/// Replaces a quoted address; a quoted IPv4 header keeps a right checksum.
#[inline(always)]
fn put_address(scratch: &mut Scratch, at: usize, new: &Address) {
    let (v6, words, m) = (scratch.ip.v6, new.words(), &mut scratch.quote.message);
    if v6 {
        for i in 0..4 {
            m[(at + i) & 15] = words[i];
        }
        return;
    }
    let difference = replaced32(m[at & 15], words[3]);
    m[at & 15] = words[3];
    // Word 2 of the quoted header: TTL, protocol, checksum.
    let (upper, sum) = (upper(m[4]), lower(m[4]));
    m[4] = ((upper as u32) << 16 | u16::from_be(update(sum.to_be(), difference)) as u32).to_be();
}

/// Replaces an address of the packet itself.
#[inline(always)]
fn put_outer(scratch: &mut Scratch, source: bool, new: &Address) {
    let (v6, words, o) = (scratch.ip.v6, new.words(), &mut scratch.quote.outer);
    if v6 {
        let at = if source { 2 } else { 6 };
        for i in 0..4 {
            o[at + i] = words[i];
        }
        return;
    }
    let at = if source { 3 } else { 4 };
    let difference = replaced32(o[at], words[3]);
    o[at] = words[3];
    o[2] = ((upper(o[2]) as u32) << 16
        | u16::from_be(update(lower(o[2]).to_be(), difference)) as u32)
        .to_be();
}

/// Writes the changed error back, brings its checksum up to date by what changed and sends it to
/// `scratch.hop`.
#[inline(always)]
fn send(skb: *mut __sk_buff, scratch: &mut Scratch) -> Stage {
    let ip: Ip = scratch.ip;
    let hops = scratch.quote.outer[1];
    if !scratch.port.is_bridges() {
        take_hop(scratch, ip.v6);
    }
    if ip.v6 {
        Tc(skb).uncovered(replaced32(hops, scratch.quote.outer[1]));
    }
    let differences = sums(skb, scratch);
    let l4 = ip.l4 as u32;
    let ethernet = &raw const scratch.hop.ethernet;
    let (outer, message) =
        ((&raw const scratch.quote.outer).cast(), (&raw const scratch.quote.message).cast());
    const V4: u32 = (ICMP_LEN + IPV4_LEN + QUOTED) as u32;
    const V6: u32 = (ICMP_LEN + IPV6_LEN + QUOTED) as u32;
    // SAFETY: the sizes are those of the arrays or below.
    let stored = unsafe {
        bpf_skb_store_bytes(skb, 0, ethernet.cast(), 12, 0) == 0
            && if ip.v6 {
                bpf_skb_store_bytes(skb, ETHERNET_LEN as u32, outer, IPV6_LEN as u32, 0) == 0
                    && bpf_skb_store_bytes(skb, l4, message, V6, 0) == 0
            } else {
                bpf_skb_store_bytes(skb, ETHERNET_LEN as u32, outer, IPV4_LEN as u32, 0) == 0
                    && bpf_skb_store_bytes(skb, l4, message, V4, 0) == 0
            }
    };
    let Some((pseudo, segment)) = differences else { return drop(Counter::EmitFailed) };
    let stored = stored && set_tag_of(skb, &scratch.hop) == 0;
    if !stored || !Tc(skb).replace_sums(ip.l4 + 2, ip.v6, pseudo, segment) {
        return drop(Counter::EmitFailed);
    }
    count(Counter::IcmpTranslated);
    scratch.redirect = scratch.hop.ifindex;
    Stage::Redirect
}

/// Takes one from the packet's own hop limit.
#[inline(always)]
fn take_hop(scratch: &mut Scratch, v6: bool) {
    let o = &mut scratch.quote.outer;
    if v6 {
        o[1] = (u32::from_be(o[1]) - 1).to_be();
        return;
    }
    let (old, sum) = (upper(o[2]), lower(o[2]));
    let new = old - 0x100;
    let sum = u16::from_be(update(sum.to_be(), replaced16(old.to_be(), new.to_be())));
    o[2] = ((new as u32) << 16 | sum as u32).to_be();
}

/// What the changes do to the sums of the pseudo header (ICMPv6 has one, RFC 4443 2.3) and of the
/// message, against the packet as it still is.
#[inline(always)]
fn sums(skb: *mut __sk_buff, scratch: &mut Scratch) -> Option<(u64, u64)> {
    let (v6, l4) = (scratch.ip.v6, scratch.ip.l4 as u32);
    let words = if v6 { 14 } else { 9 };
    let (mut pseudo, mut segment) = (0, 0);
    // The old message, then the old addresses, lie in the room for a TCP header meanwhile.
    let old = &mut scratch.make.old_tcp;
    let room = (&raw mut *old).cast();
    // SAFETY: at most the size of the array.
    let loaded = unsafe {
        if v6 {
            bpf_skb_load_bytes(skb.cast(), l4, room, 56)
        } else {
            bpf_skb_load_bytes(skb.cast(), l4, room, 36)
        }
    };
    if loaded != 0 {
        return None;
    }
    for i in 0..14 {
        if i < words {
            segment += replaced32(old[i], scratch.quote.message[i]);
        }
    }
    if v6 {
        let room = (&raw mut *old).cast();
        // SAFETY: as above.
        if unsafe { bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32 + 8, room, 32) } != 0 {
            return None;
        }
        for i in 0..8 {
            pseudo += replaced32(old[i], scratch.quote.outer[2 + i]);
        }
    }
    Some((pseudo, segment))
}
