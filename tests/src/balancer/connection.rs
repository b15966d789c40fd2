//! One connection through the balancer: whose it is, where both of its streams stand, and what
//! becomes of its packets.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Cookies,
    packet::{ACKS, FIN, Packet, RST, SYN},
};
use crate::packets::Segment;

/// So long a connection is known that is over (tcpCloseTimeout of an F5).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Segments that wait until the member is open.
const HELD: usize = 32;

/// Where a packet goes.
pub(super) enum Out {
    Client(Packet),
    Member(Packet),
}

pub(super) struct Connection {
    /// The client, and whom it dialled.
    pub(super) client: SocketAddr,
    pub(super) dialled: SocketAddr,
    /// The client as the member sees it, and the member.
    pub(super) near: SocketAddr,
    pub(super) member: SocketAddr,
    /// Initial sequence number of the client.
    isn: u32,
    phase: Phase,
    /// The member's sequence numbers are so far ahead of those that its client knows.
    ahead: u32,
    /// What the member and the client acknowledged, each in the numbers that it knows.
    acked_by_member: u32,
    acked_by_client: u32,
    seen: Instant,
    ended: u8,
    over: Option<Instant>,
}

enum Phase {
    /// Packets pass.
    Open,
    /// The client was answered with this number, and the member not asked yet.
    Answered(u32, Cookies),
    /// The member was asked; what the client said meanwhile waits.
    Opening(u32, Cookies, Vec<Packet>),
    /// Nothing passes any more, and nobody is told.
    Silent,
}

impl Connection {
    pub(super) fn new(syn: &Packet, near: SocketAddr, member: SocketAddr) -> Self {
        Self {
            client: syn.source(),
            dialled: syn.destination(),
            near,
            member,
            isn: syn.seq(),
            phase: Phase::Open,
            ahead: 0,
            acked_by_member: 0,
            acked_by_client: 0,
            seen: Instant::now(),
            ended: 0,
            over: None,
        }
    }

    /// Whether this SYN opens another connection from the same port.
    pub(super) fn is_replaced_by(&self, packet: &Packet) -> bool {
        packet.any(SYN) && !packet.any(ACKS) && packet.seq() != self.isn
    }

    /// Whether nothing of it is known any more.
    pub(super) fn is_forgotten(&self) -> bool {
        self.over.is_some_and(|over| over.elapsed() > CLOSE_TIMEOUT)
    }

    pub(super) fn is_idle_for(&self, limit: Duration) -> bool {
        self.over.is_none() && self.seen.elapsed() > limit
    }

    pub(super) fn fall_silent(&mut self) {
        self.phase = Phase::Silent;
    }

    /// Both sides are reset, with the numbers that each expects, and it is over.
    pub(super) fn reset(&mut self) -> Result<[Out; 2]> {
        self.over = Some(Instant::now());
        let told = self.acked_by_client.wrapping_add(self.ahead);
        let client = Segment::new(self.dialled, self.client, self.acked_by_client)
            .rst()
            .ack(self.acked_by_member);
        let member = Segment::new(self.near, self.member, self.acked_by_member).rst().ack(told);
        Ok([Out::Client(Packet::made(&client)?), Out::Member(Packet::made(&member)?)])
    }

    /// A balancer that is under attack answers the SYN itself, with no option but the MSS.
    pub(super) fn answer(&mut self, cookies: Cookies) -> Result<Vec<Out>> {
        let cookie = self.isn ^ 0x5eed_c00c;
        self.phase = Phase::Answered(cookie, cookies);
        let mut answer =
            Segment::new(self.dialled, self.client, cookie).syn().ack(self.isn.wrapping_add(1));
        answer.tcp.window_size = cookies.window;
        Ok(vec![Out::Client(Packet::made(&answer.options(self.mss()))?)])
    }

