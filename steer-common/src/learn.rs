//! What a backend's finished handshake teaches.
//!
//! A ServerHello names a session, but anyone may ask for one. Only the backend's ChangeCipherSpec (TLS 1.2 and below:
//! RFC 5246 7.1, after the client's Finished) says that the client was who the backend wanted; until then what was seen
//! is held in the flow's record. In TLS 1.3 the acceptance of a PSK says the same at once: its binder was verified.

use crate::{
    session::Kind,
    shared::{FLOW_HIT, Flow},
    wire::tls::server_flight::seen,
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
/// An echoed session ID refreshes a session and never makes one: a client that offers a ticket makes its ID up
/// (RFC 5077 3.4), and one that offers an ID could ask for anything.
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
    Taught { outcome, issued, used: resumed && flow.offered_kind != 0 && flow.flags & FLOW_HIT != 0 }
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
    let remembered = flow.offered_kind == Kind::Ticket as u8 && flow.offered_index == flow.follow.selected;
    if remembered { Psk::Accepted } else { Psk::Other }
}
