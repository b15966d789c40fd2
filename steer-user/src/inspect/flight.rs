//! The server's side: its handshake in clear, read as it comes in.

use steer_common::{
    session::Kind,
    wire::tls::{
        Version,
        server_flight::{End, FlightEvent, Follow, RESYNC_BYTES, seen},
    },
};

use super::{
    half::{Half, STREAM_MAX},
    row::{Outcome, ServerHello, hex, version_word},
};

/// The number of SSL 3.0 on the wire (RFC 6101 5.6), whose messages are those of TLS 1.0.
const SSL3: u16 = 0x0300;

/// How far a server's stream was read. Sequence numbers in it are offsets from the first byte.
#[derive(Debug)]
pub(crate) struct Reader {
    follow: Follow,
    hello: Option<ServerHello>,
    ticket: Option<String>,
    /// Whether the server asked for another hello.
    retried: bool,
    end: Option<End>,
    done: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            follow: Follow::new(0),
            hello: None,
            ticket: None,
            retried: false,
            end: None,
            done: false,
        }
    }
}

impl Reader {
    /// Whether what was read so far can be nothing but a server's.
    pub(crate) fn is_server(&self) -> bool {
        self.follow.seen & (seen::HELLO | seen::RETRY) != 0 || self.ticket.is_some()
    }

    /// Whether nothing more is to be read.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// How far the programs' own reader has come.
    pub(crate) fn follow(&self) -> &Follow {
        &self.follow
    }

    /// Whether the server asked for another hello (RFC 8446 4.1.4).
    pub(crate) fn was_retried(&self) -> bool {
        self.retried
    }

    /// Why nothing more is to be read; `None` while there may be more, and behind the ServerHello
    /// of a version that nobody knows.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// Reads on; `stream` is what there is from the first byte without a hole.
    pub(super) fn read(&mut self, stream: &[u8]) {
        self.read_piece(0, stream);
    }

    /// Bytes are missing and will not come: reads on where a segment behind begins with a record
    /// that is known for what it is. A ticket in clear is one of TLS 1.2 or below, be the
    /// ServerHello there or not.
    pub(super) fn read_behind(&mut self, half: &Half) {
        // Where nobody says where the stream begins, its first segment may begin in the middle of a
        // record.
        let lost = !half.is_sure() && self.hello.is_none() && self.ticket.is_none();
        if lost {
            *self = Self::default();
        }
        for (offset, piece) in half.pieces(lost) {
            if self.done || self.ticket.is_some() {
                return;
            }
            let mut look = [0; RESYNC_BYTES];
            for (to, from) in look.iter_mut().zip(piece) {
                *to = *from;
            }
            if self.follow.resync(&look, offset) {
                self.read_piece(offset, piece);
            }
        }
    }

    fn read_piece(&mut self, offset: u32, piece: &[u8]) {
        let mut segment = piece;
        // A step reads a byte at least.
        for _ in 0..=STREAM_MAX {
            if self.done {
                return;
            }
            match self.follow.step(&mut segment, offset, piece.len() as u32) {
                FlightEvent::More => {}
                FlightEvent::Retry => self.retried = true,
                FlightEvent::NeedMore => return,
                FlightEvent::ServerHello if self.is_retry_of_draft() => {
                    self.follow.seen &= !(seen::HELLO | seen::RETRY);
                    self.follow.version = Version::Tls13 as u16;
                }
                FlightEvent::ServerHello => {
                    self.hello = Some(self.server_hello());
                    // What a version that nobody knows sends behind means what nobody knows.
                    self.done = !self.is_known();
                }
                FlightEvent::Ticket => {
                    let lesson = &self.follow.lesson[..usize::from(self.follow.lesson_len).min(32)];
                    self.ticket = self.ticket.take().or_else(|| hex(lesson));
                }
                FlightEvent::End(end) => {
                    if end == End::Tls13 {
                        self.hello = Some(self.server_hello());
                    }
                    self.end = Some(end);
                    self.done = true;
                }
            }
        }
    }

    fn server_hello(&self) -> ServerHello {
        let follow = &self.follow;
        let id_len = if follow.lesson_kind == Kind::SessionId as u8 {
            usize::from(follow.lesson_len)
        } else {
            0
        };
        ServerHello {
            version: version_word(follow.version),
            session_id: hex(&follow.lesson[..id_len.min(32)]),
            psk_accepted: follow.seen & seen::PSK != 0,
            is_known: self.is_known(),
        }
    }

    /// Whether the version is one whose messages are known.
    fn is_known(&self) -> bool {
        self.follow.version == SSL3 || version_word(self.follow.version).is_some()
    }

    /// Drafts of TLS 1.3 ask for another hello as TLS 1.3 does, under numbers of their own.
    fn is_retry_of_draft(&self) -> bool {
        !self.is_known() && self.follow.seen & seen::RETRY != 0
    }

    fn is_tls13(&self) -> bool {
        self.follow.version == Version::Tls13 as u16
    }

    /// What the reading came to: the ServerHello, the first bytes of a NewSessionTicket, the
    /// handshake's outcome.
    pub(super) fn into_parts(self) -> (Option<ServerHello>, Option<String>, Outcome) {
        let outcome = match &self.hello {
            None => Outcome::Unknown,
            Some(hello) if self.is_tls13() => {
                if hello.psk_accepted {
                    Outcome::Resumed
                } else {
                    Outcome::Full
                }
            }
            Some(_) if self.follow.seen & seen::FULL != 0 => Outcome::Full,
            Some(_) if self.follow.seen & seen::RESUMED != 0 => Outcome::Resumed,
            Some(_) => Outcome::Unknown,
        };
        (self.hello, self.ticket, outcome)
    }
}
