//! A client's answer to a CertificateRequest in TLS 1.2 and below: the first message of its second
//! flight, in clear.

use super::{MAJOR, RECORD_HEADER, RECORD_MAX, content, handshake};

/// Bytes that tell: record header, message header, length of the list of certificates (RFC 5246
/// 7.4.6).
pub const ANSWER_LEN: usize = RECORD_HEADER + MESSAGE_HEADER + LIST_LEN;
/// Header of a handshake message, bytes: type, length.
const MESSAGE_HEADER: usize = 4;
/// Length field of the list of certificates, bytes.
const LIST_LEN: usize = 3;

/// What a client answered, as far as it was seen. The number is stored in
/// [`crate::shared::Flow::answer`].
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Answer {
    /// Nothing of it was seen.
    #[default]
    Unseen = 0,
    /// A list of certificates.
    Given = 1,
    /// No such message, one that is cut before its list begins, or several that differ.
    Unclear = 2,
    /// A list without any.
    Empty = 3,
}

impl Answer {
    /// The answer with this number; no other is ever stored.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Unseen,
            1 => Self::Given,
            2 => Self::Unclear,
            _ => Self::Empty,
        }
    }

    /// Reads the first bytes behind the client's hello.
    ///
    /// The three lengths must agree: what the gateway takes for a certificate, the backend must
    /// too.
    #[inline(always)]
    pub fn read(b: &[u8; ANSWER_LEN]) -> Self {
        let record = u16::from_be_bytes([b[3], b[4]]) as u32;
        let message = u32::from_be_bytes([0, b[6], b[7], b[8]]);
        let list = u32::from_be_bytes([0, b[9], b[10], b[11]]);
        let is_certificate = b[0] == content::HANDSHAKE
            && b[1] == MAJOR
            && b[5] == handshake::CERTIFICATE
            && record >= (MESSAGE_HEADER + LIST_LEN) as u32
            && record <= RECORD_MAX
            && message == list + LIST_LEN as u32;
        match (is_certificate, list) {
            (false, _) => Self::Unclear,
            (true, 0) => Self::Empty,
            (true, _) => Self::Given,
        }
    }

    /// What is known after these bytes passed once more. The backend reads one of the copies, and
    /// nobody here knows which: so a certificate counts only while every copy has it.
    #[inline(always)]
    pub const fn and(self, next: Self) -> Self {
        if next as u8 > self as u8 { next } else { self }
    }
}

/// Where bytes of a stream lie in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// None of them is in this segment.
    Elsewhere,
    /// Only a part of them is.
    Cut,
    /// They are, from this byte of the payload on.
    At(u32),
}

/// Finds `n` bytes from sequence number `first` on in a segment of `len` bytes at `seq`.
#[inline(always)]
pub const fn place(first: u32, n: u32, seq: u32, len: u32) -> Place {
    let at = first.wrapping_sub(seq) as i32;
    if at >= len as i32 || at <= -(n as i32) {
        return Place::Elsewhere;
    }
    if at < 0 || at.wrapping_add(n as i32) > len as i32 {
        return Place::Cut;
    }
    Place::At(at as u32)
}

/// Bytes of a client's stream that tell where its hello ends: record header, message header.
pub const HELLO_BYTES: usize = RECORD_HEADER + MESSAGE_HEADER;

/// Length of the client's hello with its record header, bytes, by the first of them; 0 where its
/// first record does not end with it, or holds no hello.
#[inline(always)]
pub const fn hello_len(b: &[u8; HELLO_BYTES]) -> u32 {
    let record = u16::from_be_bytes([b[3], b[4]]) as u32;
    let message = MESSAGE_HEADER as u32 + u32::from_be_bytes([0, b[6], b[7], b[8]]);
    let hello = b[0] == content::HANDSHAKE && b[1] == MAJOR && b[5] == handshake::CLIENT_HELLO;
    if hello && message == record { RECORD_HEADER as u32 + record } else { 0 }
}
