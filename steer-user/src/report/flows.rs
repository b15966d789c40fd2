//! `steer flows list`: the live flows, and why each is where it is, as far as its record tells.
//!
//! The reason that a flow was settled for is counted, not kept: what is told here is what its flags
//! and its backends leave no doubt about.

use std::{fmt, net::SocketAddr, str::FromStr};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use steer_common::{
    flow::{State, StateWord},
    learn,
    session::Kind,
    shared::{
        FLOW_AT_OWNER, FLOW_HELLO, FLOW_HIT, FLOW_NAMED, FLOW_OFFERED, FLOW_RETRIED,
        FLOW_UNCONFIRMED, Flow, FlowKey, NO_PSK, options,
    },
    wire::tls::{Version, server_flight::seen},
};

use super::world::{World, shown};
use crate::{address::ip, clock, config::Prefix, plane::Plane, service::Service};

/// One flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowReport {
    /// Its client.
    pub client: SocketAddr,
    /// The VIP or inline pool; absent when that is gone.
    pub vip: Option<Service>,
    /// What its client dialled: the VIP, or a backend of the pool; absent when that is gone.
    pub dialled: Option<SocketAddr>,
    /// Where it stands.
    #[serde(with = "state_word")]
    pub state: State,
    /// Whether its ends were seen.
    pub ended: bool,
    /// `BackendId` of the first backend.
    pub first: u16,
    /// The first backend's address; absent when it is forgotten.
    pub first_address: Option<SocketAddr>,
    /// `BackendId` of the backend that holds it.
    pub holder: u16,
    /// That one's address; absent when it is forgotten.
    pub holder_address: Option<SocketAddr>,
    /// `BackendId` of the owner of what its client offered, as the flow was decided on: of a flow
    /// that moves, moved, or was to move, or stands with its owner.
    pub owner: Option<u16>,
    /// That one's address; absent when it is forgotten.
    pub owner_address: Option<SocketAddr>,
    /// The client's port at the holder, where that is not its own.
    pub port_at_holder: Option<u16>,
    /// The identifier that decided, or else the first that its client offered.
    pub offered: Option<Offered>,
    /// Why it is where it is.
    pub reason: Reason,
    /// What its backend made of the hello.
    pub outcome: Outcome,
    /// The version of TLS that its backend chose.
    pub version: Option<String>,
    /// TCP options that client and backend agreed on.
    pub options: Vec<String>,
    /// Seconds since its last packet.
    pub idle_seconds: u32,
}

/// What a client offered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Offered {
    /// `session-id` or `ticket`.
    pub kind: String,
    /// Its first bytes, hexadecimal.
    pub id: String,
    /// Its length, bytes; of a ticket, at most its first 32.
    pub length: u8,
    /// Which of the client's PSK identities it is, if it is one.
    pub identity: Option<u8>,
}

/// Why a flow is where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing is decided yet.
    Undecided,
    /// A session that is known led it to its owner.
    Session,
    /// The name of a ticket's key led it to its owner.
    KeyName,
    /// It was sent there on a guess: nobody knows the name of its ticket's key.
    Search,
    /// The first backend owns what it offers.
    AtOwner,
    /// It was to move, and its owner was given up.
    GivenUp,
    /// What it offers was known, and it was not moved.
    NotMoved,
    /// Nobody knew what it offers.
    Unknown,
    /// It offers nothing.
    NothingOffered,
    /// No hello was read of it.
    NoHello,
    /// The backend asked for a second hello, and the first one's offer is forgotten.
    Retried,
    /// Its record is younger than the flow.
    Adopted,
}

impl Reason {
    /// The word in CLI and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Undecided => "undecided",
            Self::Session => "session",
            Self::KeyName => "key-name",
            Self::Search => "search",
            Self::AtOwner => "at-owner",
            Self::GivenUp => "given-up",
            Self::NotMoved => "not-moved",
            Self::Unknown => "unknown",
            Self::NothingOffered => "nothing-offered",
            Self::NoHello => "no-hello",
            Self::Retried => "retried",
            Self::Adopted => "adopted",
        }
    }

    fn of(flow: &Flow) -> Self {
        let has = |flag| flow.flags & flag != 0;
        match StateWord(flow.word).state() {
            State::Syn | State::SynAck | State::Established | State::Gather => Self::Undecided,
            State::Adopted => Self::Adopted,
            State::Wait | State::Spliced if has(FLOW_NAMED) => Self::KeyName,
            State::Wait | State::Spliced if has(FLOW_HIT) => Self::Session,
            _ if has(FLOW_RETRIED) => Self::Retried,
            State::Wait | State::Spliced => Self::Search,
            State::First => match () {
                () if flow.owner != flow.first => Self::GivenUp,
                () if has(FLOW_AT_OWNER) => Self::AtOwner,
                () if has(FLOW_HIT) => Self::NotMoved,
                () if has(FLOW_HELLO) && has(FLOW_OFFERED) => Self::Unknown,
                () if has(FLOW_HELLO) => Self::NothingOffered,
                () if has(FLOW_UNCONFIRMED) => Self::Adopted,
                () => Self::NoHello,
            },
        }
    }
}

