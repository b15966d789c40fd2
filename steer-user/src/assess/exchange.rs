//! One TCP connection while its handshake is read: what both ends said, and when.

use std::net::{IpAddr, SocketAddr};

use steer_common::wire::tls::client_certificate::{ANSWER_LEN, Answer};

use super::{
    agreement::Opening,
    replay::{Decision, Handshake},
};
use crate::inspect::{
    connection::Connection,
    frame::Segment,
    half::Half,
    hello::{Offered, Reader, Room},
    space::is_syn,
};

/// Length of a ChangeCipherSpec with its record header, bytes (RFC 8446 D.4).
const CHANGE_CIPHER_SPEC: usize = 6;
/// Its content type.
const CHANGE_CIPHER_SPEC_TYPE: u8 = 0x14;

/// A connection.
pub(super) struct Exchange {
    pub(super) connection: Connection,
    /// When its first packet was seen, nanoseconds since 1970.
    pub(super) began: u64,
    /// Which ends were heard, in the order of the connection's.
    heard: [bool; 2],
    /// Its client sent something.
    pub(super) said: bool,
    /// Its server sent something.
    pub(super) answered: bool,
    /// Its SYN was seen.
    pub(super) opened: bool,
    /// Window of the SYN-ACK, bytes: it is never scaled (RFC 7323 2.2).
    pub(super) window: Option<u16>,
    /// The TCP options of its SYN and of the answer.
    pub(super) opening: Opening,
    /// Some packet was captured in part.
    pub(super) cut: bool,
    /// Segments of the client before its hello was whole.
    pub(super) n_segments: usize,
    hello_at: Option<u64>,
    /// When the client said what the server has not answered yet.
    asked: Option<u64>,
    /// How long the server took to answer, together, nanoseconds.
    own: u64,
    ended_at: Option<u64>,
    pub(super) judged: Judged,
}

/// What was made of its hello.
pub(super) enum Judged {
    /// It was not read yet.
    Not,
    /// It is not counted: of no member, or a copy of another one's.
    Aside,
    /// It was decided on.
    Decided(Box<Decided>),
    /// Its outcome is counted.
    Counted,
}

/// A hello that was decided on.
pub(super) struct Decided {
    pub(super) member: u16,
    pub(super) handshake: Handshake,
    pub(super) decision: Decision,
    /// The TCP options that its owner lacks, where it would not have moved for them.
    pub(super) lacks: Option<u8>,
}

/// How long a handshake took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Took {
    /// From the hello to the end of the server's handshake in clear, nanoseconds.
    pub(super) whole: u64,
    /// Of that, while the server had been asked and had not answered, nanoseconds.
    pub(super) own: u64,
}

impl Exchange {
    /// Begins with the first segment that was seen.
    pub(super) fn new(segment: &Segment<'_>, now: u64) -> Self {
        Self {
            connection: Connection::keeping_client(segment),
            began: now,
            heard: [false; 2],
            said: false,
            answered: false,
            opened: false,
            window: None,
            opening: Opening::default(),
            cut: false,
            n_segments: 0,
            hello_at: None,
            asked: None,
            own: 0,
            ended_at: None,
            judged: Judged::Not,
        }
    }

    /// Reads a segment.
    pub(super) fn take(&mut self, segment: &Segment<'_>, now: u64, room: &mut Room) {
        use steer_common::wire::tcp::flags;
        let side = self.connection.side(segment);
        self.heard[side] = true;
        self.opening.take(segment);
        if is_syn(segment) && segment.has(flags::ACK) {
            self.window = Some(segment.window);
        } else if is_syn(segment) {
            self.opened = true;
        }
        self.connection.take(segment, room);
        if !segment.payload.is_empty() {
            let is_client = self.connection.client().map(|client| client == side);
            self.said |= is_client == Some(true);
            self.answered |= is_client == Some(false);
        }
        if self.hello_at.is_none()
            && let Some((reader, half)) = self.connection.client_side()
            && reader.hello().is_some()
        {
            self.n_segments = half.n_pieces();
            self.hello_at = Some(now);
        }
        self.clock(side, segment, now);
    }

    /// Notes who waits for whom, until the server's handshake is over.
    fn clock(&mut self, side: usize, segment: &Segment<'_>, now: u64) {
        let is_over = self.connection.server_side().is_some_and(|(flight, _)| flight.is_done());
        if segment.payload.is_empty() || self.ended_at.is_some() {
            return;
        }
        match self.connection.client() {
            Some(client) if client == side => self.asked = Some(now),
            Some(_) => {
                self.own += self.asked.take().map_or(0, |asked| now.saturating_sub(asked));
            }
            None => {}
        }
        if is_over {
            self.ended_at = Some(now);
        }
    }

    /// Client, as its proxy announces it if there is one, and server.
    pub(super) fn ends(&self) -> Option<(IpAddr, SocketAddr, SocketAddr)> {
        let (client, server) = self.connection.ends()?;
        let proxied = self.connection.client_side()?.0.proxied();
        let announced = proxied.and_then(|proxied| proxied.client);
        Some((announced.map_or(client.ip(), |client| client.ip()), client, server))
    }

    /// The first hello, once it is read.
    pub(super) fn hello(&self) -> Option<&Offered> {
        Some(self.connection.client_side()?.0.hello()?.0)
    }

    /// Whether anything that was read is of TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.hello().is_some()
            || self.connection.client_side().is_some_and(|(hello, _)| hello.is_client())
            || self.connection.server_side().is_some_and(|(flight, _)| flight.is_server())
    }

    /// Whether the first bytes of both streams are missing.
    pub(super) fn is_headless(&self) -> bool {
        let is_missing = |half: &Half| half.contiguous().is_empty() && !half.is_closed();
        self.connection.client_side().is_some_and(|(_, half)| is_missing(half))
            && self.connection.server_side().is_some_and(|(_, half)| is_missing(half))
    }

    /// Whether both ends were heard.
    pub(super) fn is_two_way(&self) -> bool {
        self.heard == [true; 2]
    }

    /// The second hello, which the server asked for, behind the first one and perhaps a
    /// ChangeCipherSpec.
    pub(super) fn second_hello(&self, room: &mut Room) -> Option<Offered> {
        let (reader, half) = self.connection.client_side()?;
        let behind = half.contiguous().get(reader.hello()?.1 as usize..)?;
        let skip = match behind.first()? {
            &CHANGE_CIPHER_SPEC_TYPE => CHANGE_CIPHER_SPEC,
            _ => 0,
        };
        let mut second = Reader::default();
        second.read(behind.get(skip..)?, room);
        second.hello().map(|(hello, _)| hello.clone())
    }

    /// What the client answered where it may have been asked for a certificate.
    pub(super) fn answer(&self) -> Answer {
        let first = || {
            let (reader, half) = self.connection.client_side()?;
            let behind = half.contiguous().get(reader.hello()?.1 as usize..)?;
            behind.first_chunk::<ANSWER_LEN>()
        };
        first().map_or(Answer::Unseen, Answer::read)
    }

    /// How long its handshake took, where both its ends were seen in that order.
    pub(super) fn took(&self) -> Option<Took> {
        let whole = self.ended_at?.checked_sub(self.hello_at?)?;
        Some(Took { whole, own: self.own.min(whole) })
    }
}
