//! The header that a proxy or balancer puts in front of a stream to say whose it is: "The PROXY
//! protocol" of HAProxy (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>), section 2,
//! versions 1 and 2.
//!
//! Only its length is read: what stands behind it is what the client itself sent. What the header
//! announces is the backend's to judge, so nothing is refused here that HAProxy or nginx take.

/// Longest header of version 1, bytes with its CRLF (section 2.1).
pub const V1_MAX: u32 = 107;
/// Longest header that is skipped, bytes; 16 and their type-length-values are 300 with all that is
/// registered.
pub const HEADER_MAX: u32 = 4096;

/// How a header of version 1 begins (section 2.1); the space is of it, so that no other word begins
/// with it.
const V1_SIGNATURE: [u8; 6] = *b"PROXY ";
/// How a header of version 2 begins (section 2.2).
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Length of what stands in front of the addresses of version 2, bytes.
const V2_FIXED: u32 = 16;
/// Where version and command stand.
const V2_COMMAND_AT: usize = 12;
/// Where the length of what follows stands, 16 bits, big-endian.
const V2_LENGTH_AT: usize = 14;
/// Version 2, in the upper bits of its byte; the lower ones are a command: LOCAL 0, PROXY 1.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

/// What the first bytes of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Too few bytes to tell, or to hold the header.
    NeedMore,
    /// No header: the stream begins with what the client sent.
    NotProxy,
    /// It begins as a header does and goes on as none may, or is longer than [`HEADER_MAX`].
    Malformed,
    /// A header, which is all there: what the client sent begins at byte `len`, at most
    /// [`HEADER_MAX`].
    Header {
        /// Length, bytes; not more than were at hand.
        len: u32,
    },
}

/// Judges the first `have` bytes of a stream; `b` reads one of them, below [`V1_MAX`].
#[inline(always)]
pub fn start(b: impl Fn(usize) -> u8, have: u32) -> Start {
    if have == 0 {
        return Start::NeedMore;
    }
    // A ClientHello differs in its first byte already.
    let first = b(0);
    if first == V2_SIGNATURE[0] {
        version_2(&b, have)
    } else if first == V1_SIGNATURE[0] {
        version_1(&b, have)
    } else {
        Start::NotProxy
    }
}

#[inline(always)]
fn version_2(b: &impl Fn(usize) -> u8, have: u32) -> Start {
    match compare(b, have, 0, &V2_SIGNATURE) {
        Compared::Same => {}
        Compared::Cut => return Start::NeedMore,
        Compared::Other => return Start::NotProxy,
    }
    if have > V2_COMMAND_AT as u32 && !matches!(b(V2_COMMAND_AT), V2_LOCAL | V2_PROXY) {
        return Start::Malformed;
    }
    // The next byte is the family of the addresses; servers skip those that they do not know by
    // their length.
    if have < V2_FIXED {
        return Start::NeedMore;
    }
    let len = V2_FIXED + u16::from_be_bytes([b(V2_LENGTH_AT), b(V2_LENGTH_AT + 1)]) as u32;
    if len > HEADER_MAX {
        Start::Malformed
    } else if len > have {
        Start::NeedMore
    } else {
        Start::Header { len }
    }
}

#[inline(always)]
fn version_1(b: &impl Fn(usize) -> u8, have: u32) -> Start {
    match compare(b, have, 0, &V1_SIGNATURE) {
        Compared::Same => {}
        Compared::Cut => return Start::NeedMore,
        Compared::Other => return Start::NotProxy,
    }
    match family(b, have) {
        Compared::Same => {}
        Compared::Cut => return Start::NeedMore,
        Compared::Other => return Start::Malformed,
    }
    // The first CR ends the line, with the LF behind it; neither stands alone (section 2.1).
    for at in V1_SIGNATURE.len()..V1_MAX as usize - 1 {
        if at as u32 >= have {
            return Start::NeedMore;
        }
        match b(at) {
            b'\r' if at as u32 + 1 >= have => return Start::NeedMore,
            b'\r' if b(at + 1) == b'\n' => return Start::Header { len: at as u32 + 2 },
            b'\r' | b'\n' => return Start::Malformed,
            _ => {}
        }
    }
    Start::Malformed
}

/// Compares what stands behind the signature of version 1 with the words that may.
#[inline(always)]
fn family(b: &impl Fn(usize) -> u8, have: u32) -> Compared {
    const AT: usize = V1_SIGNATURE.len();
    match compare(b, have, AT, b"TCP") {
        Compared::Same if AT as u32 + 3 >= have => Compared::Cut,
        Compared::Same if b(AT + 3) == b'4' || b(AT + 3) == b'6' => compare(b, have, AT + 4, b" "),
        Compared::Other => compare(b, have, AT, b"UNKNOWN"),
        Compared::Same => Compared::Other,
        Compared::Cut => Compared::Cut,
    }
}

/// How the bytes at hand compare with those expected.
#[derive(Clone, Copy)]
enum Compared {
    /// They are all there.
    Same,
    /// They begin alike and end before.
    Cut,
    /// One differs.
    Other,
}

#[inline(always)]
fn compare<const N: usize>(
    b: &impl Fn(usize) -> u8,
    have: u32,
    at: usize,
    expected: &[u8; N],
) -> Compared {
    for (i, byte) in expected.iter().enumerate() {
        if (at + i) as u32 >= have {
            return Compared::Cut;
        }
        if b(at + i) != *byte {
            return Compared::Other;
        }
    }
    Compared::Same
}
