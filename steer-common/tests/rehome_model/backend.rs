//! A backend's TCP: accepts or not, checks every byte of the hello, answers once it has all of it.

use steer_common::wire::tcp::flags;

use crate::{
    client::hello_byte,
    direct::{Direct, Talk},
    packet::{Packet, reached},
};

const MS: u64 = 1_000_000;
const RTO: u64 = 200 * MS;
/// Repeats of a SYN-ACK before the connection is forgotten (Linux: tcp_synack_retries).
const SYN_ACK_REPEATS: u32 = 5;
/// Length of every answer, bytes.
pub(crate) const ANSWER: usize = 100;

/// How a backend behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Temper {
    pub(crate) isn: u32,
    /// Says something before it is asked.
    pub(crate) speaks_first: bool,
    /// Window of its SYN-ACK; 0: the largest.
    pub(crate) window: u16,
    pub(crate) silent: bool,
    pub(crate) refuses: bool,
    /// Holds another connection of the client's on these ports, and speaks on it at these times.
    pub(crate) talks: Option<Talk>,
    /// Takes smaller segments than the client was told.
    pub(crate) small: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Listen,
    SynReceived,
    Open,
}

pub(crate) struct Backend {
    temper: Temper,
    /// The client's other connection, which has these ports here.
    pub(crate) direct: Option<Direct>,
    /// The byte its answers are made of.
    pub(crate) name: u8,
    stage: Stage,
    hello_len: usize,
    isn: u32,
    client_isn: u32,
    have: Vec<bool>,
    fin: bool,
    answering: bool,
    answered: bool,
    timer: Option<u64>,
    repeats: u32,
    /// When it sent the last SYN-ACK that nobody answered.
    pub(crate) unheard_since: Option<u64>,
}

impl Backend {
    pub(crate) fn new(name: u8, temper: Temper, hello_len: usize) -> Self {
        Self {
            name,
            direct: temper.talks.clone().map(Direct::new),
            stage: Stage::Listen,
            isn: temper.isn,
            temper,
            hello_len,
            client_isn: 0,
            have: vec![false; hello_len],
            fin: false,
            answering: false,
            answered: false,
            timer: None,
            repeats: 0,
            unheard_since: None,
        }
    }

    pub(crate) fn got_nothing(&self) -> bool {
        !self.have.contains(&true)
    }

    pub(crate) fn got_everything(&self) -> bool {
        !self.have.contains(&false)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.stage == Stage::Listen
    }

    pub(crate) fn wakes(&self) -> Option<u64> {
        self.timer.into_iter().chain(self.direct.as_ref().and_then(Direct::wakes)).min()
    }

    pub(crate) fn wake(&mut self, now: u64) -> Vec<Packet> {
        if let Some(direct) = &mut self.direct {
            return direct.wake(now);
        }
        match self.stage {
            Stage::SynReceived if self.repeats == SYN_ACK_REPEATS => {
                (self.stage, self.timer) = (Stage::Listen, None);
                self.unheard_since = Some(now - (1_000 << self.repeats) * MS);
                vec![]
            }
            Stage::SynReceived => {
                self.repeats += 1;
                self.timer = Some(now + (1_000 << self.repeats) * MS);
                vec![self.syn_ack()]
            }
            Stage::Open if self.answering && !self.answered => {
                self.timer = Some(now + RTO);
                vec![self.answer()]
            }
            _ => {
                self.timer = None;
                vec![]
            }
        }
    }

    /// A probe of an idle connection.
    pub(crate) fn keepalive(&self) -> Option<Packet> {
        (self.stage == Stage::Open)
            .then(|| Packet::new(flags::ACK, self.next().wrapping_sub(1), self.expected()))
    }

    fn syn_ack(&self) -> Packet {
        let window = self.window();
        let mss = if self.temper.small { 536 } else { 1460 };
        let ack = self.client_isn.wrapping_add(1);
        Packet { window, mss, ..Packet::new(flags::SYN | flags::ACK, self.isn, ack) }
    }

    fn window(&self) -> u16 {
        if self.temper.window == 0 { u16::MAX } else { self.temper.window }
    }

