//! A packet's way: read, classified by address, forwarded at once if its flow is settled.

use core::ptr::null_mut;

use aya_ebpf::bindings::__sk_buff;
use steer_common::{
    counters::Counter,
    flow::State,
    shared::{FLOW_LEARNED, Flow, ROLE_BACKEND, ROLE_VIP, Vip, options},
    wire::{
        Packet as _,
        ip::{self, Frame, Ip, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, Part},
        tcp::{self, Segment, flags},
        tls::client_hello,
    },
};

use crate::{
    client,
    deliver::{Plan, deliver},
    emit,
    forward::Refused,
    fragment, hello,
    hook::{
        Hook,
        tc::{DROP, NEXT, Tc},
        xdp::Xdp,
    },
    icmp, learn, lock,
    maps::{FLOWS, Facts, HANDSHAKES, SETTINGS, Scratch, backend, count, count_index, listed, scratch, seconds},
    rehome, server,
    stamps::idle,
    sums, too_big,
    verifier::limit,
};

/// What becomes of a packet.
pub(crate) enum Outcome {
    /// To the next program and the stack, untouched.
    Pass(Counter),
    /// Dropped.
    Drop(Counter),
    /// This action is returned.
    Sent(i32),
}

/// What a packet is to us.
enum Role {
    /// From a client to a VIP; its record.
    Client(*const Vip),
    /// From a backend; its number.
    Server(u32),
}

/// What a stage of the slow path says comes next, as one number. Stages are global functions that the TC program calls
/// one after the other, so that their stack frames do not add up.
pub(crate) mod next {
    /// Forward as the flow's state says.
    pub(crate) const FORWARD: i32 = 0x1_0000;
    /// Forward with nothing but the addresses changed: this plus the backend's number.
    pub(crate) const PLAIN: i32 = 0x2_0000;
    /// Pass untouched.
    pub(crate) const PASS: i32 = 3;
    /// Dropped (already counted).
    pub(crate) const DROP: i32 = 4;
    /// To be redirected to the interface in `scratch.redirect`, its Ethernet header already written.
    pub(crate) const REDIRECT: i32 = 5;
    /// `client_syn`.
    pub(crate) const SYN: i32 = 6;
    /// `client_segment`.
    pub(crate) const CLIENT: i32 = 7;
    /// `decide`, with `scratch.piece`; the flow is locked.
    pub(crate) const DECIDE: i32 = 8;
    /// `client_data`, with `scratch.piece`; the flow is locked.
    pub(crate) const DATA: i32 = 22;
    /// `hold`, with `scratch.piece`; the flow is locked.
    pub(crate) const HOLD: i32 = 23;
    /// `held`, with `scratch.piece`; the flow is locked.
    pub(crate) const HELD: i32 = 24;
    /// `emit_segment`, with `scratch.emitting`.
    pub(crate) const EMIT: i32 = 26;
    /// `exit`, with `scratch.piece`; the flow is locked.
    pub(crate) const EXIT: i32 = 25;
    /// `open_owner`, with the owner in `scratch.backend`; the flow is locked.
    pub(crate) const OPEN_OWNER: i32 = 9;
    /// `syn_to_owner`.
    pub(crate) const SYN_TO_OWNER: i32 = 10;
    /// `server_segment`.
    pub(crate) const SERVER: i32 = 11;
    /// `learn`, then forward.
    pub(crate) const LEARN: i32 = 12;
    /// `judge`; the flow is locked.
    pub(crate) const JUDGE: i32 = 13;
    /// The reset in `scratch.reset` is sent, then the buffered data to the owner.
    pub(crate) const RESET_THEN_OWNER: i32 = 14;
    /// The reset in `scratch.reset` is sent, then the buffered data to the first backend.
    pub(crate) const RESET_THEN_FIRST: i32 = 15;
    /// The buffered data is sent to the first backend.
    pub(crate) const FLUSH: i32 = 16;
    /// The packet becomes the reset in `scratch.reset`.
    pub(crate) const RESET: i32 = 17;
    /// An ICMP error.
    pub(crate) const ICMP: i32 = 18;
    /// The next hop's MTU, in `scratch.hop.mtu`, is too small.
    pub(crate) const TOO_BIG: i32 = 19;
    /// A later fragment of a datagram.
    pub(crate) const FRAGMENT: i32 = 20;
    /// A SYN to no VIP: perhaps to a backend itself.
    pub(crate) const NOT_OURS_SYN: i32 = 21;
    /// An action to return: this plus the action, which is 0 to 255.
    pub(crate) const ACTION: i32 = 0x4_0000;
    /// Besides one of the others: the flow was made, or made anew, since it was looked up.
    pub(crate) const FRESH: i32 = 0x8_0000;
}

