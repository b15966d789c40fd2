//! A backend's handshake in clear: its ServerHello, its NewSessionTicket in TLS 1.2, and how it
//! ends.
//!
//! [`Follow`] reads the stream as it passes, segment by segment, one field at a time: nothing is
//! buffered, and a field may be cut anywhere, by a segment's end or by a record's. Fields of
//! interest are collected in a few bytes of the flow's record, everything else is passed over by
//! its length.

use super::{MAJOR, RECORD_HEADER, RECORD_MAX, Version, content, extension, handshake};
use crate::session::{Kind, SESSION_ID_MAX};

/// Steps over one segment: one for each field. A full flight takes 40.
pub const FOLLOW_STEPS: u32 = 96;
/// Bytes of a backend's stream after which nothing more is expected of its handshake.
pub const GIVE_UP: u32 = 64 * 1024;
/// Bytes that [`Follow::resync`] looks at.
pub const RESYNC_BYTES: usize = 16;
/// Longest record with what encryption adds, bytes (RFC 5246 6.2.3).
const RECORD_CIPHERTEXT_MAX: u32 = RECORD_MAX + 2048;
/// Length of an alert in clear, bytes: level, description (RFC 5246 7.2).
const ALERT_LEN: u32 = 2;
/// Level of an alert behind which the handshake goes on, as behind unrecognized_name (RFC 6066 3).
const ALERT_WARNING: u8 = 1;
/// First 8 bytes of the random that makes a ServerHello a HelloRetryRequest (RFC 8446 4.1.3).
const RETRY_RANDOM: [u8; 8] = [0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11];

/// Bits of [`Follow::seen`].
pub mod seen {
    /// A ServerHello was read whole.
    pub const HELLO: u8 = 1;
    /// The ServerHello at hand is a HelloRetryRequest.
    pub const RETRY: u8 = 2;
    /// The ServerHello at hand selects a PSK.
    pub const PSK: u8 = 4;
    /// What followed it says: a full handshake.
    pub const FULL: u8 = 8;
    /// What followed it says: a resumption.
    pub const RESUMED: u8 = 0x10;
    /// Bytes were missed.
    pub const HOLE: u8 = 0x20;
    /// The backend asked the client for a certificate.
    pub const ASKED: u8 = 0x40;
}

/// How far a backend's stream was read. Value in [`crate::shared::Flow`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Follow {
    /// Sequence number (the backend's own) of the next byte to be read.
    pub next: u32,
    /// Bytes of the message at hand to pass over before the next field.
    pub skip: u32,
    /// Bytes left of the message at hand.
    pub message_left: u32,
    /// Bytes left of the record at hand.
    pub record_left: u16,
    /// Version the backend chose, as on the wire; 0: no ServerHello yet.
    pub version: u16,
    /// Index of the PSK that the backend selected.
    pub selected: u16,
    /// The field being collected.
    pub field: u8,
    /// Its length, bytes.
    pub want: u8,
    /// How much of it is there, bytes.
    pub have: u8,
    /// How much of the record header is there, bytes.
    pub header_have: u8,
    /// Content type of the record at hand.
    pub content: u8,
    /// Any of [`seen`].
    pub seen: u8,
    /// The identifier that the backend issued: a session ID, or the first bytes of a ticket, zero
    /// behind its end.
    pub lesson: [u8; 32],
    /// The record header.
    pub header: [u8; 8],
    /// A short field.
    pub bytes: [u8; 8],
    /// Kind of the lesson ([`Kind`]), 0: none.
    pub lesson_kind: u8,
    /// Length of the lesson, bytes.
    pub lesson_len: u8,
    /// Always zero.
    pub zero: [u8; 2],
}

/// Fields, as numbers in [`Follow::field`].
mod field {
    pub(super) const MESSAGE_HEADER: u8 = 0;
    pub(super) const VERSION: u8 = 1;
    pub(super) const RANDOM: u8 = 2;
    pub(super) const ID_LEN: u8 = 3;
    pub(super) const ID: u8 = 4;
    pub(super) const EXTENSIONS_LEN: u8 = 5;
    pub(super) const EXTENSION: u8 = 6;
    pub(super) const SUPPORTED_VERSION: u8 = 7;
    pub(super) const SELECTED_PSK: u8 = 8;
    pub(super) const TICKET_LEN: u8 = 9;
    pub(super) const TICKET: u8 = 10;
}

