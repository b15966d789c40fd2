//! The records of a stream (RFC 5246 6.2.1) that hold a ClientHello: whether the first one has it
//! whole, and the message joined where it is split.

use super::{
    super::{MAJOR, RECORD_HEADER, RECORD_MAX, SESSION_ID_LEN_AT, content, handshake},
    ID_LEN_IN_MESSAGE, MASK, MESSAGE_HEADER, SESSION_ID_AT, STREAM, Stream,
};
use crate::{session::SESSION_ID_MAX, wire::byte};

/// Steps that [`Framing`] takes at most: one for each record header and each [`PIECE`] of a record.
pub const FRAMING_STEPS: u32 = 640;
/// Bytes that [`Framing`] copies in one step at most.
pub const PIECE: u32 = 64;

/// What the first bytes of a client's stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Too few bytes to tell.
    NeedMore,
    /// No TLS.
    NotTls,
    /// TLS, but with lengths that cannot be.
    Malformed,
    /// The message lies in the first record: it starts at byte 5 and has `len` bytes with its
    /// header.
    OneRecord {
        /// Length, bytes.
        len: u32,
    },
    /// The message is split over records.
    Split,
}

/// Whether a segment that begins with these words, in memory order, begins as a ClientHello does.
#[inline(always)]
pub const fn begins(words: [u32; 2]) -> bool {
    let [record, message] = words;
    byte(record, 0) == content::HANDSHAKE
        && byte(record, 1) == MAJOR
        && byte(message, 1) == handshake::CLIENT_HELLO
}

/// Judges the first `have` bytes of a client's stream; `b` reads one of them.
#[inline(always)]
pub fn start(b: impl Fn(usize) -> u8, have: u32) -> Start {
    if have == 0 {
        return Start::NeedMore;
    }
    // SSL 2 hellos and everything that is no TLS differ in the first bytes already: never wait for
    // more of those.
    if b(0) != content::HANDSHAKE
        || (have > 1 && b(1) != MAJOR)
        || (have > 5 && b(5) != handshake::CLIENT_HELLO)
    {
        return Start::NotTls;
    }
    if have <= RECORD_HEADER as u32 {
        return Start::NeedMore;
    }
    let record = u16::from_be_bytes([b(3), b(4)]) as u32;
    if record == 0 || record > RECORD_MAX {
        return Start::Malformed;
    }
    if record < MESSAGE_HEADER {
        return Start::Split;
    }
    if have < RECORD_HEADER as u32 + MESSAGE_HEADER {
        return Start::NeedMore;
    }
    let len = MESSAGE_HEADER + u32::from_be_bytes([0, b(6), b(7), b(8)]);
    if len <= ID_LEN_IN_MESSAGE {
        return Start::Malformed;
    }
    if len > record { Start::Split } else { Start::OneRecord { len } }
}

/// The length of the session ID at [`SESSION_ID_AT`] where the first record holds it whole; 0 where
/// there is none to be seen there. `b` reads a byte before that place.
#[inline(always)]
pub fn early_session_id(b: impl Fn(usize) -> u8 + Copy, have: u32) -> u32 {
    if !matches!(start(b, have), Start::OneRecord { .. } | Start::Split) {
        return 0;
    }
    let len = b(SESSION_ID_LEN_AT) as u32;
    let end = SESSION_ID_AT as u32 + len;
    let record_end = RECORD_HEADER as u32 + u16::from_be_bytes([b(3), b(4)]) as u32;
    if len > SESSION_ID_MAX as u32 || end > have || end > record_end || b(9) != MAJOR {
        0
    } else {
        len
    }
}

/// A message that is split over records, being joined.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// Bytes of the stream at hand.
    pub have: u32,
    /// Next byte of the stream to look at.
    pub at: u32,
    /// Bytes left of the record at hand.
    pub left: u32,
    /// Bytes of the message joined so far.
    pub joined: u32,
    /// Length of the message with its header; 0: not known yet.
    pub len: u32,
    /// Bytes of the stream without which the next look finds nothing new.
    pub needed: u32,
}

/// What one step of [`Framing`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Step on.
    More,
    /// The message is whole.
    Whole,
    /// The bytes at hand end before the message does.
    NeedMore,
    /// What follows is no record of a handshake.
    Malformed,
}

impl Framing {
    /// Copies a piece of the message from `from`, the stream, to `to`, or reads the next record
    /// header.
    #[inline(always)]
    pub fn step(&mut self, from: &Stream, to: &mut Stream) -> Joined {
        if self.len == 0 && self.joined >= MESSAGE_HEADER {
            self.len = MESSAGE_HEADER + u32::from_be_bytes([0, to[1], to[2], to[3]]);
            if to[0] != handshake::CLIENT_HELLO || self.len <= ID_LEN_IN_MESSAGE {
                return Joined::Malformed;
            }
        }
        if self.len != 0 && self.joined >= self.len {
            return Joined::Whole;
        }
        if self.have > STREAM as u32 || self.at > self.have {
            return Joined::Malformed;
        }
        let there = self.have - self.at;
        if self.left == 0 {
            if there < RECORD_HEADER as u32 {
                self.needed = self.at + RECORD_HEADER as u32;
                return Joined::NeedMore;
            }
            let b = |i: u32| from[(self.at + i) as usize & MASK];
            let record = u16::from_be_bytes([b(3), b(4)]) as u32;
            if b(0) != content::HANDSHAKE || b(1) != MAJOR || record == 0 || record > RECORD_MAX {
                return Joined::Malformed;
            }
            self.left = record;
            self.at += RECORD_HEADER as u32;
            return Joined::More;
        }
        if there == 0 {
            self.needed = self.at + self.left;
            return Joined::NeedMore;
        }
        // The header alone first: the length says how much is the message's.
        let wanted =
            if self.len == 0 { MESSAGE_HEADER - self.joined } else { self.len - self.joined };
        let n = wanted.min(self.left).min(there).min(PIECE);
        for i in 0..PIECE {
            if i >= n {
                break;
            }
            to[(self.joined + i) as usize & MASK] = from[(self.at + i) as usize & MASK];
        }
        self.at += n;
        self.left -= n;
        self.joined += n;
        Joined::More
    }
}