/// What a backend made of a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It resumed.
    Resumed,
    /// A full handshake.
    Full,
    /// That was not seen, or not yet.
    Unknown,
}

impl Outcome {
    /// The word in CLI and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Full => "full",
            Self::Unknown => "unknown",
        }
    }

    fn of(flow: &Flow) -> Self {
        let follow = &flow.follow;
        if follow.version == Version::Tls13 as u16 {
            return match () {
                () if follow.seen & (seen::HELLO | seen::RETRY) != seen::HELLO => Self::Unknown,
                () if follow.seen & seen::PSK != 0 => Self::Resumed,
                () => Self::Full,
            };
        }
        match learn::outcome(flow) {
            learn::Outcome::Resumed => Self::Resumed,
            learn::Outcome::Full => Self::Full,
            learn::Outcome::Unknown => Self::Unknown,
        }
    }
}

/// Clients: an address, with a port or without, or a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clients {
    prefix: Prefix,
    port: Option<u16>,
}

impl Clients {
    pub(super) fn has(&self, key: &FlowKey) -> bool {
        self.port.is_none_or(|port| port.to_be_bytes() == key.client_port)
            && self.prefix.covers(ip(&key.client))
    }

    /// Whether this is one address, and no prefix of several.
    pub fn is_one(&self) -> bool {
        self.prefix.bits() == if self.prefix.address().is_ipv4() { 32 } else { 128 }
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.prefix.address(), port).fmt(f),
            None => self.prefix.fmt(f),
        }
    }
}

impl FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let prefix = address.ip().to_string().parse()?;
            return match address.port() {
                0 => Err(format!("`{text}` has port 0; expected one of 1 to 65535, or none")),
                port => Ok(Self { prefix, port: Some(port) }),
            };
        }
        let prefix = text.parse::<Prefix>().map_err(|why| {
            format!("{why} (or with a port: 10.0.0.2:40000, [2001:db8::2]:40000)")
        })?;
        Ok(Self { prefix, port: None })
    }
}

/// Which flows are meant; what is absent does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Of these clients.
    pub clients: Option<Clients>,
    /// To this VIP, or to backends of this inline pool.
    pub vip: Option<Service>,
    /// That this backend holds.
    pub backend: Option<SocketAddr>,
    /// In this state.
    pub state: Option<State>,
    /// Those whose ends were seen, too.
    pub ended: bool,
}

impl Filter {
    fn has(&self, world: &World, key: &FlowKey, flow: &Flow) -> bool {
        let holds = |at: SocketAddr| world.backend_address(flow.holder()) == Some(at);
        self.clients.is_none_or(|clients| clients.has(key))
            && self.vip.is_none_or(|vip| world.service(key) == Some(vip))
            && self.backend.is_none_or(holds)
            && self.state.is_none_or(|state| StateWord(flow.word).state() == state)
    }
}

/// The state with this word.
///
/// # Errors
/// With the words that there are.
pub fn state_of_word(word: &str) -> Result<State, String> {
    let all = || (1..=8).filter_map(State::from_number);
    all().find(|state| state.word() == word).ok_or_else(|| {
        let words = all().map(State::word).collect::<Vec<_>>().join(", ");
        format!("`{word}` is no state of a flow; expected one of {words}")
    })
}

mod state_word {
    use super::{Deserialize, State};

