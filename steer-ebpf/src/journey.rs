//! A packet's way: read, classified by address, forwarded at once if its flow is settled.

use aya_ebpf::bindings::__sk_buff;
use core::ptr::null_mut;
use steer_common::{
    counters::Counter,
    flow::{Direction, State},
    shared::{FLOW_CLOSED, FLOW_LEARNED, FLOW_RIVALLED, Flow, swapped},
    wire::{
        Packet as _,
        ip::{PROTOCOL_TCP, Part},
        lower,
        tcp::flags,
    },
};

use crate::{
    decide::hello,
    flows::{
        lock,
        stamps::{comes_by, idle, is_exact, record_end},
    },
    forward::{
        deliver::{Plan, deliver},
        direct, fragment, icmp,
        next_hop::Refused,
        resegment, too_big,
    },
    handshake::syn,
    hook::{
        Hook,
        tc::{DROP, NEXT, Tc},
        xdp::Xdp,
    },
    learn::server_flight,
    maps::{FLOWS, HANDSHAKES, SETTINGS, backend_path, count, is_filling},
    packet::{
        read::{self, Role, begins_hello, classify, make_headers_linear, read, set_key},
        sums,
    },
    rehome::{client, emit, hold, server},
    scratch::{Input, Scratch, Sum, scratch, seconds},
    stage::{Stage, act, drop, pass},
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

/// What begins or ends a connection goes the slow way: it says more than where it goes.
const SLOW: u8 = flags::SYN | flags::FIN | flags::RST;

/// The XDP program.
#[inline(always)]
pub(crate) fn xdp(hook: &Xdp) -> Outcome {
    const ON: Outcome = Outcome::Sent(aya_ebpf::bindings::xdp_action::XDP_PASS as i32);
    match SETTINGS.get(0) {
        Some(settings) if settings.xdp != 0 => {}
        _ => return ON,
    }
    // What XDP passes on is counted by TC, which sees it next.
    let Some(scratch) = scratch() else { return ON };
    let Ok(()) = read(hook, scratch) else { return ON };
    let Some(role) = classify(scratch) else { return ON };
    let mut plan = Plan::EMPTY;
    if matches!(role, Role::Direct(_)) {
        return Outcome::Pass(Counter::XdpToTc);
    }
    let slow = scratch.segment.any(SLOW) || begins_hello(hook, scratch, &role);
    if slow || !set_key(scratch, &role) || !settled_flow(hook, scratch, &role, &mut plan) {
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
    let mut plan = Plan::EMPTY;
    let Some(scratch) = scratch() else { return DROP };
    let mut stage = tc_settled(skb, scratch, &mut plan);
    if stage != Stage::Forward {
        stage = stages(skb, stage, &mut plan);
    }
    if stage == Stage::Forward {
        stage = tc_deliver(skb, scratch, &plan);
    }
    stage = match stage {
        Stage::TooBig => too_big::too_big(skb),
        stage => stage,
    };
    stage = match stage {
        Stage::Cut => resegment::resegment(skb),
        Stage::Pass if scratch.begun != 0 => fragment::passed(skb),
        stage => stage,
    };
    match stage {
        Stage::Redirect => Tc(skb).redirect(scratch.redirect),
        Stage::Pass => NEXT,
        Stage::Act => scratch.action as i32,
        _ => DROP,
    }
}

/// The slow path from a stage on ([`steer_common::stage`] has what may follow which), to the plan
/// by which the packet is forwarded, or to what else becomes of it. A sequence, not a loop over one
/// `match`: the verifier would need a quarter more.
#[inline(always)]
fn stages(skb: *mut __sk_buff, mut stage: Stage, plan: &mut Plan) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    // Looked up once and handed down: a look-up costs as much as three stages.
    let mut flow = plan.flow;
    stage = match stage {
        Stage::Syn => syn::client_syn(skb),
        Stage::Client => client::client_segment(skb, flow),
        Stage::Server => server::server_segment(skb, flow),
        Stage::Direct => direct::direct_segment(),
        Stage::Icmp => icmp::translate_error(skb),
        Stage::Fragment => fragment::forward_later(skb),
        Stage::Unreadable => read::unreadable(skb),
        stage => stage,
    };
    if scratch.fresh != 0 {
        flow = look_up();
    }
    stage = client_data(skb, stage, flow);
    stage = match stage {
        Stage::OpenOwner => hold::open_owner(skb, flow),
        Stage::CompleteSplice => server::complete_splice(skb, flow),
        Stage::Learn => server_flight::learn(skb, flow),
        stage => stage,
    };
    if stage == Stage::Settled {
        stage = settled(skb, flow);
    }
    if matches!(
        stage,
        Stage::SynToOwner
            | Stage::Reset
            | Stage::ResetThenOwner
            | Stage::ResetThenFirst
            | Stage::Flush
    ) {
        stage = make(skb, stage);
    }
    set_plan(stage, flow, plan)
}

/// A client's data on a flow that is not settled: decided on, buffered, decided on again as it
/// grows, and once more where gathering ends without a decision.
#[inline(always)]
fn client_data(skb: *mut __sk_buff, mut stage: Stage, flow: *mut Flow) -> Stage {
    if stage == Stage::DecidePacket {
        stage = decide(flow, Input::Packet);
    }
    if stage == Stage::Data {
        stage = hold::client_data(skb, flow);
    }
    if stage == Stage::Buffer {
        stage = hold::buffer_data(skb, flow);
    }
    if stage == Stage::DecideBuffer {
        stage = decide(flow, Input::Buffer);
    }
    if stage == Stage::Buffered {
        stage = hold::on_buffered(flow);
    }
    if stage == Stage::DecideLast {
        stage = decide(flow, Input::Last);
    }
    if stage == Stage::StopGathering {
        stage = hold::stop_gathering(flow);
    }
    stage
}

/// The bytes of a hello are decided on. Which ones goes by the scratch: an argument that is known
/// multiplies the verifier's paths.
#[inline(always)]
fn decide(flow: *mut Flow, look: Input) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    scratch.range.input = look as u32;
    hello::decide(flow)
}