/// Why nothing more is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The backend's ChangeCipherSpec: in TLS 1.2 and below it has authenticated the client.
    ChangeCipherSpec,
    /// A ServerHello of TLS 1.3: all that follows is encrypted.
    Tls13,
    /// An alert that is no warning.
    Alert,
    /// Application data, or no TLS that we know.
    Other,
}

/// What one step of [`Follow`] read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlightEvent {
    /// Step on.
    More,
    /// The segment is read to its end.
    NeedMore,
    /// A ServerHello of TLS 1.2 or below is read; its session ID, if it has one, is the lesson.
    ServerHello,
    /// A HelloRetryRequest is read.
    Retry,
    /// A NewSessionTicket begins; its first bytes are the lesson.
    Ticket,
    /// Nothing more is to be read.
    End(End),
}

/// A segment's payload.
pub trait Segment {
    /// Copies `n` bytes at `from` of the payload to `to[at..]`; false where that cannot be. `n` is
    /// at least 1 and `at + n` at most `N`, a power of two.
    fn copy<const N: usize>(&mut self, to: &mut [u8; N], at: u32, from: u32, n: u32) -> bool;
}

/// On the host a payload is a slice.
impl Segment for &[u8] {
    fn copy<const N: usize>(&mut self, to: &mut [u8; N], at: u32, from: u32, n: u32) -> bool {
        let (at, from, n) = (at as usize, from as usize, n as usize);
        let (Some(to), Some(from)) = (to.get_mut(at..at + n), self.get(from..from + n)) else {
            return false;
        };
        to.copy_from_slice(from);
        true
    }
}

impl Follow {
    /// Before the first byte, whose sequence number is `next`.
    #[inline(always)]
    pub fn new(next: u32) -> Self {
        Self { next, want: 4, ..Self::default() }
    }

    /// Reads the next field of a segment whose payload of `len` bytes starts at `seq`. What lies
    /// before [`Follow::next`] was read already.
    #[inline(always)]
    pub fn step(&mut self, segment: &mut impl Segment, seq: u32, len: u32) -> FlightEvent {
        let at = self.next.wrapping_sub(seq);
        if at >= len {
            return FlightEvent::NeedMore;
        }
        let there = len - at;
        if self.record_left == 0 {
            return self.record_header(segment, at, there);
        }
        let there = there.min(self.record_left as u32);
        if self.content != content::HANDSHAKE {
            return self.other_record(segment, at, there);
        }
        if self.skip > self.message_left {
            return FlightEvent::End(End::Other);
        }
        if self.skip != 0 {
            let n = there.min(self.skip);
            self.skip -= n;
            self.consume_message(n);
            return self.behind_field();
        }
        let (want, have) = (self.want as u32, self.have as u32);
        if have >= want {
            return FlightEvent::End(End::Other);
        }
        let n = there.min(want - have);
        let of_message = self.field != field::MESSAGE_HEADER;
        if of_message && want - have > self.message_left {
            return FlightEvent::End(End::Other);
        }
        let copied = if matches!(self.field, field::ID | field::TICKET) {
            segment.copy(&mut self.lesson, have, at, n)
        } else {
            segment.copy(&mut self.bytes, have, at, n)
        };
        if !copied {
            return FlightEvent::End(End::Other);
        }
        self.have = (have + n) as u8;
        if of_message {
            self.consume_message(n);
        } else {
            self.consume(n);
        }
        if self.have < self.want {
            return FlightEvent::More;
        }
        self.have = 0;
        self.read()
    }

    /// Passes over a ChangeCipherSpec of the compatibility mode, or a warning.
    #[inline(always)]
    fn other_record(&mut self, segment: &mut impl Segment, at: u32, there: u32) -> FlightEvent {
        let level_next = self.content == content::ALERT && self.record_left as u32 == ALERT_LEN;
        if level_next
            && (!segment.copy(&mut self.header, 0, at, 1) || self.header[0] != ALERT_WARNING)
        {
            return FlightEvent::End(End::Alert);
        }
        self.consume(there);
        FlightEvent::More
    }

    #[inline(always)]
    fn consume(&mut self, n: u32) {
        self.next = self.next.wrapping_add(n);
        self.record_left = (self.record_left as u32).wrapping_sub(n) as u16;
    }

    #[inline(always)]
    fn consume_message(&mut self, n: u32) {
        self.consume(n);
        self.message_left = self.message_left.wrapping_sub(n);
    }

