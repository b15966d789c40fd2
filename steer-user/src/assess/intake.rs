//! What came in: packets by whether they could be read, and the time that they span.

use serde::Serialize;

use crate::inspect::{Kind, Tally};

const SECOND: u64 = 1_000_000_000;
/// How far back a packet's time may lie behind that of an earlier one without being told, which
/// captures of several queues do all the time, nanoseconds.
const BACK: u64 = SECOND / 10;

/// What came in.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Intake {
    /// Packets.
    pub packets: u64,
    /// TCP segments among them.
    pub segments: u64,
    /// TCP segments that were captured in part.
    pub cut: u64,
    /// TCP segments that were there within the last 2 ms already, and were dropped.
    pub duplicates: u64,
    /// Packets that the kernel dropped before they were read, of a live capture.
    pub dropped: u64,
    /// Packets more than a tenth of a second earlier than one before them.
    pub back_in_time: u64,
    /// Packets without a time.
    pub without_time: u64,
    /// Seconds from the earliest packet to the latest.
    pub seconds: u64,
    /// Frames that are not read and may hold TCP.
    pub not_read: Tally,
    /// Frames that are no TCP.
    pub no_tcp: Tally,
    /// Blocks of pcapng files that are not read.
    pub blocks_not_read: Tally,
    #[serde(skip)]
    first: Option<u64>,
    #[serde(skip)]
    last: u64,
}

impl Intake {
    /// Takes in a packet and says what time it is then, nanoseconds since 1970: time does not go
    /// back.
    pub(super) fn clock(&mut self, time: Option<u64>) -> u64 {
        self.packets += 1;
        let Some(time) = time else {
            self.without_time += 1;
            return self.last;
        };
        let first = *self.first.get_or_insert(time);
        self.back_in_time += u64::from(self.last.saturating_sub(time) > BACK);
        self.last = self.last.max(time);
        self.seconds = self.last.saturating_sub(first) / SECOND;
        self.last
    }

    pub(super) fn no_tcp(&mut self, kind: Kind) {
        self.no_tcp.count(kind);
    }

    pub(super) fn unread(&mut self, kind: Kind) {
        self.not_read.count(kind);
    }

    pub(super) fn segment(&mut self, cut: bool) {
        self.segments += 1;
        self.cut += u64::from(cut);
    }
}
