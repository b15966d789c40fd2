//! What is told of flows and identifiers, in sentences.

use steer_common::{
    counters::Counter,
    decide::Verdict,
    flow::State,
    session::Kind,
    shared::{FLOW_ACK_SWALLOWED, Flow, FlowKey},
};

use super::super::{
    FlowReport, Outcome, Reason,
    world::{Known, World},
};
use crate::service::Service;

pub(super) fn times(n: u32) -> String {
    match n {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}

/// The word of a verdict in JSON.
pub(super) fn verdict_word(verdict: Verdict) -> String {
    match verdict {
        Verdict::Owner(_) => "moved".to_owned(),
        Verdict::First(reason) => reason.word().to_owned(),
        Verdict::NeedMore => "unknown".to_owned(),
    }
}

/// An identifier, for sentences.
pub(super) fn title(kind: Kind, id: &str) -> String {
    match kind {
        Kind::SessionId => format!("session ID {id}.."),
        Kind::Ticket => format!("ticket {id}.."),
        Kind::KeyName => format!("key name {id}"),
    }
}

pub(super) fn dialled(flow: &FlowReport, key: &FlowKey) -> String {
    let what = match (flow.dialled, flow.vip) {
        (Some(to), Some(Service::Pool(pool))) => format!("{to} itself, a backend of pool {pool}"),
        (Some(to), _) if key.dialled().is_none() => format!("VIP {to}"),
        (Some(to), _) => format!("{to} itself"),
        (None, _) => "what is forgotten by now".to_owned(),
    };
    let ended = if flow.ended { ", and the connection has ended" } else { "" };
    format!(
        "{} dialled {what}; its state is {}, its last packet passed {}s ago{ended}.",
        flow.client,
        flow.state.word(),
        flow.idle_seconds
    )
}

pub(super) fn offered(flow: &FlowReport) -> String {
    let what = flow.offered.as_ref().map(|offered| {
        let kind = if offered.kind == Kind::Ticket.word() { Kind::Ticket } else { Kind::SessionId };
        let identity =
            offered.identity.map_or(String::new(), |i| format!(", its PSK identity {i}"));
        format!("{} ({} bytes{identity})", title(kind, &offered.id), offered.length)
    });
    match (flow.reason, what) {
        (Reason::Undecided, _) if flow.state == State::Gather => {
            "Its hello is not whole yet.".to_owned()
        }
        (Reason::Undecided, _) => "It sent no hello yet.".to_owned(),
        (Reason::Adopted, _) => "Its beginning was not seen by this record.".to_owned(),
        (Reason::NoHello, _) => {
            "No hello was read of it: it sent none, it is no TLS or cannot be read, its server spoke first, \
             steering was off (bypass), its options forbid to move it, or its record was made anew."
                .to_owned()
        }
        (Reason::Retried, None) => {
            "Its backend asked for a second hello, which offered nothing or was not read.".to_owned()
        }
        (Reason::Retried, Some(what)) => {
            format!("Its backend asked for a second hello, which offered {what}.")
        }
        (Reason::NothingOffered, _) => "Its hello offered no session.".to_owned(),
        (_, Some(what)) => format!("Its hello offered {what}."),
        (_, None) => "What its hello offered is not kept.".to_owned(),
    }
}

pub(super) fn went(world: &World, flow: &FlowReport, record: &Flow) -> String {
    let first = world.named(flow.first);
    let owner = flow.owner.map_or_else(String::new, |owner| world.named(owner));
    let port = flow.port_at_holder.map_or(String::new(), |port| {
        format!(", which knows the client by port {port} (another connection has its own there)")
    });
    match (flow.reason, flow.state) {
        (Reason::Undecided, State::Syn) => {
            format!("Its first backend is {first}, which did not answer yet{port}.")
        }
        (Reason::Undecided, State::SynAck) => {
            format!("Its first backend is {first}, which answered; the client did not yet{port}.")
        }
        (Reason::Undecided, _) => {
            let swallowed = if record.flags & FLOW_ACK_SWALLOWED != 0 {
                " (which has not heard of the client's acknowledgement)"
            } else {
                ""
            };
            format!("Its first backend {first}{swallowed} holds it until the hello decides{port}.")
        }
        (Reason::Session, State::Wait) => format!(
            "The session was known, its owner is {owner}: that one was asked {} and did not answer yet.",
            times(record.owner_tries.into())
        ),
        (Reason::KeyName, State::Wait) => format!(
            "The name of its ticket's key was known, its owner is {owner}: that one was asked {} and did not answer yet.",
            times(record.owner_tries.into())
        ),
        (_, State::Wait) => format!("It is being moved from {first} to {owner}."),
        (Reason::Session, _) => format!(
            "The session was known: the flow was moved from its first backend {first} to the owner {owner}{port}."
        ),
        (Reason::KeyName, _) => format!(
            "The name of its ticket's key was known: the flow was moved from its first backend {first} to the owner {owner}{port}."
        ),
        (Reason::Search, _) => format!(
            "Nobody knew the name of its ticket's key: the flow was moved from its first backend {first} to {owner} on a guess{port}."
        ),
        (Reason::Retried, State::Spliced) => {
            format!("The flow was moved from its first backend {first} to {owner}{port}.")
        }
        (Reason::AtOwner, _) => format!(
            "It was known, and its first backend {first} owns it: there was nothing to move{port}."
        ),
        (Reason::GivenUp, _) => format!(
            "It was known, its owner is {owner}: that one was asked {} and given up (silent, refused, or agreed to other \
             options), so the flow stays with its first backend {first}{port}.",
            times(record.owner_tries.into())
        ),
        (Reason::NotMoved, _) => format!(
            "It was known, and the flow was not moved: its owner was down, drained, resting, refusing or out of reach, or it was \
             too old, or nothing is moved here (observe mode). It stays with its first backend {first}{port}."
        ),
        (Reason::Unknown, _) => {
            format!("Nobody knew it: the flow stays with its first backend {first}{port}.")
        }
        (Reason::NothingOffered | Reason::NoHello | Reason::Retried | Reason::Adopted, _) => {
            format!("The flow stays with its first backend {first}{port}.")
        }
    }
}

/// What the holder answered, where that is told.
pub(super) fn answered(world: &World, flow: &FlowReport) -> Option<String> {
    let holder = world.named(flow.holder);
    let version = flow.version.as_ref().map_or(String::new(), |v| format!(" (TLS {v})"));
    let offers = flow.offered.is_some() && flow.reason != Reason::NothingOffered;
    match flow.outcome {
        Outcome::Resumed => Some(format!("{holder} accepted it and resumed{version}.")),
        Outcome::Full if offers => {
            Some(format!("{holder} did not accept it: a full handshake{version}."))
        }
        Outcome::Full => Some(format!("{holder} made a full handshake{version}.")),
        Outcome::Unknown => None,
    }
}

/// What a verdict means for the next hello. Clients of TLS 1.3 offer each ticket once: what comes
/// next is another one of the same key.
pub(super) fn sentence(world: &World, known: &Known, verdict: Option<Verdict>) -> String {
    let it = match known {
        Known::KeyName(_) => "a ticket of that key",
        Known::Session(_) => "it",
    };
    let left = if world.leave {
        " (but the gateway is being left: new connections pass to the kernel's own rules)"
    } else {
        ""
    };
    let Some(verdict) = verdict else {
        return "Its VIP is gone: no hello can offer it any more.".to_owned();
    };
    match verdict {
        Verdict::Owner(owner) => {
            format!("The next hello with {it} is moved to {}{left}.", world.named(owner))
        }
        Verdict::First(Counter::SessionHit) => {
            format!("The next hello with {it} comes to its owner at once{left}.")
        }
        Verdict::First(reason) => format!(
            "The next hello with {it} stays with its first backend ({}): {}{left}.",
            reason.word(),
            because(reason)
        ),
        Verdict::NeedMore => "What the next hello gets cannot be told.".to_owned(),
    }
}

pub(super) fn because(reason: Counter) -> &'static str {
    match reason {
        Counter::Bypassed => "steering is off (bypass)",
        Counter::SessionExpired => "it is too old by now",
        Counter::KeyNameShared => {
            "several backends have its key, so the name does not steer, and any of them may open it"
        }
        Counter::OwnerDown => "its owner is down or gone",
        Counter::OwnerDrained => "its owner's drain is past its deadline",
        Counter::OwnerRefuses => {
            "its owner refused the last ones and accepted none for an hour; one of sixteen is moved all the same"
        }
        Counter::Observed => "in observe mode nothing is moved",
        Counter::OwnerIsClient => "its owner is the client itself",
        Counter::OwnerResting => "its owner did not answer the last moves, and rests",
        Counter::OwnerNoRoute => "no frames to its owner and from it passed the bridge lately",
        Counter::VlanAmbiguous => "frames to it come with the tags of two VLANs",
        other => other.help(),
    }
}