    #[inline(always)]
    fn record_header(&mut self, segment: &mut impl Segment, at: u32, there: u32) -> FlightEvent {
        let have = self.header_have as u32;
        if have >= RECORD_HEADER as u32 {
            return FlightEvent::End(End::Other);
        }
        let n = there.min(RECORD_HEADER as u32 - have);
        if !segment.copy(&mut self.header, have, at, n) {
            return FlightEvent::End(End::Other);
        }
        self.next = self.next.wrapping_add(n);
        if have + n < RECORD_HEADER as u32 {
            self.header_have = (have + n) as u8;
            return FlightEvent::More;
        }
        self.header_have = 0;
        let h = &self.header;
        let len = u16::from_be_bytes([h[3], h[4]]) as u32;
        if h[1] != MAJOR || len == 0 || len > RECORD_CIPHERTEXT_MAX {
            return FlightEvent::End(End::Other);
        }
        self.content = h[0];
        self.record_left = len as u16;
        let within_message = self.message_left != 0 || self.have != 0;
        match self.content {
            content::HANDSHAKE => FlightEvent::More,
            content::ALERT if len == ALERT_LEN && !within_message => FlightEvent::More,
            content::ALERT => FlightEvent::End(End::Alert),
            // Of the middlebox compatibility mode, behind a HelloRetryRequest (RFC 8446 D.4).
            content::CHANGE_CIPHER_SPEC
                if self.version == Version::Tls13 as u16 && !within_message =>
            {
                FlightEvent::More
            }
            content::CHANGE_CIPHER_SPEC if len == 1 && !within_message => {
                if self.seen & (seen::HELLO | seen::FULL | seen::HOLE) == seen::HELLO {
                    self.seen |= seen::RESUMED;
                }
                FlightEvent::End(End::ChangeCipherSpec)
            }
            _ => FlightEvent::End(End::Other),
        }
    }

    /// Waits for a field of `want` bytes.
    #[inline(always)]
    fn expect(&mut self, field: u8, want: u32) -> FlightEvent {
        self.field = field;
        self.want = want as u8;
        self.behind_field()
    }

    /// Where the message at hand ends, the next one begins.
    #[inline(always)]
    fn behind_field(&mut self) -> FlightEvent {
        if self.message_left != 0 {
            return FlightEvent::More;
        }
        let of_hello = matches!(self.field, field::VERSION..=field::SELECTED_PSK);
        self.field = field::MESSAGE_HEADER;
        self.want = 4;
        self.skip = 0;
        if !of_hello {
            return FlightEvent::More;
        }
        if self.seen & seen::RETRY != 0 && self.version == Version::Tls13 as u16 {
            return FlightEvent::Retry;
        }
        if self.version == 0 {
            return FlightEvent::End(End::Other);
        }
        self.seen |= seen::HELLO;
        if self.version == Version::Tls13 as u16 {
            FlightEvent::End(End::Tls13)
        } else {
            FlightEvent::ServerHello
        }
    }

    /// A field is whole.
    #[inline(always)]
    fn read(&mut self) -> FlightEvent {
        let b = &self.bytes;
        let number = u16::from_be_bytes([b[0], b[1]]);
        match self.field {
            field::MESSAGE_HEADER => self.message(),
            field::VERSION => {
                self.version = number;
                if b[0] != MAJOR {
                    return FlightEvent::End(End::Other);
                }
                self.expect(field::RANDOM, 8)
            }
            field::RANDOM => {
                self.seen &= !(seen::RETRY | seen::PSK);
                if u64::from_ne_bytes(*b) == u64::from_ne_bytes(RETRY_RANDOM) {
                    self.seen |= seen::RETRY;
                }
                self.skip = 32 - 8;
                self.expect(field::ID_LEN, 1)
            }
            field::ID_LEN => {
                let len = b[0] as u32;
                if len > SESSION_ID_MAX as u32 {
                    return FlightEvent::End(End::Other);
                }
                self.lesson = [0; 32];
                (self.lesson_kind, self.lesson_len) =
                    if len == 0 { (0, 0) } else { (Kind::SessionId as u8, len as u8) };
                if len == 0 {
                    self.skip = 3;
                    return self.expect(field::EXTENSIONS_LEN, 2);
                }
                self.expect(field::ID, len)
            }
            field::ID => {
                // Cipher suite 2, compression method 1.
                self.skip = 3;
                self.expect(field::EXTENSIONS_LEN, 2)
            }
            field::EXTENSIONS_LEN => self.expect(field::EXTENSION, 4),
            field::EXTENSION => {
                let len = u16::from_be_bytes([b[2], b[3]]) as u32;
                if len > self.message_left {
                    return FlightEvent::End(End::Other);
                }
                match number {
                    extension::SUPPORTED_VERSIONS if len == 2 => {
                        self.expect(field::SUPPORTED_VERSION, 2)
                    }
                    extension::PRE_SHARED_KEY if len == 2 => self.expect(field::SELECTED_PSK, 2),
                    _ => {
                        self.skip = len;
                        self.expect(field::EXTENSION, 4)
                    }
                }
            }
            field::SUPPORTED_VERSION => {
                self.version = number;
                self.expect(field::EXTENSION, 4)
            }
            field::SELECTED_PSK => {
                self.selected = number;
                self.seen |= seen::PSK;
                self.expect(field::EXTENSION, 4)
            }
            field::TICKET_LEN => {
                let len = u16::from_be_bytes([b[4], b[5]]) as u32;
                if len > self.message_left {
                    return FlightEvent::End(End::Other);
                }
                if len == 0 {
                    // RFC 5077 3.3: the server changed its mind.
                    self.skip = self.message_left;
                    return self.expect(field::MESSAGE_HEADER, 4);
                }
                self.lesson = [0; 32];
                (self.lesson_kind, self.lesson_len) = (0, 0);
                self.expect(field::TICKET, len.min(32))
            }
            field::TICKET => {
                (self.lesson_kind, self.lesson_len) = (Kind::Ticket as u8, self.want);
                self.skip = self.message_left;
                let _ = self.expect(field::MESSAGE_HEADER, 4);
                FlightEvent::Ticket
            }
            _ => FlightEvent::End(End::Other),
        }
    }

