//! The ClientHello (RFC 5246 7.4.1.2, RFC 8446 4.1.2): what in it could name a session, wherever it
//! lies.
//!
//! A stream is first framed: [`start`] says whether its first record holds the whole message, as
//! nearly always; where the message is split over records, [`Framing`] joins it. [`Hello`] then
//! walks over one contiguous message, one small step at a time, so that the kernel can verify a
//! step once. All offsets are bytes from the start of a [`Stream`].

mod framing;

use super::{MAJOR, RECORD_HEADER, SESSION_ID_LEN_AT, Version, extension};
use crate::session::{SESSION_ID_MAX, kept};

pub use framing::{FRAMING_STEPS, Framing, Joined, PIECE, Start, begins, early_session_id, start};

/// Size of the buffer that a hello is read in, bytes: a power of two.
pub const STREAM: usize = 16 * 1024;
const MASK: usize = STREAM - 1;

/// A client's stream from its first byte, or a handshake message without record headers.
pub type Stream = [u8; STREAM];

/// PSK identities that are looked at; a hello with more is legal, and its others are not seen.
pub const PSK_IDENTITIES: usize = 4;
/// Steps that a walk takes at most: one for each extension, supported version and PSK identity.
/// Real hellos need 40.
pub const HELLO_STEPS: u32 = 160;

/// Where the session ID stands, bytes from the start of the client's stream, if the first record
/// holds it.
pub const SESSION_ID_AT: usize = SESSION_ID_LEN_AT + 1;
/// Length of an extension's header: type 2, length 2 (RFC 5246 7.4.1.4).
const EXTENSION_HEADER: u32 = 4;
/// Length of a handshake message's header: type 1, length 3 (RFC 5246 7.4).
const MESSAGE_HEADER: u32 = 4;
/// Where the length of the session ID stands in the message: header 4, version 2, random 32.
const ID_LEN_IN_MESSAGE: u32 = (SESSION_ID_LEN_AT - RECORD_HEADER) as u32;

/// Where something stands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub at: u32,
    /// Length, bytes; 0: it is not there.
    pub len: u32,
}

/// What a ClientHello offers, and the walk that finds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Next byte to look at.
    at: u32,
    /// One past the last byte of the message that is at hand.
    pub end: u32,
    /// One past the last extension.
    extensions_end: u32,
    /// The list being walked (`list`), 0: none.
    list: u32,
    /// One past its last byte.
    list_end: u32,
    /// Where the walk goes on behind it.
    after_list: u32,
    /// legacy_version as on the wire.
    pub legacy_version: u32,
    /// Highest known version of supported_versions, 0: none.
    pub supported_version: u32,
    /// The session ID.
    pub session_id: Span,
    /// The ticket of TLS 1.2 (RFC 5077 3.2).
    pub ticket: Span,
    /// The server name (RFC 6066 3).
    pub server_name: Span,
    /// The first PSK identities (RFC 8446 4.2.11).
    pub psk: [Span; PSK_IDENTITIES],
    /// How many PSK identities there are; those behind the first [`PSK_IDENTITIES`] are not in
    /// `psk`.
    pub psk_count: u32,
    /// 1: Encrypted Client Hello, or its grease, is there (RFC 9849).
    pub ech: u32,
}

/// What one step of the walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Step on.
    More,
    /// The message is read to its end.
    Done,
    /// The bytes at hand end before the message does.
    Cut,
    /// Lengths that cannot be.
    Malformed,
}

/// What is being walked, besides the extensions themselves.
mod list {
    pub(super) const HEAD: u32 = 3;
    pub(super) const VERSIONS: u32 = 1;
    pub(super) const IDENTITIES: u32 = 2;
}

impl Hello {
    /// Begins a walk over the message of `len` bytes that starts at `base`; `end` is one past the
    /// last byte of it that is at hand.
    #[inline(always)]
    pub fn begin(&mut self, base: u32, len: u32, end: u32) {
        let message_end = base.wrapping_add(len);
        let end = end.min(message_end).min(STREAM as u32);
        *self = Self { at: base, end, list: list::HEAD, list_end: message_end, ..Self::default() };
    }

