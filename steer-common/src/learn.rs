//! When a backend's answer counts: what was seen in its first flight is held until it has authenticated the client.
//!
//! A ServerHello names a session, but anyone may ask for one. Only the backend's ChangeCipherSpec (TLS 1.2 and below:
//! RFC 5246 7.1, after the client's Finished) says that the client was who the backend wanted. Records are followed by
//! their boundaries, so that bytes of a certificate that look like one are never taken for it.

use crate::{
    counters::Counter,
    wire::tls::server_flight::{RECORD_LOOK, Record, record},
};

/// Bytes of a backend's stream after which nothing more is expected of its handshake.
pub const GIVE_UP: u32 = 64 * 1024;

/// Records that are looked at in one segment.
pub const RECORDS_PER_SEGMENT: u32 = 8;

/// Where to look in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Offset of the record in the segment's payload, bytes.
    pub at: u32,
    /// Whether bytes before the segment are missing: its first byte is taken for a record's, and little is believed.
    pub behind: bool,
}

/// Finds the next record of a stream in a segment that starts at `seq`; both numbers are the backend's own.
#[inline(always)]
pub const fn place(next_record: u32, seq: u32) -> Place {
    let ahead = next_record.wrapping_sub(seq);
    if (ahead as i32) < 0 { Place { at: 0, behind: true } } else { Place { at: ahead, behind: false } }
}

/// What a record means for what is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lesson {
    /// The client is authenticated: what is held is true.
    Publish,
    /// Nothing yet: the next record starts so many bytes further.
    Follow(u32),
    /// Nothing can be said about this segment.
    Ignore,
    /// Nothing will come any more.
    End(Option<Counter>),
}

/// Judges the record at `place`, by its first bytes.
#[inline(always)]
pub fn lesson(place: Place, look: &[u8; RECORD_LOOK]) -> Lesson {
    let (record, len) = record(look);
    match (record, place.behind) {
        (Record::ChangeCipherSpec, _) => Lesson::Publish,
        // A ticket is issued to a client that was authenticated (RFC 5077 3.3); its ChangeCipherSpec follows.
        (Record::NewSessionTicket, true) => Lesson::Publish,
        (_, true) => Lesson::Ignore,
        (Record::Handshake | Record::NewSessionTicket, false) => Lesson::Follow(len as u32),
        (Record::Alert, false) => Lesson::End(Some(Counter::NotAuthenticated)),
        (Record::ApplicationData | Record::Unknown, false) => Lesson::End(None),
    }
}
