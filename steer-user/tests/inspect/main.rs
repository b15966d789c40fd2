//! `inspect` on captures made by hand: what no recorded one shows.

mod command;
mod endless;
mod files;
mod garbage;
mod handshakes;
mod links;
mod live;
mod proxied;
mod spaces;
mod tcp;
mod tickets;
mod tunnels;
mod wrap;

use std::{
    io::{Cursor, Read},
    net::{IpAddr, SocketAddr},
};

use etherparse::PacketBuilder;
use steer_user::inspect::{Row, Summary, inspect};

/// Link types.
const ETHERNET: u32 = 1;

/// An end of a connection and what it sends next.
#[derive(Clone, Copy)]
struct End {
    address: SocketAddr,
    isn: u32,
}

/// A connection whose packets are made.
#[derive(Clone, Copy)]
struct Flow {
    client: End,
    server: End,
}

/// Flags of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Syn,
    SynAck,
    Data,
    Fin,
    Reset,
}

impl Flow {
    fn new(client: &str, server: &str, client_isn: u32, server_isn: u32) -> Self {
        let end = |address: &str, isn| End { address: address.parse().expect("an address"), isn };
        Self { client: end(client, client_isn), server: end(server, server_isn) }
    }

    fn v4() -> Self {
        Self::new("192.0.2.1:40000", "198.51.100.10:443", 1000, 5000)
    }

    /// A frame of the client's, `offset` bytes behind its first one.
    fn client(&self, kind: Kind, offset: u32, payload: &[u8]) -> Vec<u8> {
        frame(self.client, self.server, kind, offset, payload)
    }

    /// A frame of the server's.
    fn server(&self, kind: Kind, offset: u32, payload: &[u8]) -> Vec<u8> {
        frame(self.server, self.client, kind, offset, payload)
    }

    fn opened(&self) -> Vec<Vec<u8>> {
        vec![
            self.client(Kind::Syn, 0, &[]),
            self.server(Kind::SynAck, 0, &[]),
            self.client(Kind::Data, 0, &[]),
        ]
    }
}

fn frame(from: End, to: End, kind: Kind, offset: u32, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match (from.address.ip(), to.address.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        other => panic!("{other:?}"),
    };
    let first = from.isn.wrapping_add(1);
    let seq = if matches!(kind, Kind::Syn | Kind::SynAck) {
        from.isn
    } else {
        first.wrapping_add(offset)
    };
    let tcp = ip.tcp(from.address.port(), to.address.port(), seq, 500);
    let ack = to.isn.wrapping_add(1);
    let tcp = match kind {
        Kind::Syn => tcp.syn(),
        Kind::SynAck => tcp.syn().ack(ack),
        Kind::Data => tcp.ack(ack),
        Kind::Fin => tcp.fin().ack(ack),
        Kind::Reset => tcp.rst(),
    };
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, payload).expect("a frame");
    bytes
}

/// A pcap file of these frames.
fn pcap(link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, link].map(u32::to_le_bytes).concat();
    for frame in frames {
        let len = frame.len() as u32;
        file.extend([0, 0, len, len].map(u32::to_le_bytes).concat());
        file.extend(frame);
    }
    file
}

fn read(file: Vec<u8>) -> (Vec<Row>, Summary) {
    read_from(Cursor::new(file))
}

fn read_from(file: impl Read + Send + 'static) -> (Vec<Row>, Summary) {
    let mut rows = Vec::new();
    let summary = inspect(file, |row| {
        rows.push(row);
        Ok::<(), ()>(())
    });
    (rows, summary.expect("a capture"))
}

/// The rows of a capture of Ethernet frames.
fn rows(frames: &[Vec<u8>]) -> Vec<Row> {
    read(pcap(ETHERNET, frames)).0
}

/// The only row.
#[track_caller]
fn row(frames: &[Vec<u8>]) -> Row {
    let mut rows = rows(frames);
    assert_eq!(rows.len(), 1, "{rows:#?}");
    rows.remove(0)
}

/// A record of the handshake.
fn record(content: u8, bytes: &[u8]) -> Vec<u8> {
    [&[content, 3, 3][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_be_bytes();
    [&[kind, len[1], len[2], len[3]][..], body].concat()
}

fn extensions(list: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let list: Vec<u8> = list
        .iter()
        .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &sized(body)].concat())
        .collect();
    if list.is_empty() { list } else { sized(&list) }
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// A ClientHello message.
fn client_hello(id: &[u8], list: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let head =
        [&[3, 3][..], &[0x5a; 32], &[id.len() as u8], id, &[0, 2, 0xc0, 0x2f, 1, 0]].concat();
    message(1, &[head, extensions(list)].concat())
}

/// A ServerHello message.
fn server_hello(random: [u8; 32], id: &[u8], list: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let head = [&[3, 3][..], &random, &[id.len() as u8], id, &[0xc0, 0x2f, 0]].concat();
    message(2, &[head, extensions(list)].concat())
}
