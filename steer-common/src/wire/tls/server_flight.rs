//! A backend's first flight: its ServerHello and the records that follow it (RFC 5246 7.4.1.3, RFC 8446 4.1.3).

use super::{MAJOR, RECORD_HEADER, SESSION_ID_LEN_AT, content, handshake};
use crate::session::SESSION_ID_MAX;

/// Bytes of a backend's stream that the ServerHello parser looks at: a power of two.
pub const LOOKED_AT: usize = 512;
const MASK: usize = LOOKED_AT - 1;

/// Extension supported_versions (RFC 8446 4.2.1).
const SUPPORTED_VERSIONS: u16 = 43;
/// Wire code of TLS 1.3.
const TLS13: u16 = 0x0304;
/// Extensions walked; a ServerHello has a handful.
pub const MAX_EXTENSIONS: u32 = 24;
/// Where the session ID of a ServerHello stands, bytes from the start of the backend's stream.
pub const SESSION_ID_AT: usize = SESSION_ID_LEN_AT + 1;

/// A ServerHello as far as its session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerHello {
    /// Not a ServerHello, or one that is not whole in these bytes up to its session ID.
    None,
    /// Without a session ID.
    NoSession,
    /// With a session ID of `len` bytes at [`SESSION_ID_AT`]; extensions start at `extensions`.
    Session {
        /// Length of the session ID, 1..=32 bytes.
        len: usize,
        /// Where the first extension starts; 0 where there is none.
        extensions: usize,
        /// Where the message ends, no further than the bytes at hand.
        end: usize,
    },
}

/// Reads the first `have` bytes of a backend's stream.
#[inline(always)]
pub fn parse(stream: &[u8; LOOKED_AT], have: usize) -> ServerHello {
    let b = stream;
    if have <= SESSION_ID_LEN_AT
        || b[0] != content::HANDSHAKE
        || b[1] != MAJOR
        || b[5] != handshake::SERVER_HELLO
        || b[9] != MAJOR
    {
        return ServerHello::None;
    }
    let len = b[SESSION_ID_LEN_AT] as usize;
    if len == 0 {
        return ServerHello::NoSession;
    }
    if len > SESSION_ID_MAX || have < SESSION_ID_AT + len {
        return ServerHello::None;
    }
    let message_end = RECORD_HEADER + 4 + u16::from_be_bytes([b[7], b[8]]) as usize;
    let end = if message_end < have { message_end } else { have };
    // Behind the ID: cipher suite 2, compression method 1, length of extensions 2.
    let extensions = SESSION_ID_AT + len + 5;
    ServerHello::Session { len, extensions: if extensions < message_end { extensions } else { 0 }, end }
}

/// A walk over the extensions of a ServerHello, one step at a time.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExtensionWalker {
    /// The backend's stream from its first byte.
    pub stream: [u8; LOOKED_AT],
    /// Where the next extension starts.
    pub offset: u32,
    /// Where the message ends, no further than the bytes at hand.
    pub end: u32,
}

/// What one step over the extensions found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Another extension; walk on.
    Other,
    /// The server negotiated TLS 1.3.
    Tls13,
    /// No more extensions.
    Done,
}

impl ExtensionWalker {
    /// Looks at the extension at `offset` and moves behind it.
    #[inline(always)]
    pub fn step(&mut self) -> Extension {
        let at = self.offset as usize & MASK;
        if at as u32 + 6 > self.end || at as u32 != self.offset {
            return Extension::Done;
        }
        let b = |i: usize| self.stream[(at + i) & MASK];
        let kind = u16::from_be_bytes([b(0), b(1)]);
        let len = u16::from_be_bytes([b(2), b(3)]);
        if kind == SUPPORTED_VERSIONS && u16::from_be_bytes([b(4), b(5)]) == TLS13 {
            return Extension::Tls13;
        }
        self.offset = at as u32 + 4 + len as u32;
        Extension::Other
    }
}

/// A record of a backend's stream, by its first [`RECORD_LOOK`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A handshake message other than NewSessionTicket, or the middle of one.
    Handshake,
    /// NewSessionTicket: the server has authenticated the client.
    NewSessionTicket,
    /// ChangeCipherSpec: the server has authenticated the client (TLS 1.2 and below).
    ChangeCipherSpec,
    /// Application data.
    ApplicationData,
    /// An alert: the handshake failed.
    Alert,
    /// No record of TLS.
    Unknown,
}

/// Bytes that [`record`] looks at.
pub const RECORD_LOOK: usize = 6;

/// Classifies the record that starts with these bytes; also returns its whole length with header, bytes.
#[inline(always)]
pub fn record(b: &[u8; RECORD_LOOK]) -> (Record, usize) {
    let len = RECORD_HEADER + u16::from_be_bytes([b[3], b[4]]) as usize;
    if b[1] != MAJOR {
        return (Record::Unknown, len);
    }
    let record = match b[0] {
        content::HANDSHAKE if b[5] == handshake::NEW_SESSION_TICKET => Record::NewSessionTicket,
        content::HANDSHAKE => Record::Handshake,
        // RFC 5246 7.1: one byte of value 1.
        content::CHANGE_CIPHER_SPEC if len == RECORD_HEADER + 1 && b[5] == 1 => Record::ChangeCipherSpec,
        content::APPLICATION_DATA => Record::ApplicationData,
        content::ALERT => Record::Alert,
        _ => Record::Unknown,
    };
    (record, len)
}
