//! A client's TCP: sends its hello in pieces, repeats what is not acknowledged, checks every byte
//! of the answer.

use steer_common::wire::tcp::flags;

use crate::packet::{Packet, reached};

const MS: u64 = 1_000_000;
const RTO: u64 = 200 * MS;
const RTO_MAX: u64 = 1_600 * MS;
/// A tail-loss probe comes two round trips after the last segment (RFC 8985 7.2).
const PROBE: u64 = 10 * MS;
const MSS: usize = 1460;

/// How a client behaves.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    pub(crate) isn: u32,
    pub(crate) hello_len: usize,
    /// Lengths of the first segments; the rest is cut at the MSS.
    pub(crate) pieces: Vec<usize>,
    /// Segments sent before the first acknowledgement.
    pub(crate) window: usize,
    /// Between the handshake and the hello.
    pub(crate) pause_ms: u64,
    /// Whether a FIN follows the hello.
    pub(crate) fin: bool,
    /// Whether that FIN is a segment of its own.
    pub(crate) bare_fin: bool,
    /// Whether what is sent again is cut anew.
    pub(crate) coalesces: bool,
    pub(crate) probes: bool,
    /// When it gives up with a reset.
    pub(crate) reset_ms: Option<u64>,
}

/// Byte `i` of every hello.
pub(crate) fn hello_byte(i: usize) -> u8 {
    (i as u32).wrapping_mul(0x9e37_79b9).to_be_bytes()[0]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    SynSent,
    Open,
    Gone,
}

pub(crate) struct Client {
    habits: Habits,
    stage: Stage,
    /// The backend's numbers as this client knows them.
    peer_isn: u32,
    peer_window: usize,
    pub(crate) received: Vec<u8>,
    /// Why the application would see an error.
    pub(crate) error: Option<&'static str>,
    acked: usize,
    next: usize,
    highest: usize,
    window: usize,
    rto: u64,
    timer: Option<u64>,
    probe: Option<u64>,
    starts: Option<u64>,
    resets: Option<u64>,
}

impl Client {
    pub(crate) fn new(habits: Habits) -> Self {
        Self {
            stage: Stage::SynSent,
            peer_isn: 0,
            peer_window: 0,
            received: Vec::new(),
            error: None,
            acked: 0,
            next: 0,
            highest: 0,
            window: habits.window,
            rto: RTO,
            timer: Some(0),
            probe: None,
            starts: None,
            resets: habits.reset_ms.map(|ms| ms * MS),
            habits,
        }
    }

    pub(crate) fn gave_up(&self) -> bool {
        self.stage == Stage::Gone
    }

    /// When it does something by itself.
    pub(crate) fn wakes(&self) -> Option<u64> {
        [self.timer, self.probe, self.starts, self.resets].into_iter().flatten().min()
    }

    /// Its clock reached `now`.
    pub(crate) fn wake(&mut self, now: u64) -> Vec<Packet> {
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if due(self.resets) {
            return self.give_up();
        }
        if self.stage == Stage::SynSent {
            self.timer = Some(now + 1_000 * MS);
            return vec![Packet::new(flags::SYN, self.habits.isn, 0)];
        }
        if due(self.starts) {
            self.starts = None;
            return self.fresh(now);
        }
        if due(self.timer) {
            self.rto = (self.rto * 2).min(RTO_MAX);
            (self.next, self.window, self.timer) = (self.acked, 1, None);
            return self.fresh(now);
        }
        self.probe = None;
        self.repeat_last()
    }

    fn give_up(&mut self) -> Vec<Packet> {
        (self.timer, self.probe, self.starts, self.resets) = (None, None, None, None);
        let open = self.stage == Stage::Open;
        self.stage = Stage::Gone;
        if open {
            vec![Packet::new(flags::RST | flags::ACK, self.seq(self.highest), self.ack())]
        } else {
            vec![]
        }
    }

    /// Sequence number of byte `at` of the hello.
    fn seq(&self, at: usize) -> u32 {
        self.habits.isn.wrapping_add(1).wrapping_add(at as u32)
    }

    fn ack(&self) -> u32 {
        self.peer_isn.wrapping_add(1).wrapping_add(self.received.len() as u32)
    }

    /// Everything this client says: the hello and its FIN.
    fn end(&self) -> usize {
        self.habits.hello_len + self.habits.fin as usize
    }

    /// Where the segment that starts at `at` ends, not counting a FIN.
    fn cut(&self, at: usize) -> usize {
        let len = self.habits.hello_len;
        if self.habits.coalesces && at < self.highest {
            return (at + MSS).min(self.highest).min(len).max(at);
        }
        let mut end = 0;
        for piece in self.habits.pieces.iter().copied().chain(std::iter::repeat(MSS)) {
            end += piece;
            if end > at {
                break;
            }
        }
        end.min(len)
    }

