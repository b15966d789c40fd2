//! A packet's way: read, classified by address, forwarded at once if its flow is settled.

use core::ptr::null_mut;

use aya_ebpf::bindings::__sk_buff;
use steer_common::{
    counters::Counter,
    flow::State,
    shared::{FLOW_LEARNED, Flow},
    wire::{ip::Part, tcp::flags},
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
    maps::{FLOWS, HANDSHAKES, SETTINGS, Scratch, count, scratch, seconds},
    next::{self, drop, pass},
    read::{Role, begins_hello, classify, enter_key, facts, make_headers_linear, read},
    rehome, server,
    stamps::idle,
    sums, too_big,
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
    let said = match said {
        next::SYN_TO_OWNER => emit::syn_to_owner(skb),
        next::RESET => emit::reset_packet(skb),
        next::RESET_THEN_OWNER => emit::emit_buffered(skb, 1),
        _ => emit::emit_buffered(skb, 0),
    };
    if said == next::EMIT { emit::emit_segments(skb) } else { said }
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
