//! One TCP connection: its two streams, and which of them is the client's.

use std::net::SocketAddr;

use steer_common::wire::tcp::flags;

use super::{
    flight,
    frame::{Path, Segment},
    half::{Begin, Change, Half},
    hello::{self, Room},
    row::{Key, Row},
    space::is_syn,
};

/// An end of a connection: 0 sent the packet that was seen first.
pub(crate) type Side = usize;

/// A connection being read.
#[derive(Debug)]
pub(crate) struct Connection {
    ends: [SocketAddr; 2],
    client: Option<Side>,
    sides: [Reading; 2],
    /// The client's stream is read on behind its hello, until the server's handshake is over.
    keeps_client: bool,
    /// It ended before its client sent anything.
    is_void: bool,
    /// The tags and tunnels that its first packet was found in.
    path: Path,
}

/// An end's stream, and what it shows in either role.
#[derive(Debug, Default)]
struct Reading {
    half: Half,
    hello: hello::Reader,
    flight: flight::Reader,
}

impl Connection {
    /// Begins with the first segment that was seen.
    pub(crate) fn new(segment: &Segment<'_>) -> Self {
        let ends = [segment.source, segment.destination];
        Self {
            ends,
            client: None,
            sides: Default::default(),
            keeps_client: false,
            is_void: false,
            path: segment.path,
        }
    }

    /// As [`Connection::new`]; what the client sends behind its hello is kept until the server's
    /// handshake is over.
    pub(crate) fn keeping_client(segment: &Segment<'_>) -> Self {
        Self { keeps_client: true, ..Self::new(segment) }
    }

