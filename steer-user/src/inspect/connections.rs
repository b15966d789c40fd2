//! The connections of a capture: which one a segment belongs to, and the order of their rows.

use std::{collections::VecDeque, mem};

use steer_common::wire::tcp::flags;

use super::{
    connection::Connection,
    frame::Segment,
    hello::Room,
    known::{Entry, Known, Pair},
    row::Row,
};

/// Rows that are held back for an earlier one: where more connections begin, the oldest one's row is made of what is
/// there.
pub const ROWS_MAX: usize = 1 << 16;
/// Bytes of streams that are held: where more come in, the oldest connection's row is made of what is there.
pub const STREAMS_MAX: usize = 64 << 20;

/// All connections.
pub(super) struct Connections {
    /// In order; the first one is number `n_emitted`.
    rows: VecDeque<Slot>,
    n_emitted: u64,
    known: Known,
    held: usize,
    n_cut_short: u64,
    room: Room,
}

/// A row, or what becomes one.
enum Slot {
    Open(Box<Connection>),
    Done(Option<Box<Row>>),
}

impl Connections {
    pub(super) fn new() -> Self {
        Self {
            rows: VecDeque::new(),
            n_emitted: 0,
            known: Known::default(),
            held: 0,
            n_cut_short: 0,
            room: Room::new(),
        }
    }

    /// Reads a segment into its connection, a new one if it has none.
    pub(super) fn segment(&mut self, segment: &Segment<'_>) {
        let number = self.find(segment).unwrap_or_else(|| self.begin(segment));
        let Some(at) = self.slot_of(number) else { return };
        let Some(slot) = self.rows.get_mut(at) else { return };
        let Slot::Open(connection) = slot else { return };
        let before = connection.held();
        connection.take(segment, &mut self.room);
        self.held = self.held + connection.held() - before;
        if connection.is_done() {
            self.held -= connection.held();
            slot.finish();
        }
        if self.rows.len() > ROWS_MAX {
            self.cut_short();
        }
        while self.held > STREAMS_MAX && self.cut_short() {}
    }

    fn slot_of(&self, number: u64) -> Option<usize> {
        number.checked_sub(self.n_emitted).and_then(|at| usize::try_from(at).ok())
    }

    /// The number of the segment's connection; `None` if it begins one.
    fn find(&mut self, segment: &Segment<'_>) -> Option<u64> {
        let (pair, end) = Pair::of(segment);
        let mut entry = self.known.get(&pair)?;
        if is_syn(segment) {
            if !self.is_same(&entry, end, segment) {
                return None;
            }
            entry.isn[end] = Some(segment.seq);
            self.known.insert(pair, entry);
        }
        Some(entry.number)
    }

    /// Whether a SYN, or the answer to one, is of the connection known by `entry`.
    fn is_same(&self, entry: &Entry, end: usize, segment: &Segment<'_>) -> bool {
        let (isn, other) = (entry.isn[end], entry.isn[1 - end]);
        if segment.has(flags::ACK) {
            return isn == Some(segment.seq) || other.is_none_or(|other| other.wrapping_add(1) == segment.ack);
        }
        if let Some(isn) = isn {
            return isn == segment.seq;
        }
        // Packets of it were captured before its SYN.
        match self.slot_of(entry.number).and_then(|at| self.rows.get(at)) {
            Some(Slot::Open(connection)) => connection.is_opened_by(connection.side(segment), segment.seq),
            _ => false,
        }
    }

    fn begin(&mut self, segment: &Segment<'_>) -> u64 {
        let number = self.n_emitted + self.rows.len() as u64;
        self.rows.push_back(Slot::Open(Box::new(Connection::new(segment))));
        let (pair, end) = Pair::of(segment);
        let mut isn = [None; 2];
        if is_syn(segment) {
            isn[end] = Some(segment.seq);
        }
        self.known.insert(pair, Entry { number, isn });
        number
    }

    /// Makes the oldest connection's row; false if there is none.
    fn cut_short(&mut self) -> bool {
        let Some(slot) = self.rows.iter_mut().find(|slot| matches!(slot, Slot::Open(_))) else { return false };
        if let Slot::Open(connection) = slot {
            self.held -= connection.held();
        }
        slot.finish();
        self.n_cut_short += 1;
        true
    }

    /// Takes out the rows that wait for no earlier one.
    pub(super) fn ready(&mut self) -> impl Iterator<Item = Row> {
        std::iter::from_fn(|| {
            let Some(Slot::Done(row)) = self.rows.front_mut() else { return None };
            let row = row.take();
            self.rows.pop_front();
            self.n_emitted += 1;
            row.map(|row| *row)
        })
    }

    /// Makes the rows of all connections.
    pub(super) fn finish(&mut self) {
        self.rows.iter_mut().for_each(Slot::finish);
        self.held = 0;
    }

    /// Connections whose row was made before their end.
    pub(super) fn n_cut_short(&self) -> u64 {
        self.n_cut_short
    }
}

impl Slot {
    fn finish(&mut self) {
        if matches!(self, Self::Done(_)) {
            return;
        }
        if let Self::Open(connection) = mem::replace(self, Self::Done(None)) {
            *self = Self::Done(Some(Box::new(connection.into_row())));
        }
    }
}

fn is_syn(segment: &Segment<'_>) -> bool {
    segment.has(flags::SYN) && !segment.has(flags::RST)
}