    /// A message begins.
    #[inline(always)]
    fn message(&mut self) -> FlightEvent {
        let b = &self.bytes;
        self.message_left = u32::from_be_bytes([0, b[1], b[2], b[3]]);
        let undecided = self.seen & (seen::HELLO | seen::FULL | seen::RESUMED) == seen::HELLO;
        match b[0] {
            handshake::SERVER_HELLO if self.seen & seen::HELLO == 0 => {
                return self.expect(field::VERSION, 2);
            }
            handshake::NEW_SESSION_TICKET => {
                if undecided && self.seen & seen::HOLE == 0 {
                    self.seen |= seen::RESUMED;
                }
                return self.expect(field::TICKET_LEN, 6);
            }
            handshake::CERTIFICATE
            | handshake::SERVER_KEY_EXCHANGE
            | handshake::SERVER_HELLO_DONE
                if undecided =>
            {
                self.seen |= seen::FULL;
            }
            handshake::CERTIFICATE_REQUEST => self.seen |= seen::ASKED,
            _ => {}
        }
        self.skip = self.message_left;
        self.expect(field::MESSAGE_HEADER, 4)
    }

    /// Bytes before a segment at `seq` were missed. Where the segment starts with a
    /// ChangeCipherSpec and the record behind it, or with a NewSessionTicket, reading goes on
    /// there: a backend sends neither to a client that it has not authenticated. `look` holds its
    /// first bytes.
    #[inline(always)]
    pub fn resync(&mut self, look: &[u8; RESYNC_BYTES], seq: u32) -> bool {
        // What lies inside of a record whose header was read is no record, whatever it looks like.
        if seq.wrapping_sub(self.next) < self.record_left as u32 {
            return false;
        }
        let record = u16::from_be_bytes([look[3], look[4]]) as u32;
        let message = u32::from_be_bytes([0, look[6], look[7], look[8]]);
        let ticket = u16::from_be_bytes([look[13], look[14]]) as u32;
        let known = match look[0] {
            _ if look[1] != MAJOR => false,
            content::CHANGE_CIPHER_SPEC => {
                record == 1
                    && look[5] == 1
                    && look[6] == content::HANDSHAKE
                    && look[7] == MAJOR
                    && look[8] == look[2]
            }
            content::HANDSHAKE => {
                look[5] == handshake::NEW_SESSION_TICKET
                    && message + 4 <= record
                    && ticket + 6 == message
            }
            _ => false,
        };
        if known {
            let (version, seen) = (self.version, self.seen | seen::HOLE);
            // Of a ServerHello that was not read to its end the ID may be one of TLS 1.3.
            let whole = self.seen & seen::HELLO != 0;
            let (kind, len) = if whole { (self.lesson_kind, self.lesson_len) } else { (0, 0) };
            let lesson = self.lesson;
            let kept = Self {
                version,
                seen,
                lesson,
                lesson_kind: kind,
                lesson_len: len,
                ..Self::new(seq)
            };
            *self = kept;
        }
        known
    }
}