/// The XDP program.
#[inline(always)]
pub(crate) fn xdp(hook: &Xdp) -> Outcome {
    const ON: Outcome = Outcome::Sent(aya_ebpf::bindings::xdp_action::XDP_PASS as i32);
    match SETTINGS.get(0) {
        Some(settings) if settings.xdp != 0 => {}
        _ => return ON,
    }
    // What XDP passes on is counted by TC, which sees it next.
    let Ok(()) = read(hook) else { return ON };
    let Some(scratch) = scratch() else { return ON };
    let Some(role) = classify(scratch) else { return ON };
    let mut plan = Plan { id: 0, flow: null_mut(), to_client: false, seconds: 0 };
    let slow = scratch.segment.any(flags::SYN) || begins_hello(hook, scratch, &role);
    if slow || !enter_key(scratch, &role) || !settled_flow(scratch, &role, &mut plan) {
        return Outcome::Pass(Counter::XdpToTc);
    }
    match deliver(hook, &plan, scratch) {
        Ok(action) => {
            count(Counter::XdpForwarded);
            Outcome::Sent(action.into())
        }
        Err(Refused::OtherHook(reason)) => Outcome::Pass(reason),
        Err(Refused::Dropped(reason)) => Outcome::Drop(reason),
        Err(Refused::TooBig | Refused::HopLimit) => Outcome::Pass(Counter::XdpToTc),
    }
}

/// The TC program: the fast path, else one stage after the other until the packet is dealt with.
#[inline(always)]
pub(crate) fn tc(skb: *mut __sk_buff) -> i32 {
    let mut plan = Plan { id: 0, flow: null_mut(), to_client: false, seconds: 0 };
    let mut said = tc_settled(skb, &mut plan);
    if said != next::FORWARD {
        said = stages(skb, said, &mut plan);
    }
    if said == next::FORWARD {
        said = tc_deliver(skb, &plan);
    }
    said = if said == next::TOO_BIG { too_big::too_big(skb) } else { said };
    match said {
        next::REDIRECT => scratch().map_or(DROP, |scratch| Tc(skb).redirect(scratch.redirect)),
        next::PASS => NEXT,
        action if action & next::ACTION != 0 => action & 0xff,
        _ => DROP,
    }
}

/// The slow path, from the stage that `said` names, to the plan by which the packet is forwarded, or to what else becomes of
/// it.
#[inline(always)]
fn stages(skb: *mut __sk_buff, mut said: i32, plan: &mut Plan) -> i32 {
    // Looked up once and handed down: a look-up costs as much as three stages.
    let mut flow = plan.flow;
    said = match said {
        next::SYN => client::client_syn(skb),
        next::CLIENT => client::client_segment(skb, flow),
        next::SERVER => server::server_segment(skb, flow),
        next::ICMP => icmp::translate_error(skb),
        next::FRAGMENT => fragment::forward_later(skb),
        next::NOT_OURS_SYN => server::direct_syn(),
        _ => said,
    };
    if said & next::FRESH != 0 {
        said &= !next::FRESH;
        flow = look_up();
    }
    said = client_data(skb, said, flow);
    said = match said {
        next::OPEN_OWNER => rehome::open_owner(skb, flow),
        next::JUDGE => server::judge(skb, flow),
        next::LEARN => learn::learn(skb, flow),
        _ => said,
    };
    if matches!(said, next::SYN_TO_OWNER | next::RESET | next::RESET_THEN_OWNER | next::RESET_THEN_FIRST | next::FLUSH)
    {
        said = make(skb, said);
    }
    enter_plan(said, flow, plan)
}