/// What else a packet says of its settled flow.
#[inline(always)]
fn settled(skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if scratch.direction == Direction::ToBackend {
        if client::settled_client(skb, flow) != 0 {
            hello::hear_second_hello(skb, flow);
        }
    } else if scratch.segment.any(flags::FIN | flags::RST) || is_closed(flow) {
        record_end(skb, flow);
    }
    Stage::Forward
}

#[inline(always)]
fn is_closed(flow: *const Flow) -> bool {
    // SAFETY: not null is checked; a map value, of which a word is read.
    !flow.is_null() && unsafe { (*flow).flags } & FLOW_CLOSED != 0
}

/// The packet becomes another one, or several. What it carried is summed first, so that its
/// checksum can be carried over.
#[inline(always)]
fn make(skb: *mut __sk_buff, stage: Stage) -> Stage {
    sums::sum_payload(skb);
    if matches!(stage, Stage::ResetThenOwner | Stage::ResetThenFirst) {
        emit::reset_copy(skb);
    }
    let stage = match stage {
        Stage::SynToOwner => emit::syn_to_owner(skb),
        Stage::Reset => emit::reset_packet(skb),
        Stage::ResetThenOwner => emit::emit_buffered(skb, 1),
        _ => emit::emit_buffered(skb, 0),
    };
    if stage == Stage::Emit { emit::emit_segments(skb) } else { stage }
}

/// Enters how a packet is forwarded, if that is what the last stage said.
#[inline(always)]
fn set_plan(stage: Stage, flow: *mut Flow, plan: &mut Plan) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !matches!(stage, Stage::Forward | Stage::Plain | Stage::DirectPlain) {
        return stage;
    }
    plan.direction = scratch.direction;
    let to_client = plan.direction == Direction::ToClient;
    plan.from_vip = to_client && stage != Stage::DirectPlain;
    plan.seconds = scratch.seconds;
    // A backend that knows its client under another port.
    let own = scratch.key.client_port;
    let translated = to_client && scratch.segment.destination_port != own;
    plan.client_port = if translated { own } else { [0; 2] };
    if stage != Stage::Forward {
        plan.id = scratch.plain;
        let handshake = if plan.from_vip { HANDSHAKES.get_ptr_mut(&scratch.key) } else { None };
        plan.flow = handshake.unwrap_or(null_mut());
        if !to_client {
            plan.client_port = scratch.first_port;
        }
        return Stage::Forward;
    }
    if flow.is_null() {
        return drop(Counter::FlowBusy);
    }
    // SAFETY: not null; as in `settled_flow`.
    let record = unsafe { &*flow };
    plan.id = scratch.backend;
    if !to_client {
        plan.id = record.holder() as u32;
        plan.client_port = record.port_at_holder();
    }
    plan.flow = flow;
    Stage::Forward
}

/// The flow of the packet at hand.
#[inline(always)]
fn look_up() -> *mut Flow {
    scratch().and_then(|scratch| FLOWS.get_ptr_mut(&scratch.key)).unwrap_or(null_mut())
}