    /// Bytes of the hello from the first one without a hole.
    fn contiguous(&self) -> usize {
        self.have.iter().take_while(|have| **have).count()
    }

    fn next(&self) -> u32 {
        self.isn.wrapping_add(1).wrapping_add(if self.answering { ANSWER as u32 } else { 0 })
    }

    /// The sequence number it expects.
    fn expected(&self) -> u32 {
        let have = self.contiguous();
        let fin = self.fin && have == self.hello_len;
        self.client_isn.wrapping_add(1).wrapping_add((have + fin as usize) as u32)
    }

    fn answer(&self) -> Packet {
        let seq = self.isn.wrapping_add(1);
        Packet { data: vec![self.name; ANSWER], ..Packet::new(flags::ACK, seq, self.expected()) }
    }

    pub(crate) fn receive(&mut self, packet: &Packet, now: u64) -> Vec<Packet> {
        if self.temper.silent {
            return vec![];
        }
        if let Some(direct) = &mut self.direct {
            return direct.owner_receives(packet);
        }
        if packet.any(flags::RST) {
            return self.reset(packet);
        }
        match self.stage {
            Stage::Listen if packet.any(flags::SYN) && !self.temper.refuses => {
                // A new connection on the same addresses starts anew.
                self.isn = self.isn.wrapping_add(64_000);
                self.client_isn = packet.seq;
                (self.stage, self.repeats, self.timer) =
                    (Stage::SynReceived, 0, Some(now + 1_000 * MS));
                vec![self.syn_ack()]
            }
            Stage::Listen => vec![packet.refusal()],
            Stage::SynReceived if packet.any(flags::SYN) => vec![self.syn_ack()],
            Stage::SynReceived if packet.ack != self.isn.wrapping_add(1) => vec![packet.refusal()],
            Stage::SynReceived => {
                (self.stage, self.timer) = (Stage::Open, None);
                let mut sent = if self.temper.speaks_first { self.speak(now) } else { vec![] };
                sent.extend(self.data(packet, now));
                sent
            }
            Stage::Open if packet.any(flags::SYN) => vec![self.bare_ack()],
            Stage::Open => self.data(packet, now),
        }
    }

    fn bare_ack(&self) -> Packet {
        Packet::new(flags::ACK, self.next(), self.expected())
    }

    /// RFC 5961 3.2: exactly where expected, or a challenge.
    fn reset(&mut self, packet: &Packet) -> Vec<Packet> {
        if self.stage == Stage::Listen {
            return vec![];
        }
        if packet.seq != self.expected() {
            return vec![self.bare_ack()];
        }
        (self.stage, self.timer) = (Stage::Listen, None);
        vec![]
    }

    /// RFC 5961 5.2: what acknowledges something never sent, or long gone, is not looked at
    /// further.
    fn acknowledges_ours(&self, packet: &Packet) -> bool {
        packet.any(flags::ACK)
            && reached(self.isn.wrapping_add(1), packet.ack)
            && reached(packet.ack, self.next())
    }

    fn speak(&mut self, now: u64) -> Vec<Packet> {
        self.answering = true;
        self.timer = Some(now + RTO);
        vec![self.answer()]
    }

    fn data(&mut self, packet: &Packet, now: u64) -> Vec<Packet> {
        if !self.acknowledges_ours(packet) {
            return vec![self.bare_ack()];
        }
        if self.answering && packet.ack == self.next() {
            self.answered = true;
        }
        let start = packet.seq.wrapping_sub(self.client_isn.wrapping_add(1)) as i32;
        let edge = self.contiguous() + usize::from(self.window());
        for (i, byte) in packet.data.iter().enumerate() {
            let at = usize::try_from(start + i as i32).expect("a byte before the stream");
            assert!(at < self.hello_len, "a byte behind the hello");
            assert_eq!(
                *byte,
                hello_byte(at),
                "byte {at} of the hello is wrong at {}",
                self.name as char
            );
            if at < edge {
                self.have[at] = true;
            }
        }
        self.fin |= packet.any(flags::FIN);
        if packet.data.is_empty() && !packet.any(flags::FIN) {
            return vec![];
        }
        if self.got_everything() && !self.answering {
            return self.speak(now);
        }
        vec![self.bare_ack()]
    }
}