/// The packet becomes another one, or several. What it carried is summed first, so that its checksum can be carried over.
#[inline(always)]
fn make(skb: *mut __sk_buff, said: i32) -> i32 {
    sums::sum_payload(skb);
    if said == next::RESET_THEN_OWNER || said == next::RESET_THEN_FIRST {
        emit::reset_copy(skb);
    }
    let mut said = match said {
        next::SYN_TO_OWNER => emit::syn_to_owner(skb),
        next::RESET => emit::reset_packet(skb),
        next::RESET_THEN_OWNER => emit::emit_buffered(skb, 1),
        _ => emit::emit_buffered(skb, 0),
    };
    for _ in 0..limit::<{ emit::SEGMENTS_MAX }>() {
        if said != next::EMIT {
            break;
        }
        said = emit::emit_segment(skb);
    }
    if said == next::EMIT { drop(Counter::EmitFailed) } else { said }
}

/// Enters how a packet is forwarded, if that is what a stage said.
#[inline(always)]
fn enter_plan(said: i32, flow: *mut Flow, plan: &mut Plan) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    plan.to_client = scratch.facts.from_server != 0;
    plan.seconds = scratch.facts.seconds;
    if said & next::PLAIN != 0 {
        plan.id = said as u32 & 0xffff;
        let handshake = if plan.to_client { HANDSHAKES.get_ptr_mut(&scratch.key) } else { None };
        plan.flow = handshake.unwrap_or(null_mut());
        return next::FORWARD;
    }
    if said == next::FORWARD {
        if flow.is_null() {
            return drop(Counter::FlowBusy);
        }
        // SAFETY: not null; as in `settled_flow`.
        plan.id = if plan.to_client { scratch.backend } else { unsafe { (*flow).holder() as u32 } };
        plan.flow = flow;
    }
    said
}

/// A client's data on a flow that is not settled: decided on, held, decided on again as it grows, and once more where
/// gathering ends without a decision.
#[inline(always)]
fn client_data(skb: *mut __sk_buff, mut said: i32, flow: *mut Flow) -> i32 {
    if said == next::DECIDE {
        said = hello::decide(flow);
    }
    if said == next::DATA {
        said = rehome::client_data(skb, flow);
    }
    if said == next::HOLD {
        said = rehome::hold(skb, flow);
    }
    if said == next::DECIDE {
        said = hello::decide(flow);
    }
    if said == next::HELD {
        said = rehome::held(flow);
    }
    if said == next::DECIDE {
        said = hello::decide(flow);
    }
    if said == next::EXIT {
        said = rehome::exit(flow);
    }
    said
}

/// The flow of the packet at hand.
#[inline(always)]
fn look_up() -> *mut Flow {
    scratch().and_then(|scratch| FLOWS.get_ptr_mut(&scratch.key)).unwrap_or(null_mut())
}

