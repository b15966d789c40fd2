//! The connections of a capture: which one a segment belongs to, and the order of their rows.

use std::{collections::VecDeque, mem};

use super::{
    connection::Connection,
    frame::Segment,
    hello::Room,
    known::{Known, Pair},
    row::Row,
    space::{self, Belongs, Entry},
};

/// Rows that are held back for an earlier one: where more connections begin, the oldest one's row
/// is made of what is there.
pub const ROWS_MAX: usize = 1 << 16;
/// Bytes of streams that are held: where more come in, the oldest connection's row is made of what
/// is there.
pub const STREAMS_MAX: usize = 64 << 20;

/// In which order rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// As their connections began: a row waits for the earlier ones.
    Begun,
    /// As they are complete.
    Completed,
}

/// All connections.
pub(super) struct Connections {
    order: Order,
    /// In the order in which they began; the first one is number `n_behind`.
    rows: VecDeque<Slot>,
    n_behind: u64,
    /// Rows that wait for no other.
    completed: VecDeque<Box<Row>>,
    known: Known,
    held: usize,
    n_cut_short: u64,
    room: Room,
}

/// A row, or what becomes one.
enum Slot {
    Open(Box<Connection>),
    Done(Box<Row>),
    Gone,
}

impl Connections {
    pub(super) fn new(order: Order) -> Self {
        Self {
            order,
            rows: VecDeque::new(),
            n_behind: 0,
            completed: VecDeque::new(),
            known: Known::default(),
            held: 0,
            n_cut_short: 0,
            room: Room::new(),
        }
    }

    /// Reads a segment into its connection, a new one if it has none.
    pub(super) fn segment(&mut self, segment: &Segment<'_>) {
        let Some(number) = self.number_of(segment) else { return };
        let Some(at) = number.checked_sub(self.n_behind).and_then(|at| usize::try_from(at).ok())
        else {
            return;
        };
        let Some(Slot::Open(connection)) = self.rows.get_mut(at) else { return };
        let before = connection.held();
        connection.take(segment, &mut self.room);
        let (held, is_done) = (connection.held(), connection.is_done());
        self.held = self.held + held - before;
        if is_done {
            self.held -= held;
            self.complete(at);
        }
        if self.rows.len() > ROWS_MAX {
            self.cut_short();
        }
        while self.held > STREAMS_MAX && self.cut_short() {}
    }

    /// The number of the segment's connection; `None` if it has none and begins none.
    fn number_of(&mut self, segment: &Segment<'_>) -> Option<u64> {
        let (pair, end) = Pair::of(segment);
        let entries = self.known.of(&pair);
        match space::find(entries, end, segment) {
            Belongs::To(index) => {
                let entry = entries.get_mut(index)?;
                entry.note(end, segment);
                Some(entry.number)
            }
            Belongs::ToNone => {
                let number = self.n_behind + self.rows.len() as u64;
                self.rows.push_back(Slot::Open(Box::new(Connection::new(segment))));
                self.known.insert(pair, Entry::new(number, end, segment));
                Some(number)
            }
            Belongs::Stray => None,
        }
    }

    /// Makes the row of the connection in this slot.
    fn complete(&mut self, at: usize) {
        let Some(slot) = self.rows.get_mut(at) else { return };
        let Slot::Open(connection) = mem::replace(slot, Slot::Gone) else { return };
        let row = Box::new(connection.into_row());
        match self.order {
            Order::Begun => *slot = Slot::Done(row),
            Order::Completed => self.completed.push_back(row),
        }
        self.advance();
    }

    /// Passes by the rows that wait for no earlier one.
    fn advance(&mut self) {
        while self.rows.front().is_some_and(|slot| !matches!(slot, Slot::Open(_))) {
            if let Some(Slot::Done(row)) = self.rows.pop_front() {
                self.completed.push_back(row);
            }
            self.n_behind += 1;
        }
    }

    /// Makes the oldest connection's row; false if there is none.
    fn cut_short(&mut self) -> bool {
        // The first slot is of an open connection, or there is none.
        let Some(Slot::Open(connection)) = self.rows.front() else { return false };
        self.held -= connection.held();
        self.complete(0);
        self.n_cut_short += 1;
        true
    }

    /// Takes out the rows that wait for no other.
    pub(super) fn ready(&mut self) -> impl Iterator<Item = Row> {
        std::iter::from_fn(|| self.completed.pop_front().map(|row| *row))
    }

    /// Makes the rows of all connections.
    pub(super) fn finish(&mut self) {
        while !self.rows.is_empty() {
            self.complete(0);
        }
        self.held = 0;
    }

    /// Connections whose row was made before their end.
    pub(super) fn n_cut_short(&self) -> u64 {
        self.n_cut_short
    }
}
