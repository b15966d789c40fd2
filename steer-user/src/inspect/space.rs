//! Which of the connections between two sockets a segment belongs to: by the numbers that each has
//! come to, and by the tags and tunnels that each direction was seen in.
//!
//! Two sockets have one connection at a time, but a capture may show several: those of one port
//! used again, both sides of a firewall that changes numbers, networks with the same addresses.

use steer_common::wire::tcp::flags;

use super::frame::Segment;

/// How far from where a stream has come to a segment may be, bytes: more than any window that is in
/// use.
const NEAR: u32 = 1 << 24;
/// How much data a SYN may bring (RFC 7413), bytes: an IP packet's.
const SYN_DATA_MAX: u32 = 1 << 16;

/// Rank of a connection of which the other direction was seen in other tags or tunnels, and this
/// one nowhere yet.
const OTHER_PATH: u8 = 2;

/// What is remembered of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Number of its row.
    pub(crate) number: u64,
    /// When a packet of it was seen last; whoever reads it writes it, too.
    pub(crate) seen: u64,
    /// By a bit for each end in the order of its pair: it sent a FIN. A reset sets both.
    pub(crate) ended: u8,
    /// Nothing more is to be read of it; whoever reads it writes it, too.
    pub(crate) is_read: bool,
    /// Both ends, in the order of their [`super::known::Pair`].
    ends: [End; 2],
}

/// What is remembered of an end of a connection.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct End {
    /// Initial sequence number, where its SYN was seen.
    isn: Option<u32>,
    /// Bytes that came with that SYN.
    syn_data: u32,
    /// The lowest number that it was seen to send or the other end to acknowledge, but for its
    /// SYN's.
    first: Option<u32>,
    /// The number that it comes to next.
    next: Option<u32>,
    /// The tags and tunnels that it was seen in.
    path: Option<u64>,
}

/// Which connection a segment belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Belongs {
    /// The one at this index.
    To(usize),
    /// One that it begins.
    ToNone,
    /// None, and it brings nothing that another one could be known by.
    Stray,
}

/// Finds the segment's connection among those of its pair, in the order in which they began; `end`
/// sent it.
pub(crate) fn find(entries: &[Entry], end: usize, segment: &Segment<'_>) -> Belongs {
    let path = segment.path.digest();
    let candidates = entries.iter().enumerate().filter_map(|(index, entry)| {
        let rank = entry.rank(end, segment, path)?;
        // The newest one, or the one that has waited longest for packets of a direction that
        // nothing tells apart.
        let turn = if rank.0 == OTHER_PATH { index } else { entries.len() - index };
        Some((rank, turn, index))
    });
    match candidates.min() {
        Some((.., index)) => Belongs::To(index),
        None if entries.is_empty() || is_syn(segment) || !segment.payload.is_empty() => {
            Belongs::ToNone
        }
        None => Belongs::Stray,
    }
}

/// Whether a segment opens a connection or answers one that does.
pub(crate) fn is_syn(segment: &Segment<'_>) -> bool {
    segment.has(flags::SYN) && !segment.has(flags::RST)
}

impl Entry {
    /// Begins with the first segment that was seen.
    pub(crate) fn new(number: u64, end: usize, segment: &Segment<'_>) -> Self {
        let mut entry =
            Self { number, seen: 0, ended: 0, is_read: false, ends: Default::default() };
        entry.note(end, segment);
        entry
    }

    /// Whether both ends ended it.
    pub(crate) fn is_over(&self) -> bool {
        const BOTH: u8 = 3;
        self.ended == BOTH
    }

    /// How well a segment fits, less is better; `None`: it is of another connection.
    fn rank(&self, end: usize, segment: &Segment<'_>, path: u64) -> Option<(u8, u64)> {
        let (from, to) = (&self.ends[end], &self.ends[1 - end]);
        let path = match (from.path, to.path) {
            (Some(known), _) if known != path => return None,
            (Some(_), _) => 0,
            (None, Some(other)) if other != path => OTHER_PATH,
            (None, _) => 1,
        };
        let distance = if !is_syn(segment) {
            distance(from, to, segment)?
        } else if segment.has(flags::ACK) {
            u64::from(!answers(from, to, segment)?)
        } else {
            opens(from, segment).then_some(0)?
        };
        Some((path, distance))
    }

