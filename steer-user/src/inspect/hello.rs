//! The client's side: its first ClientHello, read as it comes in.

use steer_common::wire::tls::client_hello::{Framing, Hello, Joined, STREAM, Span, Start, Stream, Walk, start};

use super::row::{ClientHello, hex, version_word};

/// Bytes of a ticket that are told.
pub(super) const TICKET_PREFIX: usize = 32;
/// Bytes of a PSK identity that are told.
const PSK_PREFIX: usize = 16;
/// Bytes that [`start`] looks at.
const LOOK: usize = 16;
/// Where the message starts in the stream if the first record holds it.
const IN_FIRST_RECORD: u32 = 5;

/// Room that readers share, one after the other.
pub(super) struct Room(Box<Stream>);

impl Room {
    pub(super) fn new() -> Self {
        Self(Box::new([0; STREAM]))
    }
}

/// How far a client's stream was read.
#[derive(Debug, Default)]
pub(super) enum Reader {
    /// Its first bytes are waited for.
    #[default]
    Start,
    /// The message lies in the first record and has this many bytes.
    OneRecord(u32),
    /// The message is joined from records.
    Joining(Box<Joining>),
    /// No hello is to come.
    Nothing,
    /// The hello, without its number of segments, and the offset of the byte behind it.
    Read(Box<ClientHello>, u32),
}

/// A message that is being joined.
#[derive(Debug)]
pub(super) struct Joining {
    framing: Framing,
    /// Offset in the stream that `framing` counts from.
    from: usize,
    message: Stream,
}

impl Reader {
    /// Whether what was read so far can be nothing but a hello.
    pub(super) fn is_hello(&self) -> bool {
        matches!(self, Self::OneRecord(_) | Self::Joining(_) | Self::Read(..))
    }

    /// Whether nothing more is to be read.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Nothing | Self::Read(..))
    }

    /// Bytes of memory held beside the reader itself.
    pub(super) fn held(&self) -> usize {
        if matches!(self, Self::Joining(_)) { STREAM } else { 0 }
    }

    /// Reads on; `stream` is what there is from the first byte without a hole.
    pub(super) fn read(&mut self, stream: &[u8], room: &mut Room) {
        if matches!(self, Self::Start) {
            *self = Self::begin(stream, room);
        }
        let found = match self {
            Self::OneRecord(len) => {
                let end = IN_FIRST_RECORD + *len;
                let Some(bytes) = stream.get(..end as usize) else { return };
                fill(&mut room.0, bytes);
                walk(&room.0, IN_FIRST_RECORD, *len).map(|hello| (hello, end))
            }
            Self::Joining(joining) => match joining.join(stream, room) {
                Joined::Whole => {
                    let end = joining.from as u32 + joining.framing.at;
                    walk(&joining.message, 0, joining.framing.len).map(|hello| (hello, end))
                }
                Joined::Malformed => None,
                Joined::More | Joined::NeedMore => return,
            },
            Self::Start | Self::Nothing | Self::Read(..) => return,
        };
        *self = found.map_or(Self::Nothing, |(hello, end)| Self::Read(Box::new(hello), end));
    }

    fn begin(stream: &[u8], room: &mut Room) -> Self {
        let look = &stream[..stream.len().min(LOOK)];
        fill(&mut room.0, look);
        match start(|at| room.0[at], look.len() as u32) {
            Start::NeedMore => Self::Start,
            Start::NotTls | Start::Malformed => Self::Nothing,
            Start::OneRecord { len } if (IN_FIRST_RECORD + len) as usize <= STREAM => Self::OneRecord(len),
            Start::OneRecord { .. } | Start::Split => {
                Self::Joining(Box::new(Joining { framing: Framing::default(), from: 0, message: [0; STREAM] }))
            }
        }
    }
}

impl Joining {
    /// Joins what is new in `stream`, seen through a window as large as the kernel's buffer.
    fn join(&mut self, stream: &[u8], room: &mut Room) -> Joined {
        loop {
            let rest = stream.get(self.from..).unwrap_or_default();
            let window = &rest[..rest.len().min(STREAM)];
            fill(&mut room.0, window);
            self.framing.have = window.len() as u32;
            match self.step_through(room) {
                Joined::NeedMore => {}
                joined => return joined,
            }
            let read = self.framing.at as usize;
            self.from += read;
            self.framing.at = 0;
            if read == 0 || window.len() == rest.len() {
                return Joined::NeedMore;
            }
        }
    }

    fn step_through(&mut self, room: &Room) -> Joined {
        loop {
            let before = self.framing;
            let joined = self.framing.step(&room.0, &mut self.message);
            // A message that the buffer does not hold cannot be walked over.
            if self.framing.len > STREAM as u32 {
                return Joined::Malformed;
            }
            if joined != Joined::More || self.framing == before {
                return joined;
            }
        }
    }
}

/// Walks over the message of `len` bytes at `base`, which is all there.
fn walk(bytes: &Stream, base: u32, len: u32) -> Option<ClientHello> {
    let mut hello = Hello::default();
    hello.begin(base, len, base + len);
    // Every step but those that leave a list goes on by two bytes.
    let walk = (0..STREAM).map(|_| hello.step(bytes)).find(|walk| *walk != Walk::More);
    (walk == Some(Walk::Done)).then(|| told(bytes, &hello, len))
}

fn told(bytes: &Stream, hello: &Hello, len: u32) -> ClientHello {
    let prefix = |span: Span, n: usize| {
        let at = span.at as usize;
        bytes.get(at..at + n.min(span.len as usize)).unwrap_or_default()
    };
    let name = prefix(hello.server_name, STREAM);
    ClientHello {
        version: version_word(hello.version_offered()),
        bytes: len,
        segments: 0,
        session_id: hex(prefix(hello.session_id, STREAM)),
        ticket_prefix: hex(prefix(hello.ticket, TICKET_PREFIX)),
        psk_prefix: hex(prefix(hello.psk[0], PSK_PREFIX)),
        sni: (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()),
        ech: hello.ech != 0,
        offers_psk: hello.psk_count != 0,
    }
}

fn fill(to: &mut Stream, from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
