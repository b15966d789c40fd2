//! What a session is found by.

use crate::shared::{SessionKey, VIP_TELL_TICKETS, Vip};

/// The kinds of session key. The number is stored in [`SessionKey::kind`].
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// Session ID of TLS 1.2 and below (RFC 5246 7.4.1.2).
    SessionId = 1,
    /// First 32 bytes of a ticket (RFC 5077 3.2).
    Ticket = 2,
    /// Name of a ticket key (RFC 5077 4).
    KeyName = 3,
}

impl Kind {
    /// The word used in CLI and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::SessionId => "session-id",
            Kind::Ticket => "ticket",
            Kind::KeyName => "key-name",
        }
    }

    /// The kind with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Kind::SessionId),
            2 => Some(Kind::Ticket),
            3 => Some(Kind::KeyName),
            _ => None,
        }
    }
}

/// Longest session ID, bytes (RFC 5246 7.4.1.2).
pub const SESSION_ID_MAX: usize = 32;

/// A mask for word `i`, in memory order, of an identifier of `len` bytes: what lies behind its end
/// is zeroed.
#[inline(always)]
pub const fn kept(i: usize, len: usize) -> u32 {
    let kept = len.saturating_sub(i * 4);
    if kept < 4 { u32::from_le((1 << (8 * kept)) - 1) } else { u32::MAX }
}

/// Where the name of a ticket key stands in a ticket: in clear, so that the server knows which key
/// opens it (RFC 5077 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NameLayout {
    /// First byte of the name in the ticket.
    pub at: u8,
    /// Its length, bytes; 0: there is none.
    pub len: u8,
}

/// Layouts that are tried at once while a VIP's is not known.
pub const LAYOUTS: u32 = 3;
/// Length of the longest of them, bytes.
pub const LONGEST: u8 = 17;

impl NameLayout {
    /// The `i`-th layout, below [`LAYOUTS`], that names in a VIP's tickets may have; without length
    /// where there is no more.
    ///
    /// While it is not known each that some stack has is tried, the longest first, for it tells
    /// most: 16 bytes behind a version byte (s2n-tls; the byte is taken for a part of the name), 16
    /// bytes, 4 bytes. What is no name under one of them is soon seen at two backends, or in one
    /// ticket only.
    #[inline(always)]
    pub const fn of(vip: &Vip, i: u32) -> Self {
        if vip.flags & VIP_TELL_TICKETS != 0 {
            let len = match i {
                0 => LONGEST,
                1 => 16,
                _ => 4,
            };
            return Self { at: 0, len };
        }
        let len = if i == 0 { vip.name_len } else { 0 };
        Self { at: vip.name_at & 31, len }
    }

    /// Whether a ticket of `len` bytes may have a name at all: one that is no longer than a session
    /// ID is the key to a server's own store (RFC 8446 4.6.1), not a sealed session.
    #[inline(always)]
    pub const fn has_any(len: u32) -> bool {
        len > SESSION_ID_MAX as u32
    }
}

impl SessionKey {
    /// The key of an identifier of 1..=32 bytes; `None` for any other length.
    pub fn new(vip: u16, kind: Kind, id: &[u8]) -> Option<Self> {
        if id.is_empty() || id.len() > SESSION_ID_MAX {
            return None;
        }
        let mut bytes = [0; SESSION_ID_MAX];
        for (to, from) in bytes.iter_mut().zip(id) {
            *to = *from;
        }
        Some(Self { vip, kind: kind as u8, len: id.len() as u8, bytes })
    }
}
