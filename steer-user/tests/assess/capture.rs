//! Captures of handshakes, made by hand: frames with times.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;

/// Nanoseconds of a millisecond.
pub(crate) const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1000 * MS;
/// When captures begin, nanoseconds since 1970.
pub(crate) const BEGIN: u64 = 1_700_000_000 * SECOND;

/// Two members.
pub(crate) const A: &str = "10.0.0.11:443";
pub(crate) const B: &str = "10.0.0.12:443";

/// Frames with their times, nanoseconds since 1970, and their lengths on the wire.
#[derive(Clone, Default)]
pub(crate) struct Capture {
    pub(crate) frames: Vec<(u64, Vec<u8>, usize)>,
}

/// Which end of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Client,
    Server,
}

/// Flags of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Syn,
    Data,
    Fin,
}

/// What a client offers.
#[derive(Clone, Copy)]
pub(crate) struct Hello<'a> {
    /// Its session ID.
    pub(crate) id: &'a [u8],
    /// Length of an extension that nobody knows, bytes.
    pub(crate) filler: usize,
    /// What stands in front of it.
    pub(crate) preamble: &'a [u8],
}

/// What a SYN offers, or its answer agrees to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Syn<'a> {
    /// The options.
    pub(crate) bytes: &'a [u8],
    pub(crate) ecn: bool,
}

/// What a server does with it.
#[derive(Clone, Copy)]
pub(crate) enum Answer<'a> {
    /// A full handshake, which issues this session ID.
    Issues(&'a [u8]),
    /// It resumes what is offered.
    Resumes,
}

impl<'a> Hello<'a> {
    pub(crate) fn offering(id: &'a [u8]) -> Self {
        Self { id, filler: 0, preamble: &[] }
    }
}

impl Capture {
    /// Adds a segment, `after` nanoseconds behind the beginning.
    pub(crate) fn segment(
        &mut self,
        after: u64,
        ends: (&str, &str),
        from: From,
        kind: Kind,
        offset: usize,
        payload: &[u8],
    ) {
        self.segment_with(after, ends, (from, kind), offset, Syn::default(), payload);
    }

