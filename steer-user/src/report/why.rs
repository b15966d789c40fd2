//! `steer why`: what became of a client's flows, or what a session is, in plain sentences, and what
//! its next hello gets. Identifiers are never told whole.

mod sentences;

use std::{fmt, net::SocketAddr, str::FromStr};

use anyhow::Result;
use sentences::{answered, dialled, offered, sentence, times, title, verdict_word, went};
use serde::{Deserialize, Serialize};
use steer_common::{
    decide::Verdict,
    session::{Kind, NameLayout},
    shared::{FLOW_NAMELESS, Flow, FlowKey, KEY_NAME_CONFIGURED, NO_PSK, SessionKey},
    wire::tls::Version,
};

use super::{
    Clients, Filter, FlowReport, Flows, Matcher,
    flows::client,
    world::{Known, Sender, World, offer, shown},
};
use crate::{clock, plane::Plane, service::Service};

/// Identifiers that are told of at most.
const IDENTIFIERS: usize = 16;
/// Digits of an identifier that are enough to mean one: those that are shown.
const DIGITS: usize = 2 * super::world::SHOWN;
/// Digits of the longest identifier that is kept; of a ticket what is behind them is not.
const DIGITS_MAX: usize = 64;

/// What is asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A client, with one port or all.
    Client(Clients),
    /// An identifier that starts with these hexadecimal digits.
    Identifier(String),
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_hex = !text.is_empty() && text.chars().all(|digit| digit.is_ascii_hexdigit());
        if is_hex {
            return match text.len() {
                n if n < DIGITS => Err(format!(
                    "`{text}` is too short for an identifier; expected the first four bytes at least ({DIGITS} digits), as `steer sessions list` shows them"
                )),
                n => {
                    let kept = text.get(..n.min(DIGITS_MAX)).unwrap_or(text);
                    Ok(Self::Identifier(kept.to_ascii_lowercase()))
                }
            };
        }
        match text.parse::<Clients>() {
            Ok(clients) if clients.is_one() => Ok(Self::Client(clients)),
            Ok(_) => Err(format!(
                "`{text}` stands for many clients; expected one address (`steer flows list --client {text}` shows all)"
            )),
            Err(_) => Err(format!(
                "`{text}` is neither a client nor an identifier; expected an address such as 192.0.2.1 or 192.0.2.1:40000, \
                 or at least {DIGITS} hexadecimal digits"
            )),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(clients) => write!(f, "client {clients}"),
            // Perhaps all of it was given.
            Self::Identifier(digits) => {
                write!(f, "identifier {}..", digits.get(..DIGITS).unwrap_or_default())
            }
        }
    }
}

/// All that is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Why {
    /// Flows of the client, open ones first, then those of which a packet came last.
    pub flows: Vec<FlowStory>,
    /// How many flows of it there are, told or not.
    pub total_flows: u64,
    /// Connections of the client that are not steer's, as sentences.
    pub foreign: Vec<String>,
    /// Sessions and key names that the identifier may mean.
    pub identifiers: Vec<IdentifierStory>,
    /// How many there are, told or not.
    pub total_identifiers: u64,
}

/// One flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowStory {
    /// What its record says.
    #[serde(flatten)]
    pub flow: FlowReport,
    /// What the client's next hello gets: `moved`, or the counter of the reason that it stays for;
    /// absent where nothing is known of what it will offer.
    pub next: Option<String>,
    /// For people.
    pub sentences: Vec<String>,
}

/// One session, or one name of a ticket key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdentifierStory {
    /// `session-id`, `ticket` or `key-name`.
    pub kind: String,
    /// Its first bytes, hexadecimal; of a key name all of them.
    pub id: String,
    /// The VIP or pool; absent when it is gone.
    pub vip: Option<Service>,
    /// `BackendId` of the owner.
    pub owner: u16,
    /// The owner's address; absent when it is forgotten.
    pub owner_address: Option<SocketAddr>,
    /// Seconds since it was learned or configured.
    pub age_seconds: u32,
    /// Seconds since it was last issued or accepted.
    pub idle_seconds: u32,
    /// How often it was accepted.
    pub uses: u32,
    /// As [`FlowStory::next`]; absent where its VIP is gone.
    pub next: Option<String>,
    /// For people.
    pub sentences: Vec<String>,
}