/// Reads and classifies the packet: with a plan if its flow is settled, else names the stage that deals with it.
#[inline(always)]
fn tc_settled(skb: *mut __sk_buff, plan: &mut Plan) -> i32 {
    let hook = &Tc(skb);
    if hook.tagged() {
        return pass(Counter::VlanPassed);
    }
    make_headers_linear(hook);
    match read(hook) {
        Ok(()) => {}
        Err(Counter::IcmpPassed) => return next::ICMP,
        Err(Counter::FragmentPassed) => return next::FRAGMENT,
        Err(reason) => return pass(reason),
    }
    let Some(scratch) = scratch() else { return next::DROP };
    let Some(role) = classify(scratch) else {
        if scratch.segment.flags & (flags::SYN | flags::ACK) != flags::SYN {
            return pass(Counter::NotOurs);
        }
        let seconds = seconds(scratch);
        scratch.facts = facts(&scratch.ip, &scratch.segment, seconds);
        return next::NOT_OURS_SYN;
    };
    if !enter_key(scratch, &role) {
        return next::PASS;
    }
    let syn = scratch.segment.any(flags::SYN);
    if !syn && !begins_hello(hook, scratch, &role) {
        if settled_flow(scratch, &role, plan) {
            return next::FORWARD;
        }
    } else if !syn || matches!(role, Role::Server(_)) {
        plan.flow = look_up();
    }
    let seconds = seconds(scratch);
    scratch.facts = facts(&scratch.ip, &scratch.segment, seconds);
    match role {
        Role::Client(vip) => {
            // SAFETY: a map value, copied at once.
            scratch.vip = unsafe { *vip };
            if syn { next::SYN } else { next::CLIENT }
        }
        Role::Server(id) => {
            scratch.facts.from_server = 1;
            scratch.backend = id;
            next::SERVER
        }
    }
}

/// Forwards the packet; what became of it.
#[inline(always)]
fn tc_deliver(skb: *mut __sk_buff, plan: &Plan) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    match deliver(&Tc(skb), plan, scratch) {
        Ok(action) => {
            if scratch.ip.part == Part::First {
                fragment::remember_first();
            }
            next::ACTION | (action & 0xff) as i32
        }
        Err(Refused::OtherHook(reason) | Refused::Dropped(reason)) => drop(reason),
        // Towards a client the stack would route the packet as it is and say so itself; towards a backend it would be
        // delivered here.
        Err(Refused::HopLimit) if plan.to_client => pass(Counter::HopLimit),
        Err(Refused::HopLimit) => drop(Counter::HopLimit),
        Err(Refused::TooBig) => {
            // A settled flow's packet comes here without facts of its own.
            scratch.facts.from_server = plan.to_client as u8;
            next::TOO_BIG
        }
    }
}

/// Counts and passes.
#[inline(always)]
pub(crate) fn pass(reason: Counter) -> i32 {
    count_index(reason as u32);
    next::PASS
}

/// Counts and drops.
#[inline(always)]
pub(crate) fn drop(reason: Counter) -> i32 {
    count_index(reason as u32);
    next::DROP
}

/// Headers that lie in fragments of the buffer (rare) are pulled into its linear part.
#[inline(always)]
fn make_headers_linear(hook: &Tc) {
    const HEADERS: usize = 14 + 60 + 60;
    let (linear, whole) = (hook.window().len(), hook.len());
    if linear < 14 + 40 + 32 && linear < whole {
        let wanted = if whole < HEADERS { whole } else { HEADERS };
        // SAFETY: a helper call on the program's context; on failure the parser finds the packet cut short.
        unsafe { aya_ebpf::helpers::generated::bpf_skb_pull_data(hook.0, wanted as u32) };
    }
}

/// Reads the headers into `scratch.ip` and `scratch.segment` (as locals they would not fit on the stack); `Err` says why
/// the packet is no TCP segment to look at.
#[inline(always)]
fn read<H: Hook>(hook: &H) -> Result<(), Counter> {
    let Some(scratch) = scratch() else { return Err(Counter::EmitFailed) };
    let window = hook.window();
    let ip = match ip::parse(&window) {
        Frame::Ip(ip) => ip,
        Frame::Other => return Err(Counter::NotOurs),
        Frame::Vlan => return Err(Counter::VlanPassed),
        Frame::Malformed => return Err(Counter::Malformed),
    };
    if ip.protocol == PROTOCOL_ICMP || ip.protocol == PROTOCOL_ICMPV6 {
        scratch.ip = ip;
        return Err(Counter::IcmpPassed);
    }
    if ip.protocol != PROTOCOL_TCP {
        return Err(Counter::NotOurs);
    }
    if ip.part == Part::Later || (H::XDP && ip.part == Part::First) {
        scratch.ip = ip;
        return Err(Counter::FragmentPassed);
    }
    let Some(segment) = tcp::parse(&window, &ip) else { return Err(Counter::Malformed) };
    scratch.ip = ip;
    scratch.segment = segment;
    Ok(())
}