    pub(super) fn serialize<S: serde::Serializer>(state: &State, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(state.word())
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<State, D::Error> {
        super::state_of_word(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// The flows of a gateway, read as they are asked for: there may be millions.
pub struct Flows<'a> {
    plane: &'a Plane,
    world: World,
    filter: Filter,
}

impl<'a> Flows<'a> {
    /// Those that are meant.
    ///
    /// # Errors
    /// When there is no such VIP, pool or backend, or the maps cannot be read.
    pub fn new(plane: &'a Plane, filter: Filter) -> Result<Self> {
        let world = World::read(plane)?;
        if let Some(backend) = filter.backend.filter(|at| !world.has_backend(*at)) {
            bail!("there is no backend {backend}");
        }
        if let Some(vip) = filter.vip.filter(|vip| !world.has_vip(vip)) {
            bail!("there is no {}", vip.titled());
        }
        Ok(Self { plane, world, filter })
    }

    /// Calls `each` with the first `limit` of them (0: with all) in no order; how many there are.
    /// One that vanishes in between is counted and not told.
    pub fn each(&self, limit: u64, mut each: impl FnMut(FlowReport)) -> Result<u64> {
        let (mut n, mut failed) = (0, Ok(()));
        self.walk(|key, flow| {
            n += 1;
            if limit != 0 && n > limit {
                return;
            }
            match self.now(&key, flow) {
                Ok(flow) => each(FlowReport::new(&self.world, &key, &flow)),
                Err(error) => failed = Err(error),
            }
        })?;
        failed.map(|()| n)
    }

    /// The latest `limit` of them, open ones first, then by their last packet, and how many there
    /// are.
    pub(super) fn latest(&self, limit: usize) -> Result<(Vec<(FlowKey, Flow)>, u64)> {
        /// Flows held beyond `limit` until the oldest are let go.
        const SLACK: usize = 4096;
        let newest =
            |(_, flow): &(FlowKey, Flow)| (flow.closing(), clock::age(self.world.now, flow.seen));
        let (mut n, mut failed, mut found) = (0, Ok(()), Vec::new());
        self.walk(|key, flow| {
            n += 1;
            match self.now(&key, flow) {
                Ok(flow) => found.push((key, flow)),
                Err(error) => failed = Err(error),
            }
            if found.len() >= limit.saturating_add(SLACK) {
                found.sort_by_key(newest);
                found.truncate(limit);
            }
        })?;
        found.sort_by_key(newest);
        found.truncate(limit);
        failed.map(|()| (found, n))
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// The record with what it lent to the cache of settled flows.
    fn now(&self, key: &FlowKey, flow: Flow) -> Result<Flow> {
        Ok(self.plane.flow(key)?.unwrap_or(flow))
    }

    /// Flows have an entry in `flows`; a moved one that was pushed out of it in `splices` alone, one
    /// that is being made, or of which no more is known, in `handshakes`.
    fn walk(&self, mut each: impl FnMut(FlowKey, Flow)) -> Result<()> {
        let Self { plane, world, filter } = self;
        let is_meant = |key: &FlowKey, flow: &Flow| {
            let is_there = if filter.ended {
                !world.rules.flow_is_stale(key, flow)
            } else {
                world.rules.is_open(key, flow)
            };
            is_there && filter.has(world, key, flow)
        };
        plane.flows.for_each(|key, flow| {
            if is_meant(&key, &flow) {
                each(key, flow);
            }
        })?;
        let mut failed = Ok(());
        let mut alone = |key: FlowKey, flow: Flow| match plane.flows.find(&key) {
            Ok(None) => each(key, flow),
            Ok(Some(_)) => {}
            Err(error) => failed = Err(error),
        };
        plane.splices.for_each(|key, flow| {
            if is_meant(&key, &flow) {
                alone(key, flow);
            }
        })?;
        plane.handshakes.for_each(|key, flow| {
            if world.rules.is_opening(&key, &flow) && filter.has(world, &key, &flow) {
                alone(key, flow);
            }
        })?;
        failed
    }
}

impl FlowReport {
    pub(super) fn new(world: &World, key: &FlowKey, flow: &Flow) -> Self {
        let at_owner = flow.flags & FLOW_AT_OWNER != 0;
        let owner = (flow.owner != flow.first || at_owner).then_some(flow.owner);
        let port = u16::from_be_bytes(flow.port_at_holder());
        Self {
            client: client(key),
            vip: world.service(key),
            dialled: world.dialled(key, flow),
            state: StateWord(flow.word).state(),
            ended: flow.closing(),
            first: flow.first,
            first_address: world.backend_address(flow.first),
            holder: flow.holder(),
            holder_address: world.backend_address(flow.holder()),
            owner,
            owner_address: owner.and_then(|owner| world.backend_address(owner)),
            port_at_holder: (port != 0).then_some(port),
            offered: Offered::of(flow),
            reason: Reason::of(flow),
            outcome: Outcome::of(flow),
            version: Version::from_wire(flow.follow.version).map(|v| v.word().to_owned()),
            options: option_words(flow.agreed, flow.offered),
            idle_seconds: clock::age(world.now, flow.seen),
        }
    }
}

pub(super) fn client(key: &FlowKey) -> SocketAddr {
    SocketAddr::new(ip(&key.client), u16::from_be_bytes(key.client_port))
}

impl Offered {
    fn of(flow: &Flow) -> Option<Self> {
        let kind = Kind::from_number(flow.offered_kind)?;
        Some(Self {
            kind: kind.word().to_owned(),
            id: shown(&flow.offered_bytes, flow.offered_len),
            length: flow.offered_len,
            identity: (flow.offered_index != NO_PSK).then_some(flow.offered_index),
        })
    }
}

/// A signed connection says so, for it is never moved.
fn option_words(agreed: u8, offered: u8) -> Vec<String> {
    let words = [
        (options::SACK, "sack"),
        (options::TIMESTAMPS, "timestamps"),
        (options::WINDOW_SCALE, "window-scale"),
        (options::ECN, "ecn"),
        (options::SIGNED, "signed"),
    ];
    let agreed = agreed & !options::SIGNED | offered & options::SIGNED;
    let agreed = words.into_iter().filter(|(bit, _)| agreed & bit != 0);
    agreed.map(|(_, word)| word.to_owned()).collect()
}

#[cfg(test)]
mod tests;