impl Why {
    /// Reads the maps; tells of at most `limit` flows.
    pub fn read(plane: &Plane, what: &What, limit: usize) -> Result<Self> {
        let clients = if let What::Client(clients) = what { Some(*clients) } else { None };
        let filter = Filter { clients, ended: true, ..Filter::default() };
        let flows = Flows::new(plane, filter)?;
        match what {
            What::Client(clients) => Self::of_client(plane, &flows, clients, limit),
            What::Identifier(digits) => Self::of_identifier(plane, flows.world(), digits),
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.total_flows == 0 && self.foreign.is_empty() && self.total_identifiers == 0
    }

    fn none() -> Self {
        Self {
            flows: Vec::new(),
            total_flows: 0,
            foreign: Vec::new(),
            identifiers: Vec::new(),
            total_identifiers: 0,
        }
    }

    fn of_client(
        plane: &Plane,
        flows: &Flows<'_>,
        clients: &Clients,
        limit: usize,
    ) -> Result<Self> {
        let (found, total_flows) = flows.latest(limit)?;
        let world = flows.world();
        let story = |(key, flow): (FlowKey, Flow)| {
            let next = Next::find(plane, world, &key, &flow)?;
            Ok(story(world, &key, &flow, &next))
        };
        let told = found.into_iter().map(story).collect::<Result<Vec<_>>>()?;
        let mut foreign = Vec::new();
        plane.foreign.for_each(|key, record| {
            let (address, to) = world.foreign_to(&key);
            if clients.has(&key) && foreign.len() < limit {
                let port = client(&key).port();
                let idle = clock::age(world.now, record.seen);
                let at = SocketAddr::new(address, port);
                foreign.push(format!(
                    "{at} has, or had {idle}s ago, a connection to {to} that is not steer's: it passes untouched"
                ));
            }
        })?;
        Ok(Self { flows: told, total_flows, foreign, ..Self::none() })
    }

    fn of_identifier(plane: &Plane, world: &World, digits: &str) -> Result<Self> {
        let prefix = Matcher::of_prefix(digits)?;
        let (mut total, mut found) = (0_u64, Vec::new());
        let mut note = |key: SessionKey, known: Known| {
            total += 1;
            if found.len() < IDENTIFIERS {
                found.push((key, known));
            }
        };
        plane.sessions.for_each(|key, session| {
            if prefix.starts(key.bytes.get(..usize::from(key.len)).unwrap_or_default()) {
                note(key, Known::Session(session));
            }
        })?;
        plane.key_names.for_each(|key, name| {
            let at = world.vip(key.vip).map_or(0, |vip| NameLayout::of(vip, 0).at);
            if is_name(&key, at, &prefix) {
                note(key, Known::KeyName(name));
            }
        })?;
        let told = found.into_iter().map(|(key, known)| {
            // A ticket that is too old is led by its key's name.
            let now = match known {
                Known::Session(_) => world.look_up(plane, &key, true, key.len < 32)?,
                Known::KeyName(_) => None,
            };
            Ok(identifier(world, &key, &known, now))
        });
        let identifiers = told.collect::<Result<Vec<_>>>()?;
        Ok(Self { identifiers, total_identifiers: total, ..Self::none() })
    }
}

/// Whether a key's name begins with the digits, or the digits are of a ticket that has it, whose
/// names stand at byte `at`.
fn is_name(key: &SessionKey, at: u8, digits: &Matcher) -> bool {
    let name = key.bytes.get(..usize::from(key.len)).unwrap_or_default();
    digits.starts(name)
        || digits.bytes().get(usize::from(at)..).is_some_and(|ticket| ticket.starts_with(name))
}

/// What the client's next hello gets, if it offers what this flow's client has now.
struct Next {
    /// What it was issued, or what it offered, and what that is known by.
    known: Option<(SessionKey, Known, Option<Verdict>)>,
    /// What that is, for sentences.
    what: String,
}

impl Next {
    fn find(plane: &Plane, world: &World, key: &FlowKey, flow: &Flow) -> Result<Self> {
        let Some(vip) = world.rules.vip_id(key.service).and_then(|id| world.vip(id)) else {
            return Ok(Self { known: None, what: String::new() });
        };
        let address = client(key).ip();
        let sender = Sender { client: Some(address), first: world.first_of(plane, vip, address)? };
        let mut what = String::new();
        // The session that its backend issued to it here comes before the one that it came with.
        let follow = &flow.follow;
        let issued = (follow.lesson_kind, follow.lesson_len, follow.lesson, true, false);
        let came_with = (
            flow.offered_kind,
            flow.offered_len,
            flow.offered_bytes,
            flow.offered_index == NO_PSK,
            flow.flags & FLOW_NAMELESS != 0,
        );
        let is_tls13 = follow.version == Version::Tls13 as u16;
        for (kind, len, bytes, in_clear, nameless) in
            Some(issued).filter(|_| !is_tls13).into_iter().chain([came_with])
        {
            let Some(word) = Kind::from_number(kind).filter(|_| len != 0) else { continue };
            let session = SessionKey { vip: vip.id, kind, len, bytes };
            if what.is_empty() {
                what = title(word, &shown(&bytes, len));
            }
            if let Some((by, known)) = world.look_up(plane, &session, in_clear, nameless)? {
                let verdict = world.next(&by, &known, sender);
                let new = bytes != flow.offered_bytes || kind != flow.offered_kind;
                let issued = if new { ", which it was issued here," } else { "" };
                let what = title(word, &shown(&bytes, len)) + issued;
                return Ok(Self { known: Some((by, known, verdict)), what });
            }
        }
        Ok(Self { known: None, what })
    }