/// Reads and classifies the packet: with a plan if its flow is settled, else names the stage that
/// deals with it.
#[inline(always)]
fn tc_settled(skb: *mut __sk_buff, scratch: *mut Scratch, plan: &mut Plan) -> Stage {
    // SAFETY: the caller's. Not a reference that is handed in: the compiler would take it for the
    // only one, and what is called here looks the same memory up.
    let scratch = unsafe { &mut *scratch };
    (scratch.begun, scratch.fresh) = (0, 0);
    let hook = &Tc(skb);
    if hook.tagged() {
        return pass(Counter::VlanPassed);
    }
    if hook.for_others() {
        return pass(Counter::OtherStation);
    }
    make_headers_linear(hook);
    match read(hook, scratch) {
        Ok(()) => {}
        Err(Counter::IcmpPassed) => return Stage::Icmp,
        Err(Counter::FragmentPassed) => return Stage::Fragment,
        Err(Counter::Malformed) => {
            if scratch.ip.protocol == PROTOCOL_TCP && scratch.ip.part == Part::First {
                fragment::begin(scratch);
            }
            return Stage::Unreadable;
        }
        Err(reason) => return pass(reason),
    }
    if scratch.ip.part == Part::First {
        fragment::begin(scratch);
    }
    let Some(role) = classify(scratch) else { return pass(Counter::NotOurs) };
    if !set_key(scratch, &role) {
        return Stage::Pass;
    }
    if let Role::Direct(id) = role {
        set_packet(scratch, Direction::ToBackend);
        scratch.backend = id;
        return Stage::Direct;
    }
    let syn = scratch.segment.any(flags::SYN);
    if !scratch.segment.any(SLOW) && !begins_hello(hook, scratch, &role) {
        if settled_flow(hook, scratch, &role, plan) {
            return Stage::Forward;
        }
    } else if !syn || matches!(role, Role::Server(_)) {
        plan.flow = look_up();
    }
    scratch.first_port = [0; 2];
    let seconds = set_packet(scratch, Direction::ToBackend);
    if is_filling(seconds) && !is_of_settled(plan.flow) {
        return drop(Counter::TablesFilling);
    }
    match role {
        Role::Client(vip) => {
            // SAFETY: a map value, copied at once.
            scratch.vip = unsafe { *vip };
            if syn { Stage::Syn } else { Stage::Client }
        }
        Role::Server(id) => {
            scratch.direction = Direction::ToClient;
            scratch.backend = id;
            Stage::Server
        }
        Role::Direct(_) => Stage::Pass,
    }
}

/// Enters what the stages go by besides the headers of the packet that was read; now, seconds.
#[inline(always)]
fn set_packet(scratch: &mut Scratch, direction: Direction) -> u32 {
    scratch.direction = direction;
    scratch.sum = Sum::default();
    scratch.now = 0;
    seconds(scratch)
}

/// Whether a flow's record says which backend has it for good.
#[inline(always)]
fn is_of_settled(flow: *const Flow) -> bool {
    if flow.is_null() {
        return false;
    }
    // SAFETY: a map value; its word is read at once.
    let word = lock::read(unsafe { &*flow });
    word.is(State::Spliced) || word.is(State::First)
}

/// Forwards the packet; what became of it.
#[inline(always)]
fn tc_deliver(skb: *mut __sk_buff, scratch: *mut Scratch, plan: &Plan) -> Stage {
    // SAFETY: as in `tc_settled`.
    let scratch = unsafe { &mut *scratch };
    match deliver(&Tc(skb), plan, scratch) {
        Ok(action) => {
            if scratch.ip.part == Part::First {
                return fragment::sent(skb, action as u32 & 0xff);
            }
            act(scratch, action as u8)
        }
        Err(Refused::OtherHook(reason) | Refused::Dropped(reason)) => drop(reason),
        // Towards a client the stack would route the packet as it is and say so itself; towards a
        // backend it would be delivered here.
        Err(Refused::HopLimit) if plan.direction == Direction::ToClient => pass(Counter::HopLimit),
        Err(Refused::HopLimit) => drop(Counter::HopLimit),
        Err(Refused::TooBig) => {
            // A settled flow's packet comes here without having been entered.
            scratch.direction = plan.direction;
            Stage::TooBig
        }
    }
}

/// Enters the plan for a packet of a flow that has a backend for good and from which nothing is to
/// be learned; of any other flow it enters the record. False where the packet is not such a one.
#[inline(always)]
fn settled_flow<H: Hook>(hook: &H, scratch: &mut Scratch, role: &Role, plan: &mut Plan) -> bool {
    let Some(flow) = FLOWS.get_ptr_mut(&scratch.key) else { return false };
    plan.flow = flow;
    // SAFETY: a map value; each field is read and written as a word, and a lost race costs one
    // stamp.
    let record = unsafe { &*flow };
    let word = lock::read(record);
    const WANTED: u32 = FLOW_LEARNED | FLOW_CLOSED | FLOW_RIVALLED;
    if !word.is_settled() || record.flags & WANTED != FLOW_LEARNED {
        return false;
    }
    let (holder, port) = record.holding();
    plan.id = holder as u32;
    plan.seconds = seconds(scratch);
    match role {
        Role::Client(vip) => {
            plan.client_port = port;
            // SAFETY: as above.
            let timeout = unsafe { (**vip).flow_timeout };
            let follows = H::XDP || is_exact(record, &scratch.segment);
            idle(record, plan.seconds) <= timeout && (!follows || comes_by(hook, record))
        }
        // What its backend sends to the client's own port is another connection's where the flow
        // has another port there.
        Role::Server(from) => {
            (plan.direction, plan.from_vip) = (Direction::ToClient, true);
            *from == plan.id
                && u16::from_ne_bytes(port) == 0
                && (!H::XDP || is_for_us(hook, plan.id))
        }
        Role::Direct(_) => false,
    }
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
