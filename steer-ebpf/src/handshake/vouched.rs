//! A backend's packet whose flow has no record: what vouches for whose it is.

use aya_ebpf::bindings::__sk_buff;
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::{FLOW_ANSWERED_TWICE, FLOW_COLLIDED, FLOW_MADE, Flow, SWITCH_RESIZING, VIP_SHARED},
    wire::tcp::flags,
};

use crate::{
    flows::{
        foreign::{self, at_backend},
        legs,
        lock::mark,
        stamps::AHEAD,
        table::lookup,
        traces::{find_syn_trace, find_trace, forget_syn_trace},
    },
    forward::next_hop::{fib, fib_lookup},
    handshake::unknown::{restore, taking_over},
    hook::tc::Tc,
    maps::{HANDSHAKES, count, switch},
    scratch::{Scratch, scratch},
    stage::{Stage, drop, pass, plain},
};

/// A backend's packet whose flow has no record: of a handshake, or of a flow that left a trace, it
/// goes to the client. Else nothing says that it is of the VIP: a health check, a connection that
/// its client dialled itself, or one that the kernel translates. It passes, unless the operator
/// said that this gateway takes over from another one.
#[inline(always)]
pub(crate) fn no_flow(skb: *mut __sk_buff, scratch: &mut Scratch, id: u32) -> Stage {
    if let Some(handshake) = HANDSHAKES.get_ptr_mut(&scratch.key)
        // SAFETY: a map value; a lost race costs one stamp.
        && let handshake = unsafe { &mut *handshake }
        && handshake.first as u32 == id
        && handshake.first_port == scratch.first_port
        // What a flow was made of says nothing more, once the flow is over.
        && handshake.flags & FLOW_MADE == 0
    {
        scratch.entrance = handshake.entrance();
        match of_handshake(scratch, handshake) {
            Whose::Its => {
                // Its backend knows nothing of what was adopted: no connection is there.
                if StateWord(handshake.word).state() == State::Adopted {
                    let _ = HANDSHAKES.remove(&scratch.key);
                    forget_syn_trace();
                }
                return plain(scratch, id);
            }
            Whose::Another => {
                mark(handshake, FLOW_ANSWERED_TWICE);
                return plain(scratch, id);
            }
            Whose::Others if switch(SWITCH_RESIZING) && find_syn_trace() as u32 == id => {}
            // A SYN in a flow's name, forged or not, does not make its trace another's.
            Whose::Others if is_traced(scratch, id) => {}
            Whose::Others => {
                mark(handshake, FLOW_COLLIDED);
                return pass(Counter::BackendPassed);
            }
            Whose::Flows => {
                return match restore(scratch, id as u16) {
                    Some(_) => found(scratch),
                    None => plain(scratch, id),
                };
            }
        }
    }
    // A leg is evidence, too.
    let by_leg = scratch.first_port != [0; 2];
    if (by_leg || is_traced(scratch, id)) && restore(scratch, id as u16).is_some() {
        return found(scratch);
    }
    // The handshake's record was pushed out, or another interface's programs have it.
    if find_syn_trace() as u32 == id && !has_another(scratch, id) {
        count(Counter::TraceFound);
        return plain(scratch, id);
    }
    let syn = scratch.segment.flags & flags::SYN != 0;
    if syn || !taking_over(scratch) || lookup(scratch) as u32 != id || is_local(skb) != 0 {
        return pass(Counter::BackendPassed);
    }
    // Which of its VIPs the client dialled nobody knows; its own next packet says it.
    if scratch.vip.flags & VIP_SHARED != 0 {
        return drop(Counter::EntranceUnknown);
    }
    count(Counter::NoFlowTranslated);
    plain(scratch, id)
}

/// Whether a flow left a trace at a backend, where it has its client's own port.
#[inline(always)]
fn is_traced(scratch: &Scratch, id: u32) -> bool {
    find_trace() as u32 == id && legs::way_there(scratch, id, false).is_none()
}

/// Whose a first backend's packet is that answers no SYN as it should.
enum Whose {
    /// The handshake's.
    Its,
    /// The answer to another SYN of the same addresses, which stands in no record.
    Another,
    /// Of a flow that was adopted, or that another answered SYN opened: the backend vouches for it.
    Flows,
    /// Of another connection with this client's port.
    Others,
}

#[inline(always)]
fn of_handshake(scratch: &Scratch, handshake: &Flow) -> Whose {
    let (word, segment) = (StateWord(handshake.word), &scratch.segment);
    let rst = segment.any(flags::RST);
    if word.state() == State::Adopted {
        return if rst { Whose::Its } else { Whose::Flows };
    }
    let answers = segment.ack == word.isn().wrapping_add(1);
    let syn_ack = segment.flags & (flags::SYN | flags::ACK) == flags::SYN | flags::ACK;
    if answers {
        return Whose::Its;
    }
    // The answer to a client's packet that belongs to another backend's answer: the client must
    // hear that its connection is none, or it waits for ever (RFC 9293 3.10.7.1).
    if rst && !segment.any(flags::ACK) && !has_another(scratch, scratch.backend) {
        return Whose::Its;
    }
    // What it sends behind its own SYN-ACK is of the connection that this opened.
    let ahead = segment.seq.wrapping_sub(handshake.first_isn.wrapping_add(1));
    if word.state() == State::SynAck && !syn_ack && ahead < AHEAD {
        return Whose::Its;
    }
    let answered_twice = handshake.flags & FLOW_ANSWERED_TWICE != 0;
    if !(syn_ack || answered_twice) || has_another(scratch, scratch.backend) {
        return Whose::Others;
    }
    if syn_ack {
        Whose::Another
    } else if rst {
        Whose::Its
    } else {
        Whose::Flows
    }
}

/// Whether the packet's destination is this host's own address.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_local(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return 1 };
    (fib_lookup(&Tc(skb), &mut scratch.fib, &scratch.ip.source, &scratch.ip.destination)
        == fib::NOT_FORWARDED) as i32
}

/// Whether the client in `scratch.key` has another connection at a backend with its port, one that
/// it dialled itself.
#[inline(always)]
pub(crate) fn has_another(scratch: &Scratch, id: u32) -> bool {
    foreign::is_known(&at_backend(scratch, id), scratch.seconds, scratch.vip.flow_timeout)
}

/// The flow's record was made anew.
#[inline(always)]
fn found(scratch: &mut Scratch) -> Stage {
    scratch.fresh = 1;
    Stage::Forward
}
