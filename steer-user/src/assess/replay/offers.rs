//! Looks up what a hello offers, in the programs' order (`find_owner` of steer-ebpf): a session ID
//! that is known decides; else the ticket, its key's name, the PSK identities and their keys'
//! names; else the session ID that is not known.

use steer_common::{
    counters::Counter,
    decide::{self, Verdict},
    refusals::{self, Offer},
    session::{Kind, LAYOUTS, LONGEST, NameLayout},
    shared::{
        BACKEND_PRESENT, BACKEND_UP, FLOW_AT_OWNER, FLOW_ECH, FLOW_HELLO, FLOW_HIT, FLOW_NAMED,
        FLOW_NAMELESS, FLOW_OFFERED, Flow, KEY_NAME_PROVEN, KEY_NAME_SHARED, NO_PSK,
        ROTATION_BACKENDS, SessionKey, VIP_TELL_TICKETS, backend_bit,
    },
    wire::tls::Version,
};

use super::{Decision, Identifier, Known, Replay, key};
use crate::inspect::hello::{Identifier as Bytes, Offered};

/// What is known of an identifier.
struct Found {
    verdict: Verdict,
    owner: u16,
    known: Option<Known>,
    identifier: Identifier,
}

impl Found {
    fn decision(&self) -> Decision {
        let reason = match self.verdict {
            Verdict::NeedMore => Counter::HelloCut,
            Verdict::First(reason) => reason,
            Verdict::Owner(_) => Counter::Rehome,
        };
        Decision { reason, owner: Some(self.owner), identifier: self.identifier, known: self.known }
    }

    fn is_expired(&self) -> bool {
        self.verdict == Verdict::First(Counter::SessionExpired)
    }
}

impl Replay {
    /// Says whose a flow is, and notes in its record what the hello offers.
    pub(super) fn find_owner(
        &mut self,
        flow: &mut Flow,
        hello: &Offered,
        seconds: u32,
    ) -> Decision {
        let is_tls13 = hello.version >= Version::Tls13 as u16;
        let id = &hello.session_id;
        flow.flags |= FLOW_HELLO;
        if hello.ech {
            flow.flags |= FLOW_ECH;
        }
        // The session ID comes first, and where it is known nothing behind it could say otherwise.
        if let Some(found) = self.session(flow, Kind::SessionId, id, seconds) {
            offer(flow, Kind::SessionId, id, NO_PSK);
            flow.flags |= FLOW_OFFERED;
            return found.decision();
        }
        flow.offered_kind = 0;
        let mut unknown = Decision {
            reason: Counter::HelloNoSession,
            owner: None,
            identifier: Identifier::None,
            known: None,
        };
        for (ticket, index) in tickets(hello) {
            let named = self.is_named(ticket);
            flow.flags |= FLOW_OFFERED;
            if unknown.reason != Counter::TicketMiss {
                unknown.reason = Counter::TicketMiss;
                unknown.identifier =
                    if named { Identifier::TicketName } else { Identifier::WholeIdentity };
            }
            if let Some(found) = self.ticket(flow, ticket, index, named, seconds) {
                return found.decision();
            }
        }
        // One that speaks TLS 1.3 sends an ID whether it has a session or not (RFC 8446 D.4).
        if id.len != 0 {
            if !is_tls13 {
                flow.flags |= FLOW_OFFERED;
            }
            if unknown.reason == Counter::HelloNoSession {
                offer(flow, Kind::SessionId, id, NO_PSK);
                if !is_tls13 {
                    unknown.reason = Counter::SessionMiss;
                    unknown.identifier = Identifier::SessionId;
                }
            }
        }
        if unknown.reason == Counter::TicketMiss && !hello.ech {
            (unknown.reason, unknown.owner) = self.search(flow, seconds);
        }
        unknown
    }

    /// Whether a ticket may be known by the name of its key.
    fn is_named(&self, ticket: &Bytes) -> bool {
        NameLayout::has_any(ticket.len) && NameLayout::of(&self.vip, 0).len != 0
    }

