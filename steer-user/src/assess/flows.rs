//! The connections of a capture: which one a packet belongs to, those whose handshake is read, and
//! which are open.

use std::collections::{HashMap, VecDeque};

use super::exchange::Exchange;
use crate::inspect::{
    frame::Segment,
    hello::Room,
    known::{Known, Pair},
    space::{self, Belongs, Entry},
};

/// Handshakes that are read at once; where more begin, the oldest one is judged by what is there.
const EXCHANGES_MAX: usize = 1 << 14;
/// Bytes of streams that are held; where more come in, the oldest handshake is judged by what is
/// there.
const STREAMS_MAX: usize = 48 << 20;
/// A connection without a packet for so long is over, nanoseconds: the default of `flow_timeout`.
const IDLE: u64 = 7860 * 1_000_000_000;
/// For so long a closed connection's port is not free at its server (TIME_WAIT), nanoseconds.
const LINGER: u64 = 60 * 1_000_000_000;

/// Whether a pair of ends has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    /// It has none.
    Free,
    /// It had one within the last minute.
    Lingering,
    /// It has one.
    Taken,
}

/// All connections.
pub(super) struct Flows {
    known: Known,
    exchanges: HashMap<u64, Box<Exchange>>,
    /// Numbers of exchanges in the order in which they began, some of which are over.
    order: VecDeque<u64>,
    next: u64,
    held: usize,
    pub(super) room: Room,
    n_cut_short: u64,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self {
            known: Known::default(),
            exchanges: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
            held: 0,
            room: Room::new(),
            n_cut_short: 0,
        }
    }

    /// Reads a segment into its connection, and hands out the connection if its handshake is still
    /// read: [`Flows::keep`] or [`Flows::done`] takes it.
    pub(super) fn segment(
        &mut self,
        segment: &Segment<'_>,
        now: u64,
        cut: bool,
    ) -> Option<(u64, Box<Exchange>)> {
        let (pair, end) = Pair::of(segment);
        let entries = self.known.of(&pair);
        let (number, begins) = match space::find(entries, end, segment) {
            Belongs::To(index) => {
                let entry = entries.get_mut(index)?;
                entry.note(end, segment);
                entry.seen = now;
                if entry.is_read {
                    return None;
                }
                (entry.number, false)
            }
            Belongs::ToNone => {
                self.next += 1;
                let mut entry = Entry::new(self.next, end, segment);
                entry.seen = now;
                self.known.insert(pair, entry);
                (self.next, true)
            }
            Belongs::Stray => return None,
        };
        let mut exchange = if begins {
            self.order.push_back(number);
            Box::new(Exchange::new(segment, now))
        } else {
            self.exchanges.remove(&number)?
        };
        let before = if begins { 0 } else { exchange.connection.held() };
        exchange.cut |= cut;
        exchange.take(segment, now, &mut self.room);
        self.held = self.held + exchange.connection.held() - before;
        Some((number, exchange))
    }

    /// Whether both ends of a segment's connection ended it.
    pub(super) fn is_over(&mut self, segment: &Segment<'_>, number: u64) -> bool {
        let entries = self.known.of(&Pair::of(segment).0);
        entries.iter().any(|entry| entry.number == number && entry.is_over())
    }

    /// The handshake goes on.
    pub(super) fn keep(&mut self, number: u64, exchange: Box<Exchange>) {
        self.exchanges.insert(number, exchange);
    }

    /// Nothing more is to be read of a segment's connection.
    pub(super) fn done(&mut self, segment: &Segment<'_>, number: u64, exchange: &Exchange) {
        self.held -= exchange.connection.held();
        let entries = self.known.of(&Pair::of(segment).0);
        if let Some(entry) = entries.iter_mut().find(|entry| entry.number == number) {
            entry.is_read = true;
        }
    }

    /// Takes out the oldest handshake where there are more than there is room for.
    pub(super) fn surplus(&mut self) -> Option<Box<Exchange>> {
        if self.exchanges.len() <= EXCHANGES_MAX && self.held <= STREAMS_MAX {
            // What is over is not to pile up in front of one that is open for long.
            while self.order.front().is_some_and(|number| !self.exchanges.contains_key(number)) {
                self.order.pop_front();
            }
            if self.order.len() > 4 * EXCHANGES_MAX {
                self.order.retain(|number| self.exchanges.contains_key(number));
            }
            return None;
        }
        self.n_cut_short += 1;
        self.oldest()
    }

    /// Takes out the oldest handshake.
    pub(super) fn oldest(&mut self) -> Option<Box<Exchange>> {
        while let Some(number) = self.order.pop_front() {
            if let Some(exchange) = self.exchanges.remove(&number) {
                self.held -= exchange.connection.held();
                return Some(exchange);
            }
        }
        None
    }

    /// Whether a pair of ends has a connection now.
    pub(super) fn leg(&mut self, pair: &Pair, now: u64) -> Leg {
        let entries = self.known.of(pair);
        let age = |entry: &Entry| now.saturating_sub(entry.seen);
        if entries.iter().any(|entry| !entry.is_over() && age(entry) < IDLE) {
            return Leg::Taken;
        }
        let lingers = entries.iter().any(|entry| age(entry) < LINGER);
        if lingers { Leg::Lingering } else { Leg::Free }
    }

    /// Connections that are remembered, handshakes that are read, and their numbers that wait.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.known.len(), self.exchanges.len(), self.order.len())
    }

    /// Handshakes that were judged before their end, to bound memory.
    pub(super) fn n_cut_short(&self) -> u64 {
        self.n_cut_short
    }
}
