//! The ClientHello up to its session ID (RFC 5246 7.4.1.2).

use super::{MAJOR, RECORD_HEADER, SESSION_ID_LEN_AT, content, handshake};
use crate::session::SESSION_ID_MAX;

/// Bytes of a client's stream that [`parse`] looks at.
pub const LOOKED_AT: usize = 128;

/// What the first bytes of a client's stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Too few bytes to tell.
    NeedMore,
    /// No TLS.
    NotTls,
    /// TLS, but with lengths that cannot be.
    Malformed,
    /// A hello without a session ID.
    NoSession,
    /// A hello with a session ID of `len` bytes at [`SESSION_ID_AT`].
    Session {
        /// Length of the session ID, 1..=32 bytes.
        len: usize,
    },
}

/// Where the session ID stands, bytes from the start of the client's stream.
pub const SESSION_ID_AT: usize = SESSION_ID_LEN_AT + 1;

/// Reads the first `have` bytes of a client's stream.
#[inline(always)]
pub fn parse(stream: &[u8; LOOKED_AT], have: usize) -> Start {
    let b = stream;
    if have == 0 {
        return Start::NeedMore;
    }
    // SSL 2 hellos and everything that is no TLS differ in the first bytes already: never wait for more of those.
    if b[0] != content::HANDSHAKE || (have > 1 && b[1] != MAJOR) || (have > 5 && b[5] != handshake::CLIENT_HELLO) {
        return Start::NotTls;
    }
    if have <= SESSION_ID_LEN_AT {
        return Start::NeedMore;
    }
    if b[9] != MAJOR {
        return Start::Malformed;
    }
    let len = b[SESSION_ID_LEN_AT] as usize;
    let record = u16::from_be_bytes([b[3], b[4]]) as usize;
    if len > SESSION_ID_MAX || RECORD_HEADER + record < SESSION_ID_AT + len {
        return Start::Malformed;
    }
    if len == 0 {
        return Start::NoSession;
    }
    if have < SESSION_ID_AT + len { Start::NeedMore } else { Start::Session { len } }
}
