//! What was not read, by kind and how often: nothing that a capture holds is passed over in
//! silence.

mod names;

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, Serializer, ser::SerializeSeq as _};

/// Kinds that are told apart; those beyond count as one.
const KINDS_MAX: usize = 1024;

/// Why a frame is no TCP segment, or a block of a file no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A link type of a capture file.
    LinkType(u16),
    /// An EtherType.
    EtherType(u16),
    /// A service access point of IEEE 802.2.
    Llc(u8),
    /// A protocol of an organization behind SNAP.
    Snap(u32, u16),
    /// A protocol of PPP.
    Ppp(u16),
    /// An IP protocol number.
    IpProtocol(u8),
    /// What is sent to this UDP port.
    Udp(u16),
    /// A fragment of an IP datagram that is not its first one.
    Fragment,
    /// It ends within a header: it was captured in part.
    Cut,
    /// A header of this protocol says what cannot be.
    Malformed(&'static str),
    /// More headers than any network has.
    Deep,
    /// Something else, by its name.
    Other(&'static str),
    /// Of an interface that the file does not describe.
    NoInterface,
    /// A type of block of a pcapng file.
    Block(u32),
    /// There were too many kinds.
    More,
}

/// How often each kind was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: BTreeMap<Kind, u64>,
}

impl Tally {
    /// Counts one.
    pub(crate) fn count(&mut self, kind: Kind) {
        let is_new = self.counts.len() >= KINDS_MAX && !self.counts.contains_key(&kind);
        *self.counts.entry(if is_new { Kind::More } else { kind }).or_default() += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How often this kind was met.
    pub fn of(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// Kinds and counts, the most frequent first.
    pub fn by_count(&self) -> Vec<(Kind, u64)> {
        let mut counts: Vec<_> = self.counts.iter().map(|(kind, n)| (*kind, *n)).collect();
        counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        counts
    }
}

/// As a list: `7 IP protocol 50 (ESP), 2 EtherType 0x88e5 (MACsec)`.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Kinds that are named; a line has an end.
        const NAMED: usize = 12;
        let counts = self.by_count();
        for (index, (kind, n)) in counts.iter().take(NAMED).enumerate() {
            write!(f, "{}{n} {kind}", if index == 0 { "" } else { ", " })?;
        }
        let rest = counts.iter().skip(NAMED);
        match rest.clone().count() {
            0 => Ok(()),
            kinds => write!(f, ", {} of {kinds} other kinds", rest.map(|(_, n)| n).sum::<u64>()),
        }
    }
}

impl Serialize for Tally {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Line {
            kind: &'static str,
            number: Option<u32>,
            name: Option<&'static str>,
            count: u64,
        }
        let counts = self.by_count();
        let mut lines = serializer.serialize_seq(Some(counts.len()))?;
        for (kind, count) in counts {
            lines.serialize_element(&Line {
                kind: kind.word(),
                number: kind.number(),
                name: kind.name(),
                count,
            })?;
        }
        lines.end()
    }
}

impl Kind {
    /// What it is, in a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::LinkType(_) => "link-type",
            Self::EtherType(_) => "ether-type",
            Self::Llc(_) => "llc",
            Self::Snap(..) => "snap",
            Self::Ppp(_) => "ppp-protocol",
            Self::IpProtocol(_) => "ip-protocol",
            Self::Udp(_) => "udp-port",
            Self::Fragment => "fragment",
            Self::Cut => "cut",
            Self::Malformed(_) => "malformed",
            Self::Deep => "deep",
            Self::Other(_) => "other",
            Self::NoInterface => "no-interface",
            Self::Block(_) => "block-type",
            Self::More => "more",
        }
    }

    /// Its number, where it has one.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::LinkType(number)
            | Self::EtherType(number)
            | Self::Ppp(number)
            | Self::Udp(number) => Some(number.into()),
            Self::Llc(number) | Self::IpProtocol(number) => Some(number.into()),
            Self::Snap(_, number) => Some(number.into()),
            Self::Block(number) => Some(number),
            Self::Fragment
            | Self::Cut
            | Self::Malformed(_)
            | Self::Deep
            | Self::Other(_)
            | Self::NoInterface
            | Self::More => None,
        }
    }

    /// What people call it, where it is known.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::LinkType(number) => names::link_type(number),
            Self::EtherType(number) => names::ether_type(number),
            Self::Llc(number) => names::llc(number),
            Self::Ppp(number) => names::ppp(number),
            Self::IpProtocol(number) => names::ip_protocol(number),
            Self::Udp(number) => names::udp_port(number),
            Self::Block(number) => names::block(number),
            Self::Malformed(name) | Self::Other(name) => Some(name),
            Self::Snap(..)
            | Self::Fragment
            | Self::Cut
            | Self::Deep
            | Self::NoInterface
            | Self::More => None,
        }
    }

    /// Whether it is known for what it is.
    pub(super) fn has_name(self) -> bool {
        self.name().is_some()
    }

    /// Whether it is known to hold no TCP of hosts.
    pub(super) fn holds_no_tcp(self) -> bool {
        match self {
            Self::EtherType(number) => names::ETHER_TYPES_WITHOUT_TCP.contains(&number),
            Self::Llc(number) => names::LLC_WITHOUT_TCP.contains(&number),
            Self::IpProtocol(number) => names::IP_PROTOCOLS_WITHOUT_TCP.contains(&number),
            _ => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkType(number) => write!(f, "link type {number}"),
            Self::EtherType(number) => write!(f, "EtherType {number:#06x}"),
            Self::Llc(number) => write!(f, "LLC {number:#04x}"),
            Self::Snap(organization, number) => write!(f, "SNAP {organization:06x} {number:#06x}"),
            Self::Ppp(number) => write!(f, "PPP protocol {number:#06x}"),
            Self::IpProtocol(number) => write!(f, "IP protocol {number}"),
            Self::Udp(number) => write!(f, "UDP port {number}"),
            Self::Block(number) => write!(f, "block type {number:#010x}"),
            Self::Fragment => f.write_str("IP fragment"),
            Self::Cut => f.write_str("cut within a header"),
            Self::Malformed(name) => return write!(f, "malformed {name} header"),
            Self::Deep => f.write_str("with too many headers"),
            Self::Other(name) => return f.write_str(name),
            Self::NoInterface => f.write_str("of an interface that the file does not describe"),
            Self::More => f.write_str("of further kinds"),
        }?;
        self.name().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}