    /// Reads what stands before the extensions, or the next extension, supported version or PSK
    /// identity.
    #[inline(always)]
    pub fn step(&mut self, b: &Stream) -> Walk {
        match self.list {
            list::HEAD => self.head(b),
            list::VERSIONS => self.version(b),
            list::IDENTITIES => self.identity(b),
            _ => self.extension(b),
        }
    }

    #[inline(always)]
    fn head(&mut self, b: &Stream) -> Walk {
        let (base, message_end, end) = (self.at, self.list_end, self.end);
        let byte = |i: u32| b[i as usize & MASK];
        let id_len_at = base + ID_LEN_IN_MESSAGE;
        if id_len_at >= end {
            return Walk::Cut;
        }
        self.legacy_version = u16::from_be_bytes([byte(base + 4), byte(base + 5)]) as u32;
        if byte(base + 4) != MAJOR {
            return Walk::Malformed;
        }
        let id_len = byte(id_len_at) as u32;
        let suites_at = id_len_at + 1 + id_len;
        if id_len > SESSION_ID_MAX as u32 || suites_at + 2 > message_end {
            return Walk::Malformed;
        }
        if suites_at > end {
            return Walk::Cut;
        }
        self.session_id = Span { at: id_len_at + 1, len: id_len };
        if suites_at + 2 > end {
            return Walk::Cut;
        }
        let methods_at =
            suites_at + 2 + u16::from_be_bytes([byte(suites_at), byte(suites_at + 1)]) as u32;
        if methods_at >= message_end {
            return Walk::Malformed;
        }
        if methods_at >= end {
            return Walk::Cut;
        }
        let extensions_at = methods_at + 1 + byte(methods_at) as u32;
        if extensions_at == message_end {
            return Walk::Done;
        }
        if extensions_at + 2 > message_end {
            return Walk::Malformed;
        }
        if extensions_at + 2 > end {
            return Walk::Cut;
        }
        self.list = 0;
        self.at = extensions_at + 2;
        self.extensions_end =
            self.at + u16::from_be_bytes([byte(extensions_at), byte(extensions_at + 1)]) as u32;
        if self.extensions_end > message_end { Walk::Malformed } else { Walk::More }
    }

    #[inline(always)]
    fn extension(&mut self, b: &Stream) -> Walk {
        let (at, end) = (self.at, self.end);
        // One comparison where there is another extension, as nearly always.
        if at + EXTENSION_HEADER > self.extensions_end.min(end) {
            return self.no_extension();
        }
        let Some(header) = b.get(at as usize..).and_then(|rest| rest.first_chunk::<4>()) else {
            return Walk::Cut;
        };
        let number = |i: u32| {
            u16::from_be_bytes([b[(at + i) as usize & MASK], b[(at + i + 1) as usize & MASK]])
        };
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let len = u16::from_be_bytes([header[2], header[3]]) as u32;
        let (body, next) = (at + 4, at + 4 + len);
        if next > self.extensions_end {
            return Walk::Malformed;
        }
        self.at = next;
        match kind {
            extension::SESSION_TICKET => self.ticket = Span { at: body, len },
            extension::ENCRYPTED_CLIENT_HELLO => self.ech = 1,
            extension::SERVER_NAME if len >= 5 && body + 5 <= end => {
                let (list_len, name_len) = (number(4) as u32, number(7) as u32);
                if 2 + list_len > len {
                    return Walk::Malformed;
                }
                // One name, of type host_name.
                if b[(at + 6) as usize & MASK] == 0 && 3 + name_len <= list_len {
                    self.server_name = Span { at: body + 5, len: name_len };
                }
            }
            extension::SUPPORTED_VERSIONS if len >= 1 && body < end => {
                let list_len = b[body as usize & MASK] as u32;
                // The list is all there is in the extension, of two bytes each (RFC 8446 4.2.1).
                if body + 1 + list_len != next || list_len & 1 != 0 {
                    return Walk::Malformed;
                }
                return self.enter(list::VERSIONS, body + 1, list_len, next);
            }
            extension::PRE_SHARED_KEY if len >= 2 && body + 2 <= end => {
                return self.enter(list::IDENTITIES, body + 2, number(4) as u32, next);
            }
            _ => {}
        }
        Walk::More
    }