    /// Looks up a ticket, by itself and by its key's name (`look_up_ticket`).
    fn ticket(
        &mut self,
        flow: &mut Flow,
        ticket: &Bytes,
        index: u8,
        named: bool,
        seconds: u32,
    ) -> Option<Found> {
        // Those of TLS 1.3 are known by themselves only where they have no name: clients offer each
        // once.
        let mut found = if index == NO_PSK || !named {
            self.session(flow, Kind::Ticket, ticket, seconds)
        } else {
            None
        };
        if named && found.as_ref().is_none_or(Found::is_expired) {
            let mut rejected_by = 0;
            for i in 0..LAYOUTS {
                let Some(key) = self.name_key(&ticket.bytes, i) else { break };
                if let Some(named) = self.key_name(flow, &key, &mut rejected_by, seconds) {
                    found = Some(named);
                    break;
                }
            }
        }
        if found.is_some() || flow.offered_kind == 0 {
            offer(flow, Kind::Ticket, ticket, index);
        }
        found
    }

    /// The key of a ticket's name by the `i`-th layout that names may have; `None` where there is
    /// none (`set_name`).
    pub(super) fn name_key(&self, ticket: &[u8; 32], i: u32) -> Option<SessionKey> {
        let layout = NameLayout::of(&self.vip, i);
        let from = usize::from(layout.at);
        key(Kind::KeyName, ticket.get(from..from + usize::from(layout.len))?)
    }

    /// Looks up a session by itself (`session`).
    fn session(
        &mut self,
        flow: &mut Flow,
        kind: Kind,
        identifier: &Bytes,
        seconds: u32,
    ) -> Option<Found> {
        let held = *self.sessions.get_mut(&key(kind, identifier.prefix(32))?)?;
        let owner = held.session.owner;
        let backend = self.backends.get(usize::from(owner))?;
        let verdict = decide::session(&held.session, backend, &self.vip, flow.first, seconds);
        let (by, identifier) = if kind == Kind::Ticket {
            (Offer::Ticket, Identifier::WholeIdentity)
        } else {
            (Offer::SessionId, Identifier::SessionId)
        };
        let verdict = self.found(flow, verdict, by, seconds);
        let idle = seconds.saturating_sub(held.session.last_seen);
        let known = Some(Known { idle, client: held.client });
        Some(Found { verdict, owner, known, identifier })
    }

    /// Looks up the name of a ticket key (`key_name`).
    fn key_name(
        &mut self,
        flow: &mut Flow,
        key: &SessionKey,
        rejected_by: &mut u64,
        seconds: u32,
    ) -> Option<Found> {
        let searched = self.vip.flags & VIP_TELL_TICKETS != 0;
        if searched {
            let tried = self.tried(key);
            if key.len == LONGEST || tried != 0 {
                *rejected_by = tried;
            }
        }
        let name = *self.names.get_mut(key)?;
        // What several backends have is no name, nor is what leads to one that rejected a longer
        // name than this, unless that one accepted different ones.
        let rejected =
            name.flags & KEY_NAME_PROVEN == 0 && *rejected_by & backend_bit(name.owner) != 0;
        if searched && (name.flags & KEY_NAME_SHARED != 0 || rejected) {
            return None;
        }
        let backend = self.backends.get(usize::from(name.owner))?;
        let verdict = decide::key_name(&name, backend, &self.vip, flow.first, seconds);
        let verdict = self.found(flow, verdict, Offer::KeyName, seconds);
        if matches!(verdict, Verdict::Owner(_)) || flow.flags & FLOW_AT_OWNER != 0 {
            flow.flags |= FLOW_NAMED;
            if let Some(name) = self.names.get_mut(key) {
                name.hits = name.hits.wrapping_add(1);
            }
        }
        let identifier = Identifier::TicketName;
        Some(Found { verdict, owner: name.owner, known: None, identifier })
    }

    /// What is said of an identifier that was found (`found`).
    fn found(&mut self, flow: &mut Flow, verdict: Verdict, by: Offer, seconds: u32) -> Verdict {
        flow.flags |= FLOW_HIT;
        match verdict {
            Verdict::First(Counter::SessionHit) => flow.flags |= FLOW_AT_OWNER,
            Verdict::Owner(owner) if self.holds_back(owner, by, seconds) => {
                return Verdict::First(Counter::OwnerRefuses);
            }
            Verdict::First(_) | Verdict::Owner(_) | Verdict::NeedMore => {}
        }
        verdict
    }

