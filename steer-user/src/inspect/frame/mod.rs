//! Frames of a capture as TCP segments, through whatever they are wrapped in.
//!
//! A frame is walked over one header at a time: [`link`] says what its first one is, and each
//! header what is behind it, in any order. Nothing is copied. What the walk passes by that tells
//! tunnels apart is noted in a [`Path`].

mod ethernet;
mod gre;
mod ip;
mod link;
mod mpls;
mod path;
mod ppp;
mod udp;
mod wireless;

use std::net::SocketAddr;

use super::unread::Kind;

pub(crate) use path::Path;

/// Headers that are walked over; no network wraps as deep.
const DEPTH_MAX: usize = 32;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A TCP segment.
    Tcp(Segment<'a>),
    /// Something that is read, and is no TCP.
    NoTcp(Kind),
    /// Something that is not read; there may be TCP in it.
    Unread(Kind),
}

/// A TCP segment, as much of it as was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// Any of [`steer_common::wire::tcp::flags`].
    pub(crate) flags: u8,
    /// The window as on the wire, not scaled.
    pub(crate) window: u16,
    /// The AE bit, which asks for AccECN in a SYN (RFC 9768).
    pub(crate) accurate_ecn: bool,
    /// The options, unless the capture ends inside them.
    pub(crate) options: Option<&'a [u8]>,
    pub(crate) payload: &'a [u8],
    /// The tags and tunnels it was found in.
    pub(crate) path: Path,
}

impl Segment<'_> {
    /// Whether all of `bits` are set.
    pub(crate) fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }
}

/// What is to be read next.
enum Next<'a> {
    /// A frame of this link type.
    Link(u16, &'a [u8]),
    /// An Ethernet header.
    Ethernet(&'a [u8]),
    /// What this EtherType says; below 0x600 it is the length of an LLC header and what it heads.
    EtherType(u16, &'a [u8]),
    /// An LLC header (IEEE 802.2).
    Llc(&'a [u8]),
    /// A PPP header.
    Ppp(&'a [u8]),
    /// A stack of MPLS labels.
    Mpls(&'a [u8]),
    /// An IEEE 802.11 header.
    Wireless(&'a [u8]),
    /// An IP header of either version.
    Ip(&'a [u8]),
    /// What this IP protocol number says.
    Transport(u8, &'a [u8]),
    /// A TCP header: the last one.
    Tcp(&'a [u8]),
    /// Nothing: it is no TCP.
    NoTcp(Kind),
    /// Nothing: it is not read.
    Unread(Kind),
}

impl Next<'_> {
    fn no_tcp(kind: Kind) -> Option<Self> {
        Some(Self::NoTcp(kind))
    }

    fn unread(kind: Kind) -> Option<Self> {
        Some(Self::Unread(kind))
    }

    /// The end, at something that has this number.
    fn end(kind: Kind) -> Option<Self> {
        Some(if kind.holds_no_tcp() { Self::NoTcp(kind) } else { Self::Unread(kind) })
    }
}

/// Reads a frame of this link type.
pub(crate) fn parse(link: u16, frame: &[u8]) -> Frame<'_> {
    let mut path = Path::default();
    let mut addresses = ip::Addresses::default();
    let mut next = Next::Link(link, frame);
    for _ in 0..DEPTH_MAX {
        let read = match next {
            Next::Link(link, bytes) => link::read(link, bytes),
            Next::Ethernet(bytes) => ethernet::header(bytes),
            Next::EtherType(number, bytes) => ethernet::behind(number, bytes, &mut path),
            Next::Llc(bytes) => ethernet::llc(bytes),
            Next::Ppp(bytes) => ppp::header(bytes),
            Next::Mpls(bytes) => mpls::labels(bytes, &mut path),
            Next::Wireless(bytes) => wireless::header(bytes),
            Next::Ip(bytes) => ip::header(bytes, &mut addresses),
            Next::Transport(number, bytes) => ip::behind(number, bytes, &addresses, &mut path),
            Next::Tcp(bytes) => return ip::segment(bytes, &addresses, path),
            Next::NoTcp(kind) => return Frame::NoTcp(kind),
            Next::Unread(kind) => return Frame::Unread(kind),
        };
        // What ends in the middle of a header was captured in part.
        let Some(read) = read else { return Frame::Unread(Kind::Cut) };
        next = read;
    }
    Frame::Unread(Kind::Deep)
}

/// The first `N` bytes, and those behind; `None` where there are not as many.
fn take<const N: usize>(bytes: &[u8]) -> Option<(&[u8; N], &[u8])> {
    bytes.split_first_chunk()
}

/// The big-endian number at `at`.
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