    /// Takes up what the segment says of both ends.
    pub(crate) fn note(&mut self, end: usize, segment: &Segment<'_>) {
        const BOTH: u8 = 3;
        if segment.has(flags::RST) {
            self.ended = BOTH;
        } else if segment.has(flags::FIN) {
            self.ended |= 1 << end;
        }
        let len = segment.payload.len() as u32;
        let first = segment.seq.wrapping_add(u32::from(segment.has(flags::SYN)));
        let from = &mut self.ends[end];
        from.path.get_or_insert(segment.path.digest());
        if is_syn(segment) {
            if from.isn.is_some_and(|isn| isn != segment.seq) {
                // It began again, before it sent anything.
                from.next = None;
            }
            (from.isn, from.syn_data) = (Some(segment.seq), from.syn_data.max(len));
        } else if !segment.has(flags::RST) {
            from.first = Some(from.first.map_or(first, |known| lower(known, first)));
        }
        if !segment.has(flags::RST) {
            come_to(&mut from.next, first.wrapping_add(len));
        }
        if segment.has(flags::ACK) {
            let to = &mut self.ends[1 - end];
            to.first.get_or_insert(segment.ack);
            come_to(&mut to.next, segment.ack);
        }
    }
}

/// Whether a SYN of `from` opens this connection: it is the one that did, or packets behind it were
/// captured before.
fn opens(from: &End, segment: &Segment<'_>) -> bool {
    let first = segment.seq.wrapping_add(1);
    match (from.isn, from.first) {
        (Some(isn), _) => isn == segment.seq,
        (None, Some(seen)) => seen.wrapping_sub(first) < SYN_DATA_MAX,
        (None, None) => false,
    }
}

/// Whether the answer of `from` to a SYN is of this connection, and if so, whether it is the answer
/// that was seen. It acknowledges the SYN and what came with it, or a part of that (RFC 7413 2.1).
fn answers(from: &End, to: &End, segment: &Segment<'_>) -> Option<bool> {
    let first = segment.seq.wrapping_add(1);
    let is_known = from.isn == Some(segment.seq);
    let acknowledges = match (to.isn, to.first) {
        (Some(isn), _) => segment.ack.wrapping_sub(isn.wrapping_add(1)) <= to.syn_data,
        (None, Some(seen)) => {
            let away = seen.wrapping_sub(segment.ack);
            away.min(away.wrapping_neg()) < SYN_DATA_MAX
        }
        (None, None) => true,
    };
    // A server that forgot the SYN, as with SYN cookies, may answer with another number, before it
    // sends anything.
    let may_begin = match from.isn {
        Some(isn) => is_known || from.next == Some(isn.wrapping_add(1)),
        None => {
            to.isn.is_some()
                || from.first.is_none_or(|seen| seen.wrapping_sub(first) < SYN_DATA_MAX)
        }
    };
    (acknowledges && may_begin).then_some(is_known)
}

/// How far a segment of `from` is from where both ends have come to, where it is near to either.
fn distance(from: &End, to: &End, segment: &Segment<'_>) -> Option<u64> {
    let away = |next: Option<u32>, number: u32| {
        let away = next?.wrapping_sub(number);
        Some(away.min(away.wrapping_neg()))
    };
    let sent = away(from.next, segment.seq);
    let acknowledged = if segment.has(flags::ACK) { away(to.next, segment.ack) } else { None };
    match (sent, acknowledged) {
        (None, None) => Some(u64::from(NEAR)),
        (sent, acknowledged) => {
            let nearest = sent.into_iter().chain(acknowledged).min()?;
            let sum = [sent, acknowledged].iter().map(|away| u64::from(away.unwrap_or(NEAR))).sum();
            (nearest < NEAR).then_some(sum)
        }
    }
}

/// The one of two numbers that comes before the other.
fn lower(a: u32, b: u32) -> u32 {
    if (b.wrapping_sub(a) as i32) < 0 { b } else { a }
}

/// A stream has come to `number`: further, or from elsewhere, where much of it was not captured.
fn come_to(next: &mut Option<u32>, number: u32) {
    let by = next.map_or(1, |next| number.wrapping_sub(next) as i32);
    if by > 0 || by.unsigned_abs() > NEAR {
        *next = Some(number);
    }
}
