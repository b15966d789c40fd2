//! What a server's answer teaches, in the programs' order (`finished` and `tls13` of steer-ebpf).

use std::net::IpAddr;

use steer_common::{
    learn::{Certificate, Outcome, Psk, certificate, offer, psk, taught},
    refusals, rotation,
    session::{Kind, NameLayout},
    shared::{
        FLOW_AT_OWNER, FLOW_HELLO, FLOW_HIT, FLOW_NAMED, FLOW_NAMELESS, FLOW_RETRIED, Flow, NO_PSK,
        Session, SessionKey,
    },
    wire::tls::server_flight::{End, Follow},
};

use super::{Handshake, Held, Replay, key, names::Which, offers};
use crate::inspect::hello::Offered;

impl Replay {
    /// The server asked for another hello (RFC 8446 4.1.4): what that one offers counts, if it
    /// could be read.
    pub(in super::super) fn retried(&self, handshake: &mut Handshake, second: Option<&Offered>) {
        let flow = &mut handshake.flow;
        flow.offered_kind = 0;
        flow.flags &= !(FLOW_HIT | FLOW_NAMED | FLOW_AT_OWNER);
        flow.flags |= FLOW_RETRIED;
        if let Some(ticket) = second.map(|hello| &hello.psk[0]).filter(|ticket| ticket.len != 0) {
            offers::offer(flow, Kind::Ticket, ticket, 0);
        }
    }

    /// The server's handshake in clear is over. How it came out; `None` where that is not to be
    /// told.
    pub(in super::super) fn ended(
        &mut self,
        handshake: &mut Handshake,
        follow: &Follow,
        end: End,
        seconds: u32,
    ) -> Option<Outcome> {
        handshake.flow.follow = *follow;
        match end {
            End::ChangeCipherSpec => Some(self.finished(handshake, seconds)),
            End::Tls13 => Some(self.tls13(handshake, seconds)),
            End::Alert | End::Other => None,
        }
    }

    /// The server's ChangeCipherSpec (TLS 1.2 and below): it has authenticated the client.
    fn finished(&mut self, handshake: &mut Handshake, seconds: u32) -> Outcome {
        let (flow, client) = (&mut handshake.flow, handshake.client);
        let taught = taught(flow);
        self.note_refusals(flow, taught.outcome, seconds);
        if taught.used {
            let offered = of(flow.offered_kind, flow.offered_len, &flow.offered_bytes);
            self.refresh(offered, flow.first, client, seconds);
        }
        if taught.outcome == Outcome::Resumed && flow.offered_kind == Kind::Ticket as u8 {
            self.learn_ticket(flow, Which::Offered, seconds);
        }
        if taught.outcome == Outcome::Full {
            self.rejected(flow, seconds);
        }
        if taught.issued && may_have_one(flow) {
            let follow = &flow.follow;
            self.insert(
                of(follow.lesson_kind, follow.lesson_len, &follow.lesson),
                flow.first,
                client,
                seconds,
            );
            if flow.follow.lesson_kind == Kind::Ticket as u8 {
                self.learn_ticket(flow, Which::Lesson, seconds);
            }
        }
        taught.outcome
    }

    /// A ServerHello of TLS 1.3.
    fn tls13(&mut self, handshake: &mut Handshake, seconds: u32) -> Outcome {
        let (flow, client) = (&mut handshake.flow, handshake.client);
        let psk = psk(flow);
        let outcome = if psk == Psk::None { Outcome::Full } else { Outcome::Resumed };
        self.note_refusals(flow, outcome, seconds);
        rotation::answered(&mut self.rotation, flow.first, seconds);
        match psk {
            Psk::None => self.rejected(flow, seconds),
            Psk::Other => {}
            Psk::Accepted => {
                if NameLayout::of(&self.vip, 0).len == 0 || flow.flags & FLOW_NAMELESS != 0 {
                    // Without a name the ticket itself is all that can be known again.
                    let offered = of(flow.offered_kind, flow.offered_len, &flow.offered_bytes);
                    if !self.refresh(offered, flow.first, client, seconds) {
                        self.insert(offered, flow.first, client, seconds);
                    }
                }
                self.learn_ticket(flow, Which::Offered, seconds);
            }
        }
        outcome
    }

    fn note_refusals(&mut self, flow: &Flow, outcome: Outcome, seconds: u32) {
        if flow.flags & FLOW_HELLO == 0 || outcome == Outcome::Unknown {
            return;
        }
        let accepted = outcome == Outcome::Resumed;
        if let (Some(offer), Some(refusals)) =
            (offer(flow, accepted), self.refusals.get_mut(usize::from(flow.first)))
        {
            refusals::note(refusals, offer, accepted, seconds);
        }
    }

    /// Stamps a session; whether this member owns it.
    fn refresh(
        &mut self,
        key: Option<SessionKey>,
        member: u16,
        client: IpAddr,
        seconds: u32,
    ) -> bool {
        let held = key.and_then(|key| self.sessions.get_mut(&key));
        let Some(held) = held.filter(|held| held.session.owner == member) else { return false };
        held.session.last_seen = seconds;
        held.session.uses = held.session.uses.wrapping_add(1);
        held.client = client;
        true
    }

    /// A member owns a session.
    fn insert(&mut self, key: Option<SessionKey>, member: u16, client: IpAddr, seconds: u32) {
        let Some(key) = key else { return };
        let session =
            Session { owner: member, flags: 0, first_seen: seconds, last_seen: seconds, uses: 0 };
        self.sessions.insert(key, Held { session, client });
    }
}

/// Whether what a flow's client was issued is learned, as far as its certificate is concerned
/// (`learn_without_certificate = false`, the default).
fn may_have_one(flow: &Flow) -> bool {
    match certificate(flow) {
        Certificate::Given | Certificate::NotAsked => true,
        Certificate::Missing | Certificate::Unseen => false,
    }
}

fn of(kind: u8, len: u8, bytes: &[u8; 32]) -> Option<SessionKey> {
    key(Kind::from_number(kind)?, bytes.get(..usize::from(len))?)
}

/// The index of what is no PSK identity never names one.
const _: () = assert!(NO_PSK as usize > steer_common::wire::tls::client_hello::PSK_IDENTITIES);

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use steer_common::maps::entries;

    use super::*;
    use crate::config::TicketKeyName;

    #[test]
    fn as_many_sessions_are_remembered_as_the_gateway_does_and_no_more() {
        const BOUND: usize = entries("sessions") as usize;
        let mut replay = Replay::new(Duration::from_secs(600), TicketKeyName::Auto);
        replay.add();
        for n in 0..BOUND as u32 + BOUND as u32 / 4 {
            let key = key(Kind::SessionId, &n.to_be_bytes());
            replay.insert(key, 0, Ipv4Addr::LOCALHOST.into(), 1);
        }
        let held = replay.sessions.iter().count();
        assert!((BOUND / 2..=BOUND).contains(&held), "{held}");
        assert_eq!(held as u64 + replay.n_forgotten(), u64::from(BOUND as u32 + BOUND as u32 / 4));
    }
}