    fn segment_with(
        &mut self,
        after: u64,
        ends: (&str, &str),
        (from, kind): (From, Kind),
        offset: usize,
        options: Syn<'_>,
        payload: &[u8],
    ) {
        let (client, server): (SocketAddr, SocketAddr) =
            (ends.0.parse().expect("an address"), ends.1.parse().expect("an address"));
        let is_client = from == From::Client;
        let (source, destination) = if is_client { (client, server) } else { (server, client) };
        // Each connection has numbers of its own.
        let base = |address: SocketAddr| {
            let other = if address == client { server } else { client };
            u32::from(address.port()) << 16
                ^ u32::from(other.port())
                ^ (after / (3600 * SECOND)) as u32
        };
        let syn = kind == Kind::Syn;
        let seq = base(source).wrapping_add(u32::from(!syn)).wrapping_add(offset as u32);
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            other => panic!("{other:?}"),
        };
        let tcp = ip.tcp(source.port(), destination.port(), seq, 65_000);
        let ack = base(destination).wrapping_add(1);
        let tcp = match (kind, is_client) {
            (Kind::Syn, true) => tcp.syn(),
            (Kind::Syn, false) => tcp.syn().ack(ack),
            (Kind::Data, _) => tcp.ack(ack),
            (Kind::Fin, _) => tcp.fin().ack(ack),
        };
        let tcp = if options.ecn { tcp.ece() } else { tcp };
        let tcp = if options.ecn && is_client { tcp.cwr() } else { tcp };
        let tcp = tcp.options_raw(options.bytes).expect("as many options as fit");
        let mut frame = Vec::new();
        tcp.write(&mut frame, payload).expect("a frame");
        let len = frame.len();
        self.frames.push((BEGIN + after, frame, len));
    }

    /// Adds a connection that is opened.
    pub(crate) fn open(&mut self, after: u64, ends: (&str, &str)) {
        self.open_with(after, ends, Syn::default(), Some(Syn::default()));
    }

    /// Adds a connection that is opened with these options; without an answer it is lost.
    pub(crate) fn open_with(
        &mut self,
        after: u64,
        ends: (&str, &str),
        offers: Syn<'_>,
        agrees: Option<Syn<'_>>,
    ) {
        self.segment_with(after, ends, (From::Client, Kind::Syn), 0, offers, &[]);
        if let Some(agrees) = agrees {
            let answer = (From::Server, Kind::Syn);
            self.segment_with(after + 10_000, ends, answer, 0, agrees, &[]);
        }
    }

    /// Adds both ends' FIN.
    pub(crate) fn close(&mut self, after: u64, ends: (&str, &str)) {
        self.segment(after, ends, From::Client, Kind::Fin, 40_000, &[]);
        self.segment(after, ends, From::Server, Kind::Fin, 40_000, &[]);
    }

    /// Adds a connection with its handshake, all within 10 ms; it stays open.
    pub(crate) fn visit(
        &mut self,
        after: u64,
        ends: (&str, &str),
        hello: Hello<'_>,
        answer: Answer<'_>,
    ) {
        self.open(after, ends);
        self.handshake(after, ends, hello, answer);
    }

    /// Adds the handshake of a connection that was opened then.
    pub(crate) fn handshake(
        &mut self,
        after: u64,
        ends: (&str, &str),
        hello: Hello<'_>,
        answer: Answer<'_>,
    ) {
        // No two hellos have one random.
        let mut random = [0x5a; 32];
        random[..8].copy_from_slice(&(after + self.frames.len() as u64).to_be_bytes());
        let client = [hello.preamble, &record(22, &client_hello(random, &hello))].concat();
        for (index, piece) in client.chunks(1400).enumerate() {
            self.segment(after + MS, ends, From::Client, Kind::Data, index * 1400, piece);
        }
        let mut sent = client.len();
        let (flight, end) = match answer {
            Answer::Issues(id) => {
                let flight = [server_hello(id), message(11, &[0; 900]), message(14, &[])].concat();
                (record(22, &flight), record(20, &[1]))
            }
            Answer::Resumes => (record(22, &server_hello(hello.id)), record(20, &[1])),
        };
        if matches!(answer, Answer::Issues(_)) {
            self.segment(after + 3 * MS, ends, From::Server, Kind::Data, 0, &flight);
            let exchange = [record(22, &message(16, &[7; 66])), record(20, &[1])].concat();
            self.segment(after + 4 * MS, ends, From::Client, Kind::Data, sent, &exchange);
            sent += exchange.len();
            let behind = [end, record(22, &[8; 40])].concat();
            self.segment(after + 5 * MS, ends, From::Server, Kind::Data, flight.len(), &behind);
        } else {
            let all = [flight, end, record(22, &[8; 40])].concat();
            self.segment(after + 2 * MS, ends, From::Server, Kind::Data, 0, &all);
        }
        self.segment(after + 6 * MS, ends, From::Client, Kind::Data, sent, &record(23, &[9; 100]));
    }

    /// A pcap file with microseconds.
    pub(crate) fn pcap(&self) -> Vec<u8> {
        self.file(0xa1b2_c3d4, 1000)
    }

    /// A pcap file with nanoseconds.
    pub(crate) fn nanoseconds(&self) -> Vec<u8> {
        self.file(0xa1b2_3c4d, 1)
    }

    fn file(&self, magic: u32, tick: u64) -> Vec<u8> {
        let mut file = [magic, 0x0004_0002, 0, 0, 0x4_0000, 1].map(u32::to_le_bytes).concat();
        for (time, frame, len) in &self.frames {
            let stamp = [(time / SECOND) as u32, (time % SECOND / tick) as u32];
            file.extend(
                [stamp[0], stamp[1], frame.len() as u32, *len as u32]
                    .map(u32::to_le_bytes)
                    .concat(),
            );
            file.extend(frame);
        }
        file
    }

    /// A pcapng file whose interface counts by this power (`if_tsresol`), each tick of so many
    /// nanoseconds.
    pub(crate) fn pcapng(&self, resolution: u8, per_second: u64) -> Vec<u8> {
        let block = |kind: u32, body: &[u8]| {
            let len = (12 + body.len()) as u32;
            [&kind.to_le_bytes()[..], &len.to_le_bytes(), body, &len.to_le_bytes()].concat()
        };
        let mut section = [0x1a2b_3c4d_u32, 1].map(u32::to_le_bytes).concat();
        section.extend([0xff; 8]);
        let mut interface = [1_u32, 0].map(u32::to_le_bytes).concat();
        interface.extend([9, 0, 1, 0, resolution, 0, 0, 0, 0, 0, 0, 0]);
        let mut file = [block(0x0a0d_0d0a, &section), block(1, &interface)].concat();
        for (time, frame, len) in &self.frames {
            let ticks = (u128::from(*time) * u128::from(per_second) / u128::from(SECOND)) as u64;
            let head = [0, (ticks >> 32) as u32, ticks as u32, frame.len() as u32, *len as u32];
            let mut body = head.map(u32::to_le_bytes).concat();
            body.extend(frame);
            body.resize(body.len().next_multiple_of(4), 0);
            file.extend(block(6, &body));
        }
        file
    }
}

pub(crate) fn record(content: u8, bytes: &[u8]) -> Vec<u8> {
    [&[content, 3, 3][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_be_bytes();
    [&[kind, len[1], len[2], len[3]][..], body].concat()
}

fn client_hello(random: [u8; 32], hello: &Hello<'_>) -> Vec<u8> {
    let id = hello.id;
    let mut body =
        [&[3, 3][..], &random, &[id.len() as u8], id, &[0, 2, 0xc0, 0x2f, 1, 0]].concat();
    if hello.filler != 0 {
        let len = (hello.filler as u16).to_be_bytes();
        let list = [&[0xfe, 0xfe], &len[..], &vec![0; hello.filler]].concat();
        body.extend((list.len() as u16).to_be_bytes());
        body.extend(list);
    }
    message(1, &body)
}

fn server_hello(id: &[u8]) -> Vec<u8> {
    message(2, &[&[3, 3][..], &[0x77; 32], &[id.len() as u8], id, &[0xc0, 0x2f, 0]].concat())
}
