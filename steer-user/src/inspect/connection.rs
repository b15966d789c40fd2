//! One TCP connection: its two streams, and which of them is the client's.

use std::net::SocketAddr;

use steer_common::wire::tcp::flags;

use super::{
    flight,
    frame::Segment,
    half::{Change, Half},
    hello::{self, Room},
    row::{Key, Row},
};

/// An end of a connection: 0 sent the packet that was seen first.
pub(super) type Side = usize;

/// A connection being read.
#[derive(Debug)]
pub(super) struct Connection {
    ends: [SocketAddr; 2],
    client: Option<Side>,
    sides: [Reading; 2],
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
    pub(super) fn new(segment: &Segment<'_>) -> Self {
        Self { ends: [segment.source, segment.destination], client: None, sides: Default::default() }
    }

    /// The end that sent this segment.
    pub(super) fn side(&self, segment: &Segment<'_>) -> Side {
        usize::from(self.ends[0] != segment.source)
    }

    /// Whether a SYN of `side` with this sequence number opens this connection, of which no SYN of that side was seen.
    pub(super) fn is_opened_by(&self, side: Side, seq: u32) -> bool {
        self.sides[side].half.base() == Some(seq.wrapping_add(1))
    }

    /// Reads a segment.
    pub(super) fn take(&mut self, segment: &Segment<'_>, room: &mut Room) {
        let side = self.side(segment);
        let mut seq = segment.seq;
        if segment.has(flags::RST) {
            return;
        }
        if segment.has(flags::SYN) {
            seq = seq.wrapping_add(1);
            self.open(side, segment, room);
        }
        let change = self.sides[side].half.insert(seq, segment.payload);
        self.read(side, change, room);
    }

    /// A SYN says who is who, and where a stream begins; its acknowledgement, where the other one does.
    fn open(&mut self, side: Side, segment: &Segment<'_>, room: &mut Room) {
        let answer = segment.has(flags::ACK);
        self.client.get_or_insert(if answer { 1 - side } else { side });
        let change = self.sides[side].half.begin(segment.seq.wrapping_add(1));
        self.read(side, change, room);
        if answer && !self.sides[1 - side].half.is_sure() {
            let change = self.sides[1 - side].half.begin(segment.ack);
            self.read(1 - side, change, room);
        }
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
        if self.client.is_none() {
            self.client = match (reading.hello.is_hello(), reading.flight.is_server()) {
                (true, _) => Some(side),
                (_, true) => Some(1 - side),
                _ => None,
            };
        }
        self.close(side);
    }

    /// Gives back the stream of a side that has said everything.
    fn close(&mut self, side: Side) {
        let Some(client) = self.client else {
            if self.sides[side].half.is_over() {
                self.sides[side].half.close();
            }
            return;
        };
        let reading = &mut self.sides[side];
        let done = if client == side { reading.hello.is_done() } else { reading.flight.is_done() };
        // Where no SYN was seen, what is no hello may be the middle of one.
        let certain = reading.half.is_sure() || reading.hello.is_hello() || reading.flight.is_server();
        if !(done && certain || reading.half.is_over()) {
            return;
        }
        if let hello::Reader::Read(hello, end) = &mut reading.hello {
            hello.segments = reading.half.n_segments(*end);
        }
        if client != side {
            reading.flight.read_behind(reading.half.behind_holes());
        }
        reading.half.close();
    }

    /// Whether nothing that may come would change the row.
    pub(super) fn is_done(&self) -> bool {
        self.client.is_some() && self.sides.iter().all(|reading| reading.half.is_closed())
    }

    /// Bytes of memory held beside the connection itself, about.
    pub(super) fn held(&self) -> usize {
        self.sides.iter().map(|reading| reading.half.held() + reading.hello.held()).sum()
    }

    /// The row, of what is there.
    pub(super) fn into_row(mut self) -> Row {
        let client = self.client.unwrap_or(0);
        let [first, second] = &mut self.sides;
        let (client_side, server_side) = if client == 0 { (first, second) } else { (second, first) };
        if let hello::Reader::Read(hello, end) = &mut client_side.hello
            && !client_side.half.is_closed()
        {
            hello.segments = client_side.half.n_segments(*end);
        }
        server_side.flight.read_behind(server_side.half.behind_holes());
        let client_hello = match std::mem::take(&mut client_side.hello) {
            hello::Reader::Read(hello, _) => Some(*hello),
            _ => None,
        };
        let (server_hello, new_session_ticket_prefix, outcome) = std::mem::take(&mut server_side.flight).into_parts();
        let key = Key::of(client_hello.as_ref(), server_hello.as_ref());
        Row {
            client: self.ends[client],
            server: self.ends[1 - client],
            client_hello,
            server_hello,
            new_session_ticket_prefix,
            outcome,
            key,
        }
    }
}
