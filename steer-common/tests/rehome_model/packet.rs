//! A TCP segment as far as the model goes.

use steer_common::wire::tcp::{Segment, flags};

/// A segment between any two parties; numbers as the wire carries them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    /// MSS option of a SYN or SYN-ACK.
    pub(crate) mss: u16,
    pub(crate) data: Vec<u8>,
    /// An attacker made it, who sees nothing.
    pub(crate) forged: bool,
}

impl Packet {
    pub(crate) fn new(flags: u8, seq: u32, ack: u32) -> Self {
        Self { flags, seq, ack, window: u16::MAX, mss: 1460, data: Vec::new(), forged: false }
    }

    pub(crate) fn any(&self, bits: u8) -> bool {
        self.flags & bits != 0
    }

    pub(crate) fn is_syn_ack(&self) -> bool {
        self.flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN | flags::ACK
    }

    /// The reset that answers this segment (RFC 9293 3.10.7.1).
    pub(crate) fn refusal(&self) -> Self {
        if self.any(flags::ACK) {
            return Self::new(flags::RST, self.ack, 0);
        }
        let len =
            self.data.len() as u32 + self.any(flags::SYN) as u32 + self.any(flags::FIN) as u32;
        Self::new(flags::RST | flags::ACK, 0, self.seq.wrapping_add(len))
    }

    /// The segment as the parser would read it.
    pub(crate) fn parsed(&self) -> Segment {
        Segment {
            source_port: [0; 2],
            destination_port: [0; 2],
            seq: self.seq,
            ack: self.ack,
            window: self.window,
            flags: self.flags,
            accurate_ecn: false,
            header_len: 20,
            payload_len: self.data.len(),
        }
    }
}

/// Whether `b` is `a` or a sequence number after it.
pub(crate) fn reached(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) as i32 >= 0
}
