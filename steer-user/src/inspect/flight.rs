//! The server's side: its handshake in clear, read as it comes in.

use steer_common::{
    session::Kind,
    wire::tls::{
        Version,
        server_flight::{End, Follow, RESYNC_LOOK, Told, seen},
    },
};

use super::{
    half::STREAM_MAX,
    row::{Outcome, ServerHello, hex, version_word},
};

/// How far a server's stream was read. Sequence numbers in it are offsets from the first byte.
#[derive(Debug)]
pub(super) struct Reader {
    follow: Follow,
    hello: Option<ServerHello>,
    ticket: Option<String>,
    done: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self { follow: Follow::new(0), hello: None, ticket: None, done: false }
    }
}

impl Reader {
    /// Whether what was read so far can be nothing but a server's.
    pub(super) fn is_server(&self) -> bool {
        self.follow.seen & (seen::HELLO | seen::RETRY) != 0
    }

    /// Whether nothing more is to be read.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Reads on; `stream` is what there is from the first byte without a hole.
    pub(super) fn read(&mut self, stream: &[u8]) {
        self.read_piece(0, stream);
    }

    /// Bytes are missing and will not come: reads on in the `pieces` behind, each with its offset, where one begins
    /// with a record that is known for what it is.
    pub(super) fn read_behind<'a>(&mut self, pieces: impl Iterator<Item = (u32, &'a [u8])>) {
        for (offset, piece) in pieces {
            // Without the ServerHello nobody knows the version, and what a ticket means.
            if self.done || self.hello.is_none() {
                return;
            }
            let mut look = [0; RESYNC_LOOK];
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
                Told::More | Told::Retry => {}
                Told::NeedMore => return,
                Told::ServerHello => self.hello = Some(self.server_hello()),
                Told::Ticket => {
                    let lesson = &self.follow.lesson[..usize::from(self.follow.lesson_len).min(32)];
                    self.ticket = self.ticket.take().or_else(|| hex(lesson));
                }
                Told::End(End::Tls13) => {
                    self.hello = Some(self.server_hello());
                    self.done = true;
                }
                Told::End(End::ChangeCipherSpec | End::Alert | End::Other) => self.done = true,
            }
        }
    }

    fn server_hello(&self) -> ServerHello {
        let follow = &self.follow;
        let id_len = if follow.lesson_kind == Kind::SessionId as u8 { usize::from(follow.lesson_len) } else { 0 };
        ServerHello {
            version: version_word(follow.version),
            session_id: hex(&follow.lesson[..id_len.min(32)]),
            psk_accepted: self.is_tls13() && follow.seen & seen::PSK != 0,
        }
    }

    fn is_tls13(&self) -> bool {
        self.follow.version == Version::Tls13 as u16
    }

    /// What the reading came to: the ServerHello, the first bytes of a NewSessionTicket, the handshake's outcome.
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
