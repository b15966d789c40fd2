//! The client's side: its first ClientHello, read as it comes in, behind the header of a PROXY
//! protocol if there is one.

use std::ops::Range;

use steer_common::{
    session::SESSION_ID_MAX,
    wire::{
        proxy,
        tls::client_hello::{
            Framing, Hello, Joined, PSK_IDENTITIES, STREAM, Span, Start, Stream, Walk, start,
        },
    },
};

use super::{
    half::Half,
    proxied::Proxied,
    row::{ClientHello, hex, version_word},
};

/// Bytes of a PSK identity that are told.
const PSK_PREFIX: usize = 16;
/// Bytes that [`start`] looks at.
const LOOK: usize = 16;
/// Where the message starts in the stream if the first record holds it.
const IN_FIRST_RECORD: u32 = 5;

/// Where the random stands in the message: header 4, version 2 (RFC 5246 7.4.1.2).
const RANDOM_AT: u32 = 6;
/// Its length, bytes.
const RANDOM_LEN: u32 = 32;

/// Room that readers share, one after the other.
pub(crate) struct Room(Box<Stream>);

/// An identifier as it stands on the wire, as much of it as is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identifier {
    /// Length of the whole, bytes; 0: it is not there.
    pub(crate) len: u32,
    /// Its first bytes, zero behind its end.
    pub(crate) bytes: [u8; SESSION_ID_MAX],
}

/// What a ClientHello offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offered {
    /// Highest version that the client speaks, as on the wire.
    pub(crate) version: u16,
    /// Length of the handshake message with its header, bytes.
    pub(crate) len: u32,
    /// Its random: no two hellos have one.
    pub(crate) random: [u8; RANDOM_LEN as usize],
    /// The session ID.
    pub(crate) session_id: Identifier,
    /// The ticket of TLS 1.2.
    pub(crate) ticket: Identifier,
    /// The first PSK identities.
    pub(crate) psk: [Identifier; PSK_IDENTITIES],
    /// The server name.
    pub(crate) server_name: Option<String>,
    /// Whether Encrypted Client Hello, or its grease, is there.
    pub(crate) ech: bool,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self(Box::new([0; STREAM]))
    }
}

/// How far a client's stream was read.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    proxied: Option<Proxied>,
    state: State,
}

/// What is being read.
#[derive(Debug, Default)]
enum State {
    /// The first bytes are waited for: those of a PROXY protocol's header or of a hello.
    #[default]
    Start,
    /// The first bytes of a hello are waited for, from this offset on.
    Hello(usize),
    /// The message lies in the record at this offset and has this many bytes.
    OneRecord(usize, u32),
    /// The message is joined from records.
    Joining(Box<Joining>),
    /// No hello is to come.
    Nothing,
    /// The hello, from where to where it and its record headers stand, and how many segments
    /// brought it, once that is counted.
    Read(Box<Offered>, Range<u32>, u32),
}

/// A message that is being joined.
#[derive(Debug)]
pub(super) struct Joining {
    framing: Framing,
    /// Offset of the first record in the stream.
    begin: usize,
    /// Offset in the stream that `framing` counts from.
    from: usize,
    message: Stream,
}

impl Reader {
    /// Whether what was read so far can be nothing but a client's.
    pub(crate) fn is_client(&self) -> bool {
        self.proxied.is_some()
            || matches!(self.state, State::OneRecord(..) | State::Joining(_) | State::Read(..))
    }

    /// Whether nothing more is to be read.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Nothing | State::Read(..))
    }

    /// Bytes of memory held beside the reader itself.
    pub(super) fn held(&self) -> usize {
        if matches!(self.state, State::Joining(_)) { STREAM } else { 0 }
    }

    /// Notes which segments brought the hello.
    pub(super) fn count_segments(&mut self, half: &Half) {
        if let State::Read(_, range, segments) = &mut self.state {
            *segments = half.n_segments(range.start, range.end);
        }
    }

    /// The hello, once it is read, and the offset in the stream of the byte behind it.
    pub(crate) fn hello(&self) -> Option<(&Offered, u32)> {
        match &self.state {
            State::Read(hello, range, _) => Some((hello, range.end)),
            State::Start
            | State::Hello(_)
            | State::OneRecord(..)
            | State::Joining(_)
            | State::Nothing => None,
        }
    }

    /// The header of a PROXY protocol in front of it.
    pub(crate) fn proxied(&self) -> Option<&Proxied> {
        self.proxied.as_ref()
    }

    /// Whether what was sent is no hello, or none that can be read.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self.state, State::Nothing)
    }

    /// What the reading came to: the header of a PROXY protocol, the hello.
    pub(super) fn into_parts(self) -> (Option<Proxied>, Option<ClientHello>) {
        let State::Read(offered, _, segments) = self.state else { return (self.proxied, None) };
        (self.proxied, Some(ClientHello::new(*offered, segments)))
    }

    /// Reads on; `stream` is what there is from the first byte without a hole.
    pub(crate) fn read(&mut self, stream: &[u8], room: &mut Room) {
        if matches!(self.state, State::Start) {
            self.skip_proxy(stream);
        }
        if let State::Hello(at) = self.state {
            self.state = State::begin(stream, at, room);
        }
        self.state.read(stream, room);
    }

    fn skip_proxy(&mut self, stream: &[u8]) {
        let byte = |at: usize| stream.get(at).copied().unwrap_or_default();
        self.state = match proxy::start(byte, stream.len() as u32) {
            proxy::Start::NeedMore => State::Start,
            proxy::Start::NotProxy => State::Hello(0),
            proxy::Start::Malformed => State::Nothing,
            proxy::Start::Header { len } => {
                self.proxied = Some(Proxied::read(&stream[..len as usize]));
                State::Hello(len as usize)
            }
        };
    }
}