/// Finds out by address alone what a packet is to us: one interface may carry both sides.
#[inline(always)]
fn classify(scratch: &Scratch) -> Option<Role> {
    let (ip, segment) = (&scratch.ip, &scratch.segment);
    if let Some(listed) = listed(&ip.destination, segment.destination_port)
        && listed.role == ROLE_VIP
    {
        return Some(Role::Client(&raw const listed.vip));
    }
    let listed = listed(&ip.source, segment.source_port)?;
    (listed.role == ROLE_BACKEND).then_some(Role::Server(listed.id as u32))
}

/// Enters the plan for a packet of a flow that has a backend for good and from which nothing is to be learned; of any other
/// flow it enters the record. False where the packet is not such a one.
#[inline(always)]
fn settled_flow(scratch: &mut Scratch, role: &Role, plan: &mut Plan) -> bool {
    let Some(flow) = FLOWS.get_ptr_mut(&scratch.key) else { return false };
    plan.flow = flow;
    // SAFETY: a map value; each field is read and written as a word, and a lost race costs one stamp.
    let record = unsafe { &*flow };
    let word = lock::read(record);
    if word.locked() || !matches!(word.state(), State::Spliced | State::First) || record.flags & FLOW_LEARNED == 0 {
        return false;
    }
    plan.id = record.holder() as u32;
    plan.to_client = matches!(role, Role::Server(_));
    plan.seconds = seconds(scratch);
    match role {
        // SAFETY: as above.
        Role::Client(vip) => idle(record, plan.seconds) <= unsafe { (**vip).flow_timeout },
        Role::Server(from) => *from == plan.id,
    }
}

/// Whether the packet begins as a hello does, which comes where its flow is not settled: to look for it among settled ones
/// would be in vain, and the slow path can carry it in any case.
#[inline(always)]
fn begins_hello<H: Hook>(hook: &H, scratch: &Scratch, role: &Role) -> bool {
    let segment = &scratch.segment;
    matches!(role, Role::Client(_))
        && segment.payload_len != 0
        && hook.window().words::<2>(scratch.ip.l4 + segment.header_len).is_some_and(client_hello::begins)
}

/// Enters the flow's key into `scratch.key`; false where the backend has no record.
#[inline(always)]
fn enter_key(scratch: &mut Scratch, role: &Role) -> bool {
    let (to_client, vip_id) = match role {
        // SAFETY: a map value; one aligned half-word.
        Role::Client(vip) => (false, unsafe { (**vip).id }),
        Role::Server(id) => match backend(*id) {
            Some(backend) => (true, backend.vip_id),
            None => return false,
        },
    };
    let (ip, segment, key) = (&scratch.ip, &scratch.segment, &mut scratch.key);
    key.client = if to_client { ip.destination } else { ip.source };
    key.client_port = if to_client { segment.destination_port } else { segment.source_port };
    key.service = vip_id;
    true
}

#[inline(always)]
fn facts(ip: &Ip, segment: &Segment, seconds: u32) -> Facts {
    Facts {
        now: 0,
        seconds,
        l4: ip.l4 as u32,
        header_len: segment.header_len as u32,
        payload_len: segment.payload_len as u32,
        seq: segment.seq,
        ack: segment.ack,
        payload_sum: 0,
        window: segment.window,
        flags: segment.flags,
        accurate_ecn: segment.accurate_ecn as u8,
        v6: ip.v6 as u8,
        ip_options: (ip.options || ip.part != Part::Whole) as u8,
        hop_limit: ip.hop_limit,
        sum_good: 0,
        from_server: 0,
        summed: 0,
        zero: [0; 2],
    }
}

/// Bits of [`options`] that a hello's agreement is about.
pub(crate) const AGREED: u8 = options::SACK | options::TIMESTAMPS | options::WINDOW_SCALE;
