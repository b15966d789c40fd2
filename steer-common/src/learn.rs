//! What a backend's finished handshake teaches.
//!
//! A ServerHello names a session, but anyone may ask for one. Only the backend's ChangeCipherSpec
//! (TLS 1.2 and below: RFC 5246 7.1, after the client's Finished) says that it accepted the
//! client's handshake; until then what was seen is held in the flow's record. Some backends accept
//! one without the certificate that they asked for, and refuse the client later, inside of TLS: so
//! where one was asked for, what the client answered counts too. In TLS 1.3 the acceptance of a PSK
//! says the same at once: its binder was verified.

use crate::{
    flow::{State, StateWord},
    refusals::Offer,
    session::Kind,
    shared::{FLOW_AT_OWNER, FLOW_HIT, FLOW_NAMED, Flow, Source, Vip},
    wire::tls::{client_certificate::Answer, server_flight::seen},
};

/// How a handshake came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The backend resumed the client's session.
    Resumed,
    /// A full handshake.
    Full,
    /// Bytes that would tell were missed.
    Unknown,
}

/// What a handshake teaches that ended with the backend's ChangeCipherSpec.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taught {
    /// How it came out.
    pub outcome: Outcome,
    /// The lesson is a session that the backend issued: it is its owner.
    pub issued: bool,
    /// The session that the client offered was known, and was used.
    pub used: bool,
}

/// How the handshake at hand came out so far.
#[inline(always)]
pub fn outcome(flow: &Flow) -> Outcome {
    if flow.follow.seen & seen::FULL != 0 {
        return Outcome::Full;
    }
    if flow.follow.seen & seen::RESUMED != 0 {
        return Outcome::Resumed;
    }
    Outcome::Unknown
}

/// Judges a handshake of TLS 1.2 or below at its backend's ChangeCipherSpec.
///
/// An echoed session ID refreshes a session and never makes one: a client that offers a ticket
/// makes its ID up (RFC 5077 3.4), and one that offers an ID could ask for anything.
#[inline(always)]
pub fn taught(flow: &Flow) -> Taught {
    let (outcome, follow) = (outcome(flow), &flow.follow);
    let echo = follow.lesson_len == flow.offered_len && follow.lesson == flow.offered_bytes;
    let issued = match Kind::from_number(follow.lesson_kind) {
        Some(Kind::Ticket) => true,
        Some(Kind::SessionId) => match outcome {
            Outcome::Full => !echo,
            Outcome::Resumed => false,
            Outcome::Unknown => !echo && flow.offered_kind != Kind::Ticket as u8,
        },
        Some(Kind::KeyName) | None => false,
    };
    let resumed = outcome == Outcome::Resumed || (outcome == Outcome::Unknown && echo);
    Taught {
        outcome,
        issued,
        used: resumed && flow.offered_kind != 0 && flow.flags & FLOW_HIT != 0,
    }
}

/// By what the flow's backend was held to own what it accepted or refused; `None` where it was not.
#[inline(always)]
pub fn offer(flow: &Flow, accepted: bool) -> Option<Offer> {
    let moved = matches!(StateWord(flow.word).state(), State::Spliced);
    if flow.offered_kind == 0 || (!moved && flow.flags & FLOW_AT_OWNER == 0) {
        return None;
    }
    if flow.flags & FLOW_HIT == 0 {
        return if accepted { Some(Offer::KeyName) } else { None };
    }
    if flow.flags & FLOW_NAMED != 0 {
        return Some(Offer::KeyName);
    }
    Some(if flow.offered_kind == Kind::Ticket as u8 { Offer::Ticket } else { Offer::SessionId })
}

/// What is known of the certificate of a client that had a full handshake of TLS 1.2 or below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Certificate {
    /// It gave one.
    Given,
    /// Nothing shows that one was asked for.
    NotAsked,
    /// It was asked for one and gave none.
    Missing,
    /// It was asked for one, and its answer could not be read.
    Unseen,
}

/// Judges the client's certificate at its backend's ChangeCipherSpec.
///
/// An answer that was not seen counts against the client: only it decides how its bytes are cut,
/// and one that cuts off what no stack cuts must not gain by it. A request that was not seen, in
/// bytes that the gateway missed, does not: no client decides that.
#[inline(always)]
pub fn certificate(flow: &Flow) -> Certificate {
    let asked = flow.follow.seen & seen::ASKED != 0;
    match Answer::from_number(flow.answer) {
        Answer::Given => Certificate::Given,
        Answer::Empty => Certificate::Missing,
        Answer::Unseen | Answer::Unclear if asked => Certificate::Unseen,
        Answer::Unseen | Answer::Unclear => Certificate::NotAsked,
    }
}

/// Counts one more session of a source; `None` where it has had as many as its VIP allows. A window
/// begins with the first session after the last window's end.
#[inline(always)]
pub fn one_more(source: Option<Source>, vip: &Vip, seconds: u32) -> Option<Source> {
    // Another CPU may have counted by a clock a moment ahead of ours.
    let is_over = |since: u32| seconds.wrapping_sub(since) as i32 >= vip.session_timeout as i32;
    match source {
        Some(Source { since, n_sessions }) if !is_over(since) => (n_sessions
            < vip.sessions_per_source)
            .then_some(Source { since, n_sessions: n_sessions.wrapping_add(1) }),
        _ => Some(Source { since: seconds, n_sessions: 1 }),
    }
}

/// What a ServerHello of TLS 1.3 says of the client's PSK identities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Psk {
    /// It selects the one that is remembered in the flow.
    Accepted,
    /// It selects another one.
    Other,
    /// It selects none.
    None,
}

/// Judges a ServerHello of TLS 1.3.
#[inline(always)]
pub fn psk(flow: &Flow) -> Psk {
    if flow.follow.seen & seen::PSK == 0 {
        return Psk::None;
    }
    let remembered = flow.offered_kind == Kind::Ticket as u8
        && flow.offered_index as u16 == flow.follow.selected;
    if remembered { Psk::Accepted } else { Psk::Other }
}