    fn word(&self) -> Option<String> {
        self.known.as_ref().and_then(|(_, _, verdict)| *verdict).map(verdict_word)
    }
}

fn story(world: &World, key: &FlowKey, record: &Flow, next: &Next) -> FlowStory {
    let flow = FlowReport::new(world, key, record);
    let mut sentences = vec![dialled(&flow, key), offered(&flow), went(world, &flow, record)];
    sentences.extend(answered(world, &flow));
    sentences.push(next_of_client(world, &flow, next));
    FlowStory { next: next.word(), flow, sentences }
}

fn next_of_client(world: &World, flow: &FlowReport, next: &Next) -> String {
    let Some((by, known, verdict)) = &next.known else {
        return match () {
            () if next.what.is_empty() && flow.version.as_deref() == Some("1.3") => {
                "Now: what it was issued is encrypted; its next ticket is led by the name of its key, if that is known \
                 (`steer keys list`)."
                    .to_owned()
            }
            () if next.what.is_empty() => {
                "Now: nothing is known that its next hello could offer; it stays with its first backend."
                    .to_owned()
            }
            () if next.what.starts_with("ticket") => format!(
                "Now: nothing is known of {}, nor of the name of its key; a next hello with such a ticket stays with its first \
                 backend, or is tried at others while that name is searched.",
                next.what
            ),
            () => format!(
                "Now: nothing is known of {}; a next hello with it stays with its first backend.",
                next.what
            ),
        };
    };
    let by_name = match known {
        Known::KeyName(_) => " by the name of its key",
        Known::Session(_) => "",
    };
    format!(
        "Now: {} is known{by_name}; its owner {} {}. {}",
        next.what,
        world.named(known.owner()),
        world.state(known.owner(), offer(by)),
        sentence(world, known, *verdict)
    )
}

/// `now` is what a ticket is led by where that is not itself.
fn identifier(
    world: &World,
    key: &SessionKey,
    known: &Known,
    now: Option<(SessionKey, Known)>,
) -> IdentifierStory {
    let kind = Kind::from_number(key.kind);
    let is_name = matches!(known, Known::KeyName(_));
    let id = if is_name {
        key.bytes.iter().take(key.len.into()).map(|byte| format!("{byte:02x}")).collect()
    } else {
        shown(&key.bytes, key.len)
    };
    let (first_seen, last_seen, uses) = match known {
        Known::Session(session) => (session.first_seen, session.last_seen, session.uses),
        Known::KeyName(name) => (name.first_seen, name.last_seen, name.accepted),
    };
    let (age, idle) = (clock::age(world.now, first_seen), clock::age(world.now, last_seen));
    let vip = world.service_of(key.vip);
    let at = vip.map_or("a VIP that is gone".to_owned(), |vip| vip.titled());
    let what = kind.map_or("an identifier".to_owned(), |kind| title(kind, &id));
    let how = match known {
        Known::KeyName(name) if name.flags & KEY_NAME_CONFIGURED != 0 => "configured",
        _ => "learned",
    };
    let mut sentences = vec![format!(
        "The {what} ({} bytes) of {at} was {how} {age}s ago, used last {idle}s ago, and accepted {}.",
        key.len,
        times(uses)
    )];
    sentences.push(format!(
        "Its owner {} {}.",
        world.named(known.owner()),
        world.state(known.owner(), offer(key))
    ));
    let (by, by_known) = now.unwrap_or((*key, *known));
    if by.kind != key.kind {
        sentences
            .push("By itself it is too old; the name of its ticket's key is known.".to_owned());
    }
    let next = world.next(&by, &by_known, Sender::default());
    sentences.push(sentence(world, &by_known, next));
    IdentifierStory {
        kind: kind.map_or("unknown", Kind::word).to_owned(),
        id,
        vip,
        owner: known.owner(),
        owner_address: world.backend_address(known.owner()),
        age_seconds: age,
        idle_seconds: idle,
        uses,
        next: next.map(verdict_word),
        sentences,
    }
}

#[cfg(test)]
mod tests;
