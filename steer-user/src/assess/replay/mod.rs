//! steer's decision replayed over what a capture shows: who owns what a hello offers, and what a
//! server's answer teaches.
//!
//! Every judgement is the programs' own, of `steer_common`: [`decide`], [`learn`], [`refusals`],
//! [`rotation`], and the record of a flow that they fill. What stands here is the way from one to
//! the next ([`offers`], [`lessons`], [`names`]), with tables of this process ([`Aged`]) instead of
//! maps. No flow is moved, so this is a gateway in observe mode.
//!
//! [`decide`]: steer_common::decide
//! [`learn`]: steer_common::learn
//! [`refusals`]: steer_common::refusals
//! [`rotation`]: steer_common::rotation

mod aged;
mod lessons;
mod names;
mod offers;

use std::{net::IpAddr, time::Duration};

use steer_common::{
    counters::Counter,
    maps::entries,
    session::{Kind, NameLayout},
    shared::{
        BACKEND_PRESENT, BACKEND_UP, Backend, Flow, KEY_NAME_SHARED, KeyName, Refusals, Rotation,
        Session, SessionKey, VIP_OBSERVE, VIP_TELL_TICKETS, Vip,
    },
    wire::tls::client_certificate::Answer,
};

use crate::{agent::key_layout::Search, config::TicketKeyName, inspect::hello::Offered};
use aged::Aged;

/// The pool of all members.
const POOL: u16 = 0;
/// A learned key name of which no ticket was seen for so long is forgotten, seconds: the default of
/// `key_name_timeout`.
const NAME_TIMEOUT: u32 = 24 * 3600;

/// What is known of the sessions of one pool.
pub(super) struct Replay {
    vip: Vip,
    backends: Vec<Backend>,
    refusals: Vec<Refusals>,
    rotation: Box<Rotation>,
    sessions: Aged<SessionKey, Held>,
    names: Aged<SessionKey, KeyName>,
    tries: Aged<SessionKey, KeyName>,
    layout: Search,
    /// Refused tickets of key names that nobody was known to hold, by name.
    waiting: Aged<SessionKey, u64>,
    n_found_later: u64,
}

/// A session and whose it is.
#[derive(Clone, Copy, Debug)]
struct Held {
    session: Session,
    /// From where its client got it, or used it last.
    client: IpAddr,
}

/// A handshake of which the hello was read.
#[derive(Clone, Debug)]
pub(super) struct Handshake {
    /// The programs' own record, as far as a decision needs it.
    pub(super) flow: Flow,
    /// From where the client came.
    pub(super) client: IpAddr,
}

/// What steer would have done with a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// Why it would have stayed, or [`Counter::Rehome`], or of an owner that is only guessed
    /// [`Counter::KeyNameSearch`] or [`Counter::KeyNameDue`].
    pub(super) reason: Counter,
    /// Who is held to own what is offered.
    pub(super) owner: Option<u16>,
    /// What it offers by which it is known, or would be.
    pub(super) identifier: Identifier,
    /// What is remembered of the session itself, where it is.
    pub(super) known: Option<Known>,
}

/// What was remembered of a session that is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// How long ago its owner issued or accepted it, seconds.
    pub(super) idle: u32,
    /// From where its client got it, or used it last.
    pub(super) client: IpAddr,
}

/// What a hello offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Identifier {
    /// A session ID of TLS 1.2 or below.
    SessionId,
    /// A ticket, by the name of its key.
    TicketName,
    /// A ticket or PSK identity, by itself.
    WholeIdentity,
    /// Nothing.
    None,
}

impl Identifier {
    /// The word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::SessionId => "session-id",
            Self::TicketName => "ticket-name",
            Self::WholeIdentity => "whole-identity",
            Self::None => "none",
        }
    }
}

impl Replay {
    /// A pool that knows nothing.
    pub(super) fn new(session_timeout: Duration, names: TicketKeyName) -> Self {
        // What is compared with it is a signed difference.
        const LONGEST: u32 = i32::MAX as u32;
        let session_timeout = u32::try_from(session_timeout.as_secs()).unwrap_or(LONGEST);
        let (layout, tells) = match names {
            TicketKeyName::At(layout) => (layout, 0),
            TicketKeyName::Auto => (NameLayout::default(), VIP_TELL_TICKETS),
        };
        let vip = Vip {
            id: POOL,
            flags: VIP_OBSERVE | tells,
            session_timeout: session_timeout.min(LONGEST),
            name_at: layout.at,
            name_len: layout.len,
            name_timeout: NAME_TIMEOUT,
            ..Vip::default()
        };
        const SESSIONS: usize = entries("sessions") as usize;
        const NAMES: usize = entries("key_names") as usize;
        Self {
            vip,
            backends: Vec::new(),
            refusals: Vec::new(),
            rotation: Box::default(),
            sessions: Aged::new(SESSIONS),
            names: Aged::new(NAMES),
            tries: Aged::new(NAMES),
            layout: Search::default(),
            waiting: Aged::new(NAMES),
            n_found_later: 0,
        }
    }

    /// Takes in a server; its number is how many there were.
    pub(super) fn add(&mut self) {
        self.backends.push(Backend {
            vip_id: POOL,
            flags: BACKEND_PRESENT | BACKEND_UP,
            weight: 1,
            ..Backend::default()
        });
        self.refusals.push(Refusals::default());
    }

    /// A server turned out to be none, or to be one all the same.
    pub(super) fn dismiss(&mut self, member: u16, is_none: bool) {
        if let Some(backend) = self.backends.get_mut(usize::from(member)) {
            backend.flags = if is_none { 0 } else { BACKEND_PRESENT | BACKEND_UP };
        }
    }

    /// Decides on a hello that `first` got.
    pub(super) fn decide(
        &mut self,
        hello: &Offered,
        first: u16,
        client: IpAddr,
        seconds: u32,
    ) -> (Handshake, Decision) {
        let flow = Flow { first, owner: first, ..Flow::default() };
        let mut handshake = Handshake { flow, client };
        let decision = self.find_owner(&mut handshake.flow, hello, seconds);
        (handshake, decision)
    }

    /// Where tickets have the names of their keys, as far as that is found.
    pub(super) fn layout(&self) -> Option<NameLayout> {
        (self.vip.flags & VIP_TELL_TICKETS == 0).then(|| NameLayout::of(&self.vip, 0))
    }

    /// Refused offers of a key name whose owner was known only afterwards.
    pub(super) fn n_found_later(&self) -> u64 {
        self.n_found_later
    }

    /// Key names that several members use, and all that are known. While the place of names is not
    /// known those of 16 bytes count, which most stacks have.
    pub(super) fn n_names(&self) -> (u64, u64) {
        const USUAL: u8 = 16;
        let len = self.layout().map_or(USUAL, |layout| layout.len);
        let names = || self.names.iter().filter(|(key, _)| key.len == len);
        let n_shared = names().filter(|(_, name)| name.flags & KEY_NAME_SHARED != 0).count();
        (n_shared as u64, names().count() as u64)
    }

    /// Sessions that were forgotten to bound memory.
    pub(super) fn n_forgotten(&self) -> u64 {
        self.sessions.n_forgotten()
    }
}

impl Handshake {
    /// Notes what the client answered where it was asked for a certificate.
    pub(super) fn answered(&mut self, answer: Answer) {
        self.flow.answer = answer as u8;
    }
}

fn key(kind: Kind, identifier: &[u8]) -> Option<SessionKey> {
    SessionKey::new(POOL, kind, identifier)
}