    /// Client and server; `None` while it is not known which is which.
    pub(crate) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.client.map(|client| (self.ends[client], self.ends[1 - client]))
    }

    /// Which end is the client.
    pub(crate) fn client(&self) -> Option<Side> {
        self.client
    }

    /// The client's first hello, as far as it is read, and the client's stream.
    pub(crate) fn client_side(&self) -> Option<(&hello::Reader, &Half)> {
        self.client.map(|client| (&self.sides[client].hello, &self.sides[client].half))
    }

    /// The server's handshake, as far as it is read, and the server's stream.
    pub(crate) fn server_side(&self) -> Option<(&flight::Reader, &Half)> {
        self.client.map(|client| (&self.sides[1 - client].flight, &self.sides[1 - client].half))
    }

    /// The end that sent this segment.
    pub(crate) fn side(&self, segment: &Segment<'_>) -> Side {
        usize::from(self.ends[0] != segment.source)
    }

    /// Reads a segment.
    pub(crate) fn take(&mut self, segment: &Segment<'_>, room: &mut Room) {
        let side = self.side(segment);
        if segment.has(flags::RST) {
            return self.reset(side, segment);
        }
        let mut seq = segment.seq;
        if is_syn(segment) {
            seq = seq.wrapping_add(1);
            self.open(side, segment, room);
        }
        let change = self.sides[side].half.insert(seq, segment.payload);
        if segment.has(flags::FIN) {
            self.sides[side].half.end(seq.wrapping_add(segment.payload.len() as u32));
        }
        self.read(side, change, room);
        self.close(side);
    }

    /// A SYN says who is who, and where a stream begins; its acknowledgement, where the other one
    /// does.
    fn open(&mut self, side: Side, segment: &Segment<'_>, room: &mut Room) {
        let answer = segment.has(flags::ACK);
        self.client.get_or_insert(if answer { 1 - side } else { side });
        let change = self.sides[side].half.begin(segment.seq.wrapping_add(1), Begin::Syn);
        self.read(side, change, room);
        if answer {
            let change = self.sides[1 - side].half.begin(segment.ack, Begin::Acknowledged);
            self.read(1 - side, change, room);
            self.close(1 - side);
        }
    }

    /// A reset ends a connection that has not said anything yet. Behind data it may be somebody
    /// else's, who only says that he is an end: what is in the capture is read all the same.
    fn reset(&mut self, side: Side, segment: &Segment<'_>) {
        let is_silent =
            self.sides.iter().all(|reading| reading.half.is_empty() && !reading.half.is_closed());
        let is_open = self.sides.iter().any(|reading| reading.half.is_sure());
        self.is_void |= is_silent && is_open && self.sides[side].half.is_next(segment.seq);
    }

    fn read(&mut self, side: Side, change: Change, room: &mut Room) {
        let reading = &mut self.sides[side];
        if change == Change::None {
            return;
        }
        if change == Change::Moved {
            (reading.hello, reading.flight) = Default::default();
        }
        if self.client != Some(1 - side) {
            reading.hello.read(reading.half.contiguous(), room);
        }
        if self.client != Some(side) {
            reading.flight.read(reading.half.contiguous());
        }
        self.judge(side);
    }

    /// Without a SYN the client is known by what it says, and by what the other end does.
    fn judge(&mut self, side: Side) {
        if self.client.is_none() {
            let reading = &self.sides[side];
            self.client = match (reading.hello.is_client(), reading.flight.is_server()) {
                (true, _) => Some(side),
                (_, true) => Some(1 - side),
                _ => None,
            };
        }
    }

    /// Gives back the stream of a side that has said everything.
    fn close(&mut self, side: Side) {
        let reading = &self.sides[side];
        if reading.half.is_closed() {
            return;
        }
        self.is_void |= self.client == Some(side) && reading.half.is_void();
        let done = match self.client {
            Some(client) if client == side => !self.keeps_client && reading.hello.is_done(),
            Some(_) => reading.flight.is_done(),
            None => false,
        };
        // Where no SYN was seen, what is no hello may be the middle of one.
        let certain =
            reading.half.is_sure() || reading.hello.is_client() || reading.flight.is_server();
        if done && certain || reading.half.is_over() {
            self.read_to_end(side);
            self.sides[side].half.close();
        }
    }

    /// Reads what is there, since nothing is to come.
    fn read_to_end(&mut self, side: Side) {
        let reading = &mut self.sides[side];
        if reading.half.is_closed() {
            return;
        }
        reading.hello.count_segments(&reading.half);
        if self.client != Some(side) {
            reading.flight.read_behind(&reading.half);
        }
        self.judge(side);
    }

    /// Whether nothing that may come would change the row.
    pub(crate) fn is_done(&self) -> bool {
        let is_over = |side: Side| {
            let Reading { half, hello, .. } = &self.sides[side];
            half.is_closed() || self.keeps_client && self.client == Some(side) && hello.is_done()
        };
        self.is_void || self.client.is_some() && is_over(0) && is_over(1)
    }

    /// Reads what is there of both sides, since nothing is to come.
    pub(crate) fn finish(&mut self) {
        self.read_to_end(0);
        self.read_to_end(1);
    }

    /// Bytes of memory held beside the connection itself, about.
    pub(crate) fn held(&self) -> usize {
        self.sides.iter().map(|reading| reading.half.held() + reading.hello.held()).sum()
    }

    /// The row, of what is there.
    pub(super) fn into_row(mut self) -> Row {
        self.finish();
        let client = self.client.unwrap_or(0);
        let [first, second] = self.sides;
        let (client_side, server_side) =
            if client == 0 { (first, second) } else { (second, first) };
        let (proxied, client_hello) = client_side.hello.into_parts();
        let (server_hello, new_session_ticket_prefix, outcome) = server_side.flight.into_parts();
        let key = Key::of(client_hello.as_ref(), server_hello.as_ref());
        Row {
            client: self.ends[client],
            server: self.ends[1 - client],
            client_hello,
            server_hello,
            new_session_ticket_prefix,
            outcome,
            key,
            proxy_protocol: proxied.map(|proxied| proxied.version),
            proxied_client: proxied.and_then(|proxied| proxied.client),
            encapsulation: (!self.path.is_empty()).then(|| self.path.to_string()),
        }
    }
}