    /// The segment that starts at `at`, and where it ends; nothing from `most` on.
    fn segment(&self, at: usize, most: usize) -> (Packet, usize) {
        let limit = (self.acked + self.peer_window).max(at);
        let stop = self.cut(at).min(limit).min(most);
        let data: Vec<u8> = (at..stop).map(hello_byte).collect();
        let fin = self.habits.fin
            && stop == self.habits.hello_len
            && most > stop
            && (!self.habits.bare_fin || data.is_empty());
        let bits = flags::ACK | if fin { flags::FIN } else { 0 };
        (Packet { data, ..Packet::new(bits, self.seq(at), self.ack()) }, stop + fin as usize)
    }

    /// What the window allows from `next` on.
    fn fresh(&mut self, now: u64) -> Vec<Packet> {
        let mut sent = Vec::new();
        while self.next < self.end() && sent.len() < self.window {
            let (packet, stop) = self.segment(self.next, self.end());
            if stop == self.next {
                break;
            }
            self.next = stop;
            self.highest = self.highest.max(stop);
            sent.push(packet);
        }
        if self.acked < self.end() {
            self.timer = Some(self.timer.unwrap_or(now + self.rto));
            self.probe =
                (self.habits.probes && !sent.is_empty() && self.rto == RTO).then_some(now + PROBE);
        }
        sent
    }

    fn repeat_last(&self) -> Vec<Packet> {
        let mut at = self.acked;
        while at < self.highest {
            let (packet, stop) = self.segment(at, self.highest);
            if stop >= self.highest || stop == at {
                return vec![packet];
            }
            at = stop;
        }
        vec![]
    }

    /// A packet that came from the gateway.
    pub(crate) fn receive(&mut self, packet: &Packet, now: u64) -> Vec<Packet> {
        if self.stage == Stage::Gone {
            return if packet.any(flags::RST) { vec![] } else { vec![packet.refusal()] };
        }
        if packet.any(flags::RST) {
            // Only one at the exact number counts (RFC 5961 3.2), or one that refuses the SYN (RFC
            // 9293 3.10.7.3). What answers a forgery has other numbers.
            let refused = packet.any(flags::ACK) && packet.ack == self.seq(0);
            let counts =
                if self.stage == Stage::SynSent { refused } else { packet.seq == self.ack() };
            if counts {
                self.error = Some("reset");
            }
            return vec![];
        }
        if packet.is_syn_ack() {
            return self.syn_ack(packet, now);
        }
        if self.stage == Stage::SynSent {
            return vec![];
        }
        let mut answer = self.acknowledged(packet, now);
        answer.extend(self.answered(packet));
        answer
    }

    fn syn_ack(&mut self, packet: &Packet, now: u64) -> Vec<Packet> {
        assert_eq!(packet.ack, self.seq(0), "a SYN-ACK for another SYN");
        if self.stage == Stage::SynSent {
            self.stage = Stage::Open;
            self.peer_isn = packet.seq;
            self.peer_window = packet.window as usize;
            self.timer = None;
            self.starts = Some(now + self.habits.pause_ms * MS);
        }
        assert_eq!(packet.seq, self.peer_isn, "the SYN-ACK of a second backend");
        vec![Packet::new(flags::ACK, self.seq(self.highest), self.ack())]
    }

    fn acknowledged(&mut self, packet: &Packet, now: u64) -> Vec<Packet> {
        let by = packet.ack.wrapping_sub(self.seq(self.acked)) as i32;
        assert!(
            by <= (self.highest - self.acked) as i32,
            "acknowledges {by} bytes of what was never sent"
        );
        if by <= 0 {
            return vec![];
        }
        self.acked += by as usize;
        self.next = self.next.max(self.acked);
        self.window += 1;
        self.peer_window = packet.window as usize;
        (self.timer, self.probe, self.rto) = (None, None, RTO);
        self.fresh(now)
    }

    fn answered(&mut self, packet: &Packet) -> Vec<Packet> {
        let seq_len = packet.data.len();
        if seq_len == 0 {
            // A keepalive or a challenge wants an acknowledgement; a plain one does not.
            let old = packet.seq != self.ack() && reached(packet.seq, self.ack());
            return if old {
                vec![Packet::new(flags::ACK, self.seq(self.highest), self.ack())]
            } else {
                vec![]
            };
        }
        assert!(reached(packet.seq, self.ack()), "a hole in an answer of one segment at a time");
        let known = self.ack().wrapping_sub(packet.seq) as usize;
        self.received.extend(packet.data.iter().skip(known));
        vec![Packet::new(flags::ACK, self.seq(self.highest), self.ack())]
    }
}