    /// What becomes of a packet of the client.
    pub(super) fn hear_client(&mut self, packet: Packet) -> Result<Vec<Out>> {
        self.seen = Instant::now();
        match &mut self.phase {
            Phase::Silent => Ok(Vec::new()),
            Phase::Open => {
                if packet.any(ACKS) {
                    self.acked_by_client = packet.ack();
                }
                self.note_end(&packet, 1);
                Ok(vec![self.to_member(packet)])
            }
            Phase::Answered(_, cookies) if packet.any(SYN) => {
                let cookies = *cookies;
                self.answer(cookies)
            }
            Phase::Answered(cookie, cookies) => {
                self.acked_by_client = packet.ack();
                let held = if packet.payload_len() > 0 { vec![packet] } else { Vec::new() };
                self.phase = Phase::Opening(*cookie, *cookies, held);
                self.ask()
            }
            Phase::Opening(_, _, held) => {
                if packet.payload_len() > 0 && held.len() < HELD {
                    held.push(packet);
                }
                Ok(Vec::new())
            }
        }
    }

    /// What becomes of a packet of the member.
    pub(super) fn hear_member(&mut self, mut packet: Packet) -> Result<Vec<Out>> {
        self.seen = Instant::now();
        match &mut self.phase {
            Phase::Silent | Phase::Answered(..) => return Ok(Vec::new()),
            Phase::Opening(cookie, cookies, held) if packet.any(SYN) && packet.any(ACKS) => {
                let (cookie, cookies, held) = (*cookie, *cookies, std::mem::take(held));
                return self.opened(&packet, cookie, cookies, held);
            }
            Phase::Opening(..) | Phase::Open => {}
        }
        if packet.any(ACKS) {
            self.acked_by_member = packet.ack();
        }
        self.note_end(&packet, 2);
        packet.set_source(self.dialled);
        packet.set_destination(self.client);
        packet.add_to_seq(self.ahead.wrapping_neg());
        Ok(vec![Out::Client(packet)])
    }

    fn to_member(&self, mut packet: Packet) -> Out {
        packet.set_source(self.near);
        packet.set_destination(self.member);
        if packet.any(ACKS) {
            packet.add_to_ack(self.ahead);
        }
        Out::Member(packet)
    }

    fn note_end(&mut self, packet: &Packet, side: u8) {
        if packet.any(FIN) {
            self.ended |= side;
        }
        if self.over.is_none() && (packet.any(RST) || self.ended == 3) {
            self.over = Some(Instant::now());
        }
    }

    fn mss(&self) -> &'static [u8] {
        if self.client.is_ipv4() { &[2, 4, 0x05, 0xb4] } else { &[2, 4, 0x05, 0xa0] }
    }

    /// A SYN to the member with the client's own number.
    fn ask(&self) -> Result<Vec<Out>> {
        let syn = Segment::new(self.near, self.member, self.isn).syn().options(self.mss());
        Ok(vec![Out::Member(Packet::made(&syn)?)])
    }

    /// The member answered: it gets the acknowledgement, unless the hello does for it, and all that
    /// waited; a client that was allowed to say nothing is told that it may.
    fn opened(
        &mut self,
        answer: &Packet,
        cookie: u32,
        cookies: Cookies,
        held: Vec<Packet>,
    ) -> Result<Vec<Out>> {
        self.phase = Phase::Open;
        self.ahead = answer.seq().wrapping_sub(cookie);
        self.acked_by_member = answer.ack();
        let mut out = Vec::new();
        if !cookies.glued || held.is_empty() {
            let bare = Segment::new(self.near, self.member, answer.ack()).ack(answer.end_seq());
            out.push(Out::Member(Packet::made(&bare)?));
        }
        out.extend(held.into_iter().map(|packet| self.to_member(packet)));
        let next = cookie.wrapping_add(1);
        let mut more = Segment::new(self.dialled, self.client, next).ack(answer.ack());
        more.tcp.window_size = answer.window();
        out.push(Out::Client(Packet::made(&more)?));
        Ok(out)
    }
}
