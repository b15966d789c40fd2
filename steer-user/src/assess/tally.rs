//! What is counted of one member.

use std::collections::BTreeMap;

use serde::Serialize;
use steer_common::counters::Counter;

use super::{replay::Identifier, spread::Spread};

/// Upper bounds of the ages of a session at its offer, seconds; what is older than the last counts
/// behind it.
pub(super) const AGES: [u32; 6] = [60, 300, 600, 1800, 3600, 86_400];

/// How a handshake came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Came {
    /// The server resumed a session.
    Resumed,
    /// A full handshake.
    Full,
    /// It was broken off in clear.
    Failed,
    /// The capture does not say.
    Unknown,
}

/// What handshakes are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell {
    /// The negotiated version, else the one offered, as on the wire.
    pub(super) version: u16,
    pub(super) identifier: Identifier,
    /// The decision's reason.
    pub(super) reason: Counter,
    pub(super) came: Came,
}

/// Handshakes that the capture does not show whole, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Packets were captured in part (snap length).
    pub cut: u64,
    /// Packets are missing.
    pub lost: u64,
    /// Only one direction is there.
    pub one_way: u64,
    /// Its beginning or its end is outside of the capture.
    pub outside: u64,
    /// The hello is no hello that anybody knows.
    pub malformed: u64,
}

impl Unreadable {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.cut + self.lost + self.one_way + self.outside + self.malformed
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.cut += other.cut;
        self.lost += other.lost;
        self.one_way += other.one_way;
        self.outside += other.outside;
        self.malformed += other.malformed;
    }
}

/// Offers by whether the server took them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Resumed.
    pub accepted: u64,
    /// A full handshake followed.
    pub refused: u64,
}

impl Taken {
    pub(super) fn count(&mut self, came: Came) {
        match came {
            Came::Resumed => self.accepted += 1,
            Came::Full => self.refused += 1,
            Came::Failed | Came::Unknown => {}
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
    }
}

/// What the leg at the owner would have been where steer would have moved a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Legs {
    /// Moves in all.
    pub moves: u64,
    /// The client's address and port were in use there by another connection.
    pub taken: u64,
    /// They were in use there within the last minute (TIME_WAIT).
    pub lingering: u64,
}

/// What is counted of one member.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) cells: BTreeMap<Cell, u64>,
    pub(super) unreadable: Unreadable,
    /// Of those, whose hello could not be read.
    pub(super) unread_hellos: u64,
    /// Sessions of this member that others refused: steer would have kept them here.
    pub(super) kept_for: u64,
    /// TLS connections of which one direction is there.
    pub(super) one_way: u64,
    /// TLS connections.
    pub(super) tls: u64,
    /// Connections on which nothing was said.
    pub(super) silent: u64,
    /// From the hello to the end of the server's handshake, microseconds.
    pub(super) full: Spread,
    pub(super) resumed: Spread,
    /// Of that, while the server was to answer.
    pub(super) full_own: Spread,
    pub(super) resumed_own: Spread,
    /// Offers of known sessions by age.
    pub(super) ages: [Taken; AGES.len() + 1],
    /// Offers of known sessions from the address that they were issued to, and from another.
    pub(super) same_address: Taken,
    pub(super) other_address: Taken,
    pub(super) legs: Legs,
    /// Hellos longer than the programs read.
    pub(super) beyond: u64,
    /// Hellos longer than the window of the SYN-ACK.
    pub(super) beyond_window: u64,
    /// Hellos of more than one segment.
    pub(super) in_pieces: u64,
    /// Hellos that were read.
    pub(super) hellos: u64,
    /// Second hellos.
    pub(super) retried: u64,
}

impl Tally {
    /// Counts a handshake.
    pub(super) fn count(&mut self, cell: Cell) {
        *self.cells.entry(cell).or_default() += 1;
    }

    /// Adds all of another one.
    pub(super) fn join(&mut self, other: &Self) {
        for (cell, n) in &other.cells {
            *self.cells.entry(*cell).or_default() += n;
        }
        self.unreadable.join(&other.unreadable);
        self.unread_hellos += other.unread_hellos;
        self.kept_for += other.kept_for;
        self.one_way += other.one_way;
        self.tls += other.tls;
        self.silent += other.silent;
        self.full.join(&other.full);
        self.resumed.join(&other.resumed);
        self.full_own.join(&other.full_own);
        self.resumed_own.join(&other.resumed_own);
        for (to, from) in self.ages.iter_mut().zip(&other.ages) {
            to.join(from);
        }
        self.same_address.join(&other.same_address);
        self.other_address.join(&other.other_address);
        self.legs.moves += other.legs.moves;
        self.legs.taken += other.legs.taken;
        self.legs.lingering += other.legs.lingering;
        self.beyond += other.beyond;
        self.beyond_window += other.beyond_window;
        self.in_pieces += other.in_pieces;
        self.hellos += other.hellos;
        self.retried += other.retried;
    }

    /// Counts of the cells that `which` takes.
    pub(super) fn sum(&self, which: impl Fn(&Cell) -> bool) -> u64 {
        self.cells.iter().filter(|(cell, _)| which(cell)).map(|(_, n)| n).sum()
    }
}

impl Cell {
    /// Whether a session was offered, or one was resumed.
    pub(super) fn is_offer(&self) -> bool {
        self.identifier != Identifier::None
    }

    /// Whether it was refused by another member than the one that held the session: steer would
    /// have kept it.
    pub(super) fn is_kept(&self) -> bool {
        self.came == Came::Full && self.reason == Counter::Rehome
    }
}