    fn holds_back(&mut self, owner: u16, by: Offer, seconds: u32) -> bool {
        let refusals = self.refusals.get_mut(usize::from(owner));
        refusals.is_some_and(|refusals| refusals::holds_back(refusals, by, seconds))
    }

    /// The ticket's key name is not known: whom steer would try, and as what that counts
    /// (`search`).
    fn search(&mut self, flow: &Flow, seconds: u32) -> (Counter, Option<u16>) {
        let Some(key) = self.search_key(flow) else { return (Counter::TicketMiss, None) };
        let tried = self.tried(&key);
        let at_first = tried & backend_bit(flow.first) != 0;
        if decide::search_is_over(tried) {
            return (if at_first { Counter::KeyNameGivenUp } else { Counter::TicketMiss }, None);
        }
        let is_due = self.rotation.changes != 0;
        if is_due || at_first {
            let likely = self.likely(tried, seconds).filter(|likely| *likely != flow.first);
            if likely.is_some() {
                return (if is_due { Counter::KeyNameDue } else { Counter::KeyNameSearch }, likely);
            }
        }
        if !at_first {
            return (Counter::TicketMiss, None);
        }
        // The programs draw from the lookup table; that every server is in it is all that counts
        // here.
        let any = (0..self.backends.len() as u16)
            .find(|id| tried & backend_bit(*id) == 0 && self.is_up(*id));
        (any.map_or(Counter::KeyNameGivenUp, |_| Counter::KeyNameSearch), any)
    }

    /// The name by which the owner of a flow's ticket is searched (`set_search`).
    fn search_key(&mut self, flow: &Flow) -> Option<SessionKey> {
        if flow.flags & FLOW_NAMELESS != 0 {
            return None;
        }
        if self.vip.flags & VIP_TELL_TICKETS == 0 {
            return self.name_key(&flow.offered_bytes, 0);
        }
        let mut entered = None;
        for i in (0..LAYOUTS).rev() {
            if let Some(key) = self.name_key(&flow.offered_bytes, i) {
                entered = Some(key);
                if self.names.get_mut(&key).is_none() {
                    break;
                }
            }
        }
        entered
    }

    /// The members that rejected tickets of a name.
    fn tried(&mut self, key: &SessionKey) -> u64 {
        self.tries.get_mut(key).map_or(0, |tries| tries.tried)
    }

    /// The member that a ticket of an unknown name is most likely of (`likely`).
    fn likely(&mut self, tried: u64, seconds: u32) -> Option<u16> {
        let (mut best, mut most) = (None, 0);
        for i in 0..ROTATION_BACKENDS {
            let this = self.rotation.backends[i];
            let (id, overdue) = (this.id(), this.overdue());
            if overdue > most
                && tried & backend_bit(id) == 0
                && self.is_up(id)
                && !self.holds_back(id, Offer::KeyName, seconds)
            {
                (best, most) = (Some(id), overdue);
            }
        }
        best
    }

    fn is_up(&self, id: u16) -> bool {
        const UP: u16 = BACKEND_PRESENT | BACKEND_UP;
        self.backends.get(usize::from(id)).is_some_and(|backend| backend.flags & UP == UP)
    }
}

/// The tickets of a hello: that of TLS 1.2, then the PSK identities with their index.
fn tickets(hello: &Offered) -> impl Iterator<Item = (&Bytes, u8)> {
    let psk = hello.psk.iter().zip(0u8..);
    std::iter::once((&hello.ticket, NO_PSK)).chain(psk).filter(|(ticket, _)| ticket.len != 0)
}

/// Notes an identifier of the client in its flow (`offer`).
pub(super) fn offer(flow: &mut Flow, kind: Kind, identifier: &Bytes, index: u8) {
    flow.offered_kind = kind as u8;
    flow.offered_len = identifier.prefix(32).len() as u8;
    flow.offered_bytes = identifier.bytes;
    flow.offered_index = index;
    if NameLayout::has_any(identifier.len) {
        flow.flags &= !FLOW_NAMELESS;
    } else {
        flow.flags |= FLOW_NAMELESS;
    }
}