    /// What it means that no whole header of an extension stands at `at`.
    #[inline(always)]
    fn no_extension(&self) -> Walk {
        if self.at > self.end {
            Walk::Cut
        } else if self.at >= self.extensions_end {
            Walk::Done
        } else if self.at + EXTENSION_HEADER > self.extensions_end {
            Walk::Malformed
        } else {
            Walk::Cut
        }
    }

    #[inline(always)]
    fn enter(&mut self, list: u32, at: u32, len: u32, next: u32) -> Walk {
        if at + len > next {
            return Walk::Malformed;
        }
        (self.list, self.at, self.list_end, self.after_list) = (list, at, at + len, next);
        Walk::More
    }

    #[inline(always)]
    fn leave_list(&mut self) -> Walk {
        (self.list, self.at) = (0, self.after_list);
        Walk::More
    }

    #[inline(always)]
    fn version(&mut self, b: &Stream) -> Walk {
        let at = self.at;
        if at + 2 > self.list_end {
            return self.leave_list();
        }
        if at + 2 > self.end {
            return Walk::Cut;
        }
        let version = u16::from_be_bytes([b[at as usize & MASK], b[(at + 1) as usize & MASK]]);
        if Version::from_wire(version).is_some() && version as u32 > self.supported_version {
            self.supported_version = version as u32;
        }
        self.at = at + 2;
        Walk::More
    }

    #[inline(always)]
    fn identity(&mut self, b: &Stream) -> Walk {
        /// The age of a ticket, behind it.
        const AGE: u32 = 4;
        let at = self.at;
        if at >= self.list_end {
            return self.leave_list();
        }
        if at + 2 > self.list_end {
            return Walk::Malformed;
        }
        if at + 2 > self.end {
            return Walk::Cut;
        }
        let len = u16::from_be_bytes([b[at as usize & MASK], b[(at + 1) as usize & MASK]]) as u32;
        if at + 2 + len + AGE > self.list_end {
            return Walk::Malformed;
        }
        let index = self.psk_count as usize;
        if index < PSK_IDENTITIES {
            self.psk[index & (PSK_IDENTITIES - 1)] = Span { at: at + 2, len };
        }
        self.psk_count += 1;
        self.at = at + 2 + len + AGE;
        Walk::More
    }

    /// The highest version that the client speaks, as on the wire: of supported_versions, else
    /// legacy_version, which says no more than TLS 1.2 (RFC 8446 4.1.2).
    #[inline(always)]
    pub fn version_offered(&self) -> u16 {
        const TLS12: u32 = Version::Tls12 as u32;
        let version = if self.supported_version != 0 {
            self.supported_version
        } else {
            self.legacy_version.min(TLS12)
        };
        version as u16
    }

    /// Whether the first bytes of `span`, at most `n` of them, are at hand.
    #[inline(always)]
    pub fn at_hand(&self, span: Span, n: u32) -> bool {
        span.len != 0 && span.at + span.len.min(n) <= self.end
    }
}

/// Four bytes of an identifier of `len` bytes at `at`, from its byte `4 * i` on, in memory order
/// and zero behind its end.
#[inline(always)]
pub fn word(b: &Stream, at: u32, len: u32, i: u32) -> u32 {
    let byte = |j: u32| b[(at + i * 4 + j) as usize & MASK];
    u32::from_ne_bytes([byte(0), byte(1), byte(2), byte(3)]) & kept(i as usize, len as usize)
}