impl State {
    fn begin(stream: &[u8], at: usize, room: &mut Room) -> Self {
        let rest = stream.get(at..).unwrap_or_default();
        let look = &rest[..rest.len().min(LOOK)];
        fill(&mut room.0, look);
        match start(|at| room.0[at], look.len() as u32) {
            Start::NeedMore => Self::Hello(at),
            Start::NotTls | Start::Malformed => Self::Nothing,
            Start::OneRecord { len } if (IN_FIRST_RECORD + len) as usize <= STREAM => {
                Self::OneRecord(at, len)
            }
            Start::OneRecord { .. } | Start::Split => Self::Joining(Box::new(Joining {
                framing: Framing::default(),
                begin: at,
                from: at,
                message: [0; STREAM],
            })),
        }
    }

    fn read(&mut self, stream: &[u8], room: &mut Room) {
        let found = match self {
            Self::OneRecord(at, len) => {
                let end = *at + (IN_FIRST_RECORD + *len) as usize;
                let Some(bytes) = stream.get(*at..end) else { return };
                fill(&mut room.0, bytes);
                walk(&room.0, IN_FIRST_RECORD, *len).map(|hello| (hello, *at..end))
            }
            Self::Joining(joining) => match joining.join(stream, room) {
                Joined::Whole => {
                    let end = joining.from + joining.framing.at as usize;
                    walk(&joining.message, 0, joining.framing.len)
                        .map(|hello| (hello, joining.begin..end))
                }
                Joined::Malformed => None,
                Joined::More | Joined::NeedMore => return,
            },
            Self::Start | Self::Hello(_) | Self::Nothing | Self::Read(..) => return,
        };
        *self = found.map_or(Self::Nothing, |(hello, range)| {
            Self::Read(Box::new(hello), range.start as u32..range.end as u32, 0)
        });
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
fn walk(bytes: &Stream, base: u32, len: u32) -> Option<Offered> {
    let mut hello = Hello::default();
    hello.begin(base, len, base + len);
    // Every step but those that leave a list goes on by two bytes.
    let walk = (0..STREAM).map(|_| hello.step(bytes)).find(|walk| *walk != Walk::More);
    (walk == Some(Walk::Done)).then(|| Offered::new(bytes, &hello, base, len))
}

impl Offered {
    fn new(bytes: &Stream, hello: &Hello, base: u32, len: u32) -> Self {
        let random = Identifier::new(bytes, Span { at: base + RANDOM_AT, len: RANDOM_LEN });
        let name = slice(bytes, hello.server_name);
        Self {
            version: hello.version_offered(),
            len,
            random: random.bytes,
            session_id: Identifier::new(bytes, hello.session_id),
            ticket: Identifier::new(bytes, hello.ticket),
            psk: hello.psk.map(|identity| Identifier::new(bytes, identity)),
            server_name: (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()),
            ech: hello.ech != 0,
        }
    }
}

impl Identifier {
    fn new(bytes: &Stream, span: Span) -> Self {
        let mut identifier = Self { len: span.len, ..Self::default() };
        for (to, from) in identifier.bytes.iter_mut().zip(slice(bytes, span)) {
            *to = *from;
        }
        identifier
    }

    /// Its first bytes, at most `n` of them and of those that are kept.
    pub(crate) fn prefix(&self, n: usize) -> &[u8] {
        &self.bytes[..n.min(self.len as usize).min(SESSION_ID_MAX)]
    }
}

fn slice(bytes: &Stream, span: Span) -> &[u8] {
    bytes.get(span.at as usize..(span.at + span.len) as usize).unwrap_or_default()
}

impl ClientHello {
    fn new(offered: Offered, segments: u32) -> Self {
        Self {
            version: version_word(offered.version),
            bytes: offered.len,
            segments,
            session_id: hex(offered.session_id.prefix(SESSION_ID_MAX)),
            ticket_prefix: hex(offered.ticket.prefix(SESSION_ID_MAX)),
            psk_prefix: hex(offered.psk[0].prefix(PSK_PREFIX)),
            ech: offered.ech,
            // A key's name stands in an identity that has bytes.
            offers_psk: offered.psk.iter().any(|identity| identity.len != 0),
            sni: offered.server_name,
        }
    }
}

fn fill(to: &mut Stream, from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
