//! A packet's way: read, classified by address, forwarded at once if its flow is settled.

use aya_ebpf::bindings::__sk_buff;
use core::ptr::null_mut;
use steer_common::{
    counters::Counter,
    flow::{Direction, State},
    shared::{FLOW_CLOSED, FLOW_HELLO, FLOW_LEARNED, Flow, NO_ENTRANCE, VIP_SHARED},
    wire::{
        ip::{PROTOCOL_TCP, Part},
        tcp::flags,
    },
};

use crate::{
    decide::hello,
    flows::{entrances, fast, legs, lock, stamps::record_end, table},
    forward::{
        bridge,
        deliver::{deliver, go_by, go_on},
        direct, fragment, icmp,
        next_hop::Refused,
        resegment,
        settled::settled_flow,
        too_big,
    },
    handshake::syn,
    hook::{
        Hook,
        tc::{DROP, NEXT, Tc},
        xdp::Xdp,
    },
    learn::server_flight,
    maps::{HANDSHAKES, SETTINGS, count, is_filling},
    packet::{
        read::{self, Role, begins_hello, classify, make_headers_linear, read, set_key},
        sums,
    },
    port::Port,
    rehome::{client, emit, hold, server},
    scratch::{Input, Scratch, Sum, Way, scratch, seconds},
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
    (scratch.first_port, scratch.port) = ([0; 2], Port::NONE);
    let Some(role) = classify(scratch) else { return ON };
    if matches!(role, Role::Direct(_)) {
        return Outcome::Pass(Counter::XdpToTc);
    }
    let now = seconds(scratch);
    set_way(scratch, now);
    let mut flow = null_mut();
    let slow = scratch.segment.any(SLOW) || begins_hello(hook, scratch, &role);
    if slow || !set_key(scratch, &role) || !settled_flow(hook, scratch, &role, &mut flow) {
        return Outcome::Pass(Counter::XdpToTc);
    }
    let delivered = deliver(hook, scratch);
    enter(scratch);
    match delivered {
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
    let mut flow = null_mut();
    let Some(scratch) = scratch() else { return DROP };
    let mut stage = tc_settled(skb, scratch, &mut flow);
    if stage != Stage::Forward {
        stage = stages(skb, stage, flow);
    }
    if stage == Stage::Forward {
        stage = tc_deliver(skb, scratch);
    }
    enter(scratch);
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

/// The slow path from a stage on ([`steer_common::stage`] has what may follow which), to the way
/// by which the packet is forwarded, or to what else becomes of it. A sequence, not a loop over one
/// `match`: the verifier would need a quarter more.
#[inline(always)]
fn stages(skb: *mut __sk_buff, mut stage: Stage, mut flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    // Looked up once and handed down: a look-up costs as much as three stages.
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
    set_flow_way(skb, stage, flow)
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
    if fast::is_on() && scratch.segment.any(flags::FIN | flags::RST) {
        // Whoever entered the flow meanwhile has not seen its end.
        fast::take_back_fast(&raw const scratch.key, flow);
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
fn set_flow_way(skb: *mut __sk_buff, stage: Stage, flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !matches!(stage, Stage::Forward | Stage::Plain | Stage::DirectPlain) {
        return stage;
    }
    scratch.way.direction = scratch.direction;
    let to_client = scratch.way.direction == Direction::ToClient;
    scratch.way.from_vip = to_client && stage != Stage::DirectPlain;
    // A backend that knows its client under another port.
    let own = scratch.key.client_port;
    let translated = to_client && scratch.segment.destination_port != own;
    scratch.way.client_port = if translated { own } else { [0; 2] };
    if stage != Stage::Forward {
        scratch.way.id = scratch.plain;
        if !to_client {
            scratch.way.client_port = scratch.first_port;
        }
        let handshake =
            if scratch.way.from_vip { HANDSHAKES.get_ptr_mut(&scratch.key) } else { None };
        if let Some(handshake) = handshake {
            // SAFETY: a map value; as in `settled_flow`.
            go_by(&Tc(skb), unsafe { &mut *handshake }, scratch);
        }
        if scratch.entrance != NO_ENTRANCE {
            scratch.way.translation.entrance = scratch.entrance;
        }
        return Stage::Forward;
    }
    if flow.is_null() {
        return drop(Counter::FlowBusy);
    }
    // SAFETY: not null; as in `settled_flow`.
    let record = unsafe { &mut *flow };
    scratch.way.id = scratch.backend;
    if !to_client {
        scratch.way.id = record.holder() as u32;
        scratch.way.client_port = record.port_at_holder();
    }
    go_by(&Tc(skb), record, scratch);
    Stage::Forward
}

/// The flow of the packet at hand.
#[inline(always)]
fn look_up() -> *mut Flow {
    scratch().map_or(null_mut(), |scratch| table::find(scratch))
}

/// Reads and classifies the packet: its way is entered if its flow is settled, else the stage that
/// deals with it is named.
#[inline(always)]
fn tc_settled(skb: *mut __sk_buff, scratch: *mut Scratch, flow: &mut *mut Flow) -> Stage {
    // SAFETY: the caller's. Not a reference that is handed in: the compiler would take it for the
    // only one, and what is called here looks the same memory up.
    let scratch = unsafe { &mut *scratch };
    (scratch.begun, scratch.fresh, scratch.way.enters) = (0, 0, false);
    (scratch.first_port, scratch.port) = ([0; 2], Port::NONE);
    let hook = &Tc(skb);
    if hook.for_others() {
        // Not touched, not even a tag that names no VLAN: at a bridge it goes on.
        match bridge::port(hook) {
            Ok(port) if port.is_bridges() => scratch.port = port,
            Ok(_) => return pass(Counter::OtherStation),
            Err(reason) => return pass(reason),
        }
    } else if hook.tagged() {
        return pass(Counter::VlanPassed);
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
    let now = seconds(scratch);
    set_way(scratch, now);
    if scratch.port.waits() {
        return bridge::wait(matches!(role, Role::Server(_)) as u32);
    }
    if scratch.port.is_bridges() {
        let side = match role {
            Role::Client(_) => scratch.port.is_outside(),
            Role::Server(_) | Role::Direct(_) => scratch.port.is_inside(),
        };
        if !side {
            return pass(Counter::BridgeOtherSide);
        }
        if let Err(reason) = bridge::note(hook, scratch, &role) {
            return pass(reason);
        }
    }
    if let Role::Direct(id) = role {
        set_packet(scratch, Direction::ToBackend);
        scratch.backend = id;
        return Stage::Direct;
    }
    let syn = scratch.segment.any(flags::SYN);
    if !scratch.segment.any(SLOW) && !begins_hello(hook, scratch, &role) {
        if settled_flow(hook, scratch, &role, flow) {
            return Stage::Forward;
        }
    } else if let Role::Server(id) = role {
        legs::resolve(scratch, id);
        *flow = look_up();
    } else if !syn {
        *flow = look_up();
    }
    let seconds = set_packet(scratch, Direction::ToBackend);
    if is_filling(seconds) && !is_done_with(scratch, *flow) {
        return drop(Counter::TablesFilling);
    }
    match role {
        Role::Client(vip) => {
            // SAFETY: a map value, copied at once.
            scratch.vip = unsafe { *vip };
            if scratch.vip.flags & VIP_SHARED != 0 {
                entrances::choose_key();
                *flow = look_up();
            }
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
    scratch.seconds
}

/// Of the packet's way nothing is known yet but that it came now, in seconds.
#[inline(always)]
fn set_way(scratch: &mut Scratch, now: u32) {
    scratch.way = Way::at(now);
    scratch.hop.ifindex = 0;
}

/// Enters the flow that the packet at hand went by into the cache of settled ones, where it may.
#[inline(always)]
fn enter(scratch: *const Scratch) {
    // SAFETY: the working memory.
    if fast::is_on() && unsafe { (*scratch).way.enters } {
        fast::enter_fast();
    }
}

/// Whether a flow's record says which backend has it for good, and no handshake is read from it: its
/// two sides may have different tables, and what each of them says stands in one alone. Nobody
/// repeats a reset.
#[inline(always)]
fn is_done_with(scratch: &Scratch, flow: *const Flow) -> bool {
    if flow.is_null() {
        return false;
    }
    // SAFETY: a map value; its word and its flags are read at once.
    let (word, flags) = unsafe { (lock::read(&*flow), (*flow).flags) };
    (word.is(State::Spliced) || word.is(State::First))
        && (flags & (FLOW_HELLO | FLOW_LEARNED) != FLOW_HELLO || scratch.segment.any(flags::RST))
}

/// Forwards the packet; what became of it.
#[inline(always)]
fn tc_deliver(skb: *mut __sk_buff, scratch: *mut Scratch) -> Stage {
    // SAFETY: as in `tc_settled`.
    let scratch = unsafe { &mut *scratch };
    if scratch.port.is_bridges() && is_between_its_stations(scratch) {
        return go_on(skb);
    }
    match deliver(&Tc(skb), scratch) {
        Ok(action) => {
            if scratch.port.is_bridges() && bridge::set_tag(skb, scratch.vlan) != 0 {
                return drop(Counter::EmitFailed);
            }
            if scratch.ip.part == Part::First {
                return fragment::sent(skb, action as u32 & 0xff);
            }
            act(scratch, action as u8)
        }
        // It is on its way there already, and the stack may know one that the forwarding table does
        // not tell.
        Err(Refused::Dropped(reason))
            if reason as u32 == Counter::NoRoute as u32 && is_as_it_came(scratch) =>
        {
            pass(Counter::LeftToStack)
        }
        Err(Refused::OtherHook(reason) | Refused::Dropped(reason)) => drop(reason),
        Err(Refused::HopLimit) if is_as_it_came(scratch) => pass(Counter::HopLimit),
        // Towards a client the stack would route the packet as it is and say so itself; towards a
        // backend it would be delivered here.
        Err(Refused::HopLimit) if scratch.way.direction == Direction::ToClient => {
            pass(Counter::HopLimit)
        }
        Err(Refused::HopLimit) => drop(Counter::HopLimit),
        // A bridge says nothing about it, having no address.
        Err(Refused::TooBig) if scratch.port.is_bridges() => drop(Counter::TooBigDropped),
        Err(Refused::TooBig) => {
            // A settled flow's packet comes here without having been entered.
            scratch.direction = scratch.way.direction;
            Stage::TooBig
        }
    }
}

/// Whether the packet at hand is between a client and the backend that it dialled itself.
#[inline(always)]
fn is_between_its_stations(scratch: &Scratch) -> bool {
    let way = &scratch.way;
    way.translation.spliced == 0
        && scratch.key.dialled().is_some_and(|dialled| dialled as u32 == way.id)
}

/// Whether nothing of it is to be changed but its hop.
#[inline(always)]
fn is_as_it_came(scratch: &Scratch) -> bool {
    is_between_its_stations(scratch) && u16::from_ne_bytes(scratch.way.client_port) == 0
}
