//! The connection that the client dialled to the owner itself, from the same port: it must not
//! notice the flow.
//!
//! Its packets pass the gateway by the owner's own address. The owner speaks on it again and again;
//! both ends check every number, and a reset that either would take for its own ends it.

use steer_common::wire::tcp::flags;

use crate::packet::Packet;

/// Where the client stands in it.
const CLIENT: u32 = 0x1234_5678;
/// The owner's first number in it.
const OWNER: u32 = 77;
/// Length of what the owner says each time, bytes.
const LEN: usize = 50;
const MS: u64 = 1_000_000;
const RTO: u64 = 200 * MS;

/// How the connection behaves: when the owner speaks on it, milliseconds.
pub(crate) type Talk = Vec<u64>;

/// Both ends of it. The owner's is asked first about what arrives there.
pub(crate) struct Direct {
    talk: std::vec::IntoIter<u64>,
    next_talk: Option<u64>,
    /// Times that the owner has spoken.
    said: u32,
    /// Bytes that the client has acknowledged, and has.
    acked: u32,
    received: u32,
    timer: Option<u64>,
    pub(crate) ended: Option<&'static str>,
}

impl Direct {
    pub(crate) fn new(mut talk: Talk) -> Self {
        talk.sort_unstable();
        let mut talk = talk.into_iter();
        let next_talk = talk.next().map(|ms| ms * MS);
        Self { talk, next_talk, said: 0, acked: 0, received: 0, timer: None, ended: None }
    }

    pub(crate) fn wakes(&self) -> Option<u64> {
        [self.next_talk, self.timer].into_iter().flatten().min()
    }

    /// What the owner says by itself.
    pub(crate) fn wake(&mut self, now: u64) -> Vec<Packet> {
        if self.next_talk.is_some_and(|at| at <= now) {
            self.next_talk = self.talk.next().map(|ms| (ms * MS).max(now + 1));
            self.said += 1;
        }
        let unheard = self.said * LEN as u32 > self.acked;
        self.timer = unheard.then_some(now + RTO);
        let data = vec![b'D'; (self.said * LEN as u32 - self.acked) as usize];
        if unheard { vec![Packet { data, ..self.owner(self.acked) }] } else { vec![] }
    }

    fn owner(&self, at: u32) -> Packet {
        Packet::new(flags::ACK, OWNER.wrapping_add(at), CLIENT)
    }

    /// A packet at the owner, with these ports. Whatever is not of this connection is challenged
    /// (RFC 5961).
    pub(crate) fn owner_receives(&mut self, packet: &Packet) -> Vec<Packet> {
        let end = self.said * LEN as u32;
        if packet.any(flags::RST) && packet.seq == CLIENT {
            self.ended = Some("a reset at the owner");
            return vec![];
        }
        let acked = packet.ack.wrapping_sub(OWNER);
        let its = packet.flags == flags::ACK
            && packet.seq == CLIENT
            && packet.data.is_empty()
            && acked <= end;
        if its {
            self.acked = self.acked.max(acked);
            return vec![];
        }
        if packet.any(flags::RST) { vec![] } else { vec![self.owner(end)] }
    }

    /// A packet at the client, from the owner's own address.
    pub(crate) fn client_receives(&mut self, packet: &Packet) -> Vec<Packet> {
        if packet.any(flags::RST) {
            if packet.seq == OWNER.wrapping_add(self.received) {
                self.ended = Some("a reset at the client");
            }
            return vec![];
        }
        assert!(!packet.any(flags::SYN), "{packet:?} reached the client on its other connection");
        assert_eq!(packet.ack, CLIENT, "{packet:?} reached the client on its other connection");
        assert!(
            packet.data.iter().all(|byte| *byte == b'D'),
            "{packet:?} reached the client on its other connection"
        );
        let at = packet.seq.wrapping_sub(OWNER);
        if packet.data.is_empty() {
            return vec![];
        }
        if at <= self.received {
            self.received = self.received.max(at + packet.data.len() as u32);
        }
        vec![Packet::new(flags::ACK, CLIENT, OWNER.wrapping_add(self.received))]
    }

    /// How it must have ended: not at all.
    pub(crate) fn judge(&self) {
        assert_eq!(self.ended, None, "the client's other connection ended");
        assert_eq!(
            self.received,
            self.said * LEN as u32,
            "the client's other connection lost data"
        );
    }
}
