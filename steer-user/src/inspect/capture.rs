//! Capture files, pcap and pcapng, as packets: one at a time, in bounded memory.

use std::{fmt, io::Read};

use pcap_parser::{
    Block, Linktype, PcapBlockOwned, PcapError, create_reader,
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

use super::{
    source::{Failed, Failure, Source},
    stamp::Clock,
};

/// Room for a packet at first, bytes.
const ROOM: usize = 1 << 16;
/// Largest packet or block that is read, bytes.
const ROOM_MAX: usize = 1 << 24;
/// Interfaces of a pcapng section that are told apart; packets of others are passed over.
const INTERFACES_MAX: usize = 1 << 16;
/// The block that held packets before pcapng had others (draft-ietf-opsawg-pcapng A).
const OBSOLETE_PACKET: u32 = 2;

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is neither pcap nor pcapng.
    NoCapture,
    /// Its first bytes cannot be read.
    Unreadable,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCapture => {
                "no capture: neither pcap nor pcapng, nor one of them packed by gzip"
            }
            Self::Unreadable => "cannot be read",
        })
    }
}

/// How a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// At the end of a packet.
    Whole,
    /// Inside a packet.
    Truncated,
    /// Lengths that cannot be, or a packet larger than 16 MiB: what follows is not read.
    Damaged,
    /// An error of the disk or the file system.
    Unreadable,
}

/// What a capture file holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item<'a> {
    /// A packet.
    Packet(Packet<'a>),
    /// A packet of an interface that the file does not describe.
    NoInterface,
    /// A block of a type that is not read.
    Block(u32),
    /// Nothing more is at hand: reading on may take as long as it takes.
    Waiting,
}

/// Why handing out packets stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The next packet is later than asked for: when, nanoseconds since 1970.
    Later(u64),
    /// There is nothing more.
    End(Ending),
}

/// A packet as it was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// Link type of the interface.
    pub(crate) link: u16,
    /// When, nanoseconds since 1970; `None` where the file does not say.
    pub(crate) time: Option<u64>,
    /// Length on the wire, bytes; 0: the file does not say.
    pub(crate) wire_len: u32,
    /// What was captured of it.
    pub(crate) bytes: &'a [u8],
}

/// A capture file being read.
pub(crate) struct Capture {
    reader: Box<dyn PcapReaderIterator + Send>,
    failed: Failed,
    room: usize,
    section: Section,
}

/// What a pcapng section says of its packets, or a pcap file of all.
#[derive(Default)]
struct Section {
    big_endian: bool,
    interfaces: Vec<Interface>,
}

/// An interface that packets were captured at.
#[derive(Clone, Copy)]
struct Interface {
    link: u16,
    snap_len: u32,
    clock: Clock,
}

impl Interface {
    /// The upper bits of a pcap file's field are about frame check sequences.
    fn new(link: Linktype, snap_len: u32, clock: Clock) -> Self {
        Self { link: link.0 as u16, snap_len, clock }
    }
}

/// What to do before the next look.
enum Next {
    /// The packet at hand is later than asked for.
    Later(u64),
    Consume(usize),
    Refill,
    Grow,
    End(Ending),
}

impl Capture {
    /// Looks at the first bytes.
    pub(crate) fn open(file: impl Read + Send + 'static) -> Result<Self, Refused> {
        let (source, failed) = Source::open(file, ROOM_MAX);
        let room = ROOM.max(source.looked_at() + 1);
        match create_reader(room, source) {
            Ok(reader) => Ok(Self { reader, failed, room, section: Section::default() }),
            Err(_) if failed.get() == Failure::Unreadable => Err(Refused::Unreadable),
            Err(_) => Err(Refused::NoCapture),
        }
    }

    /// Hands everything in it to `take`.
    pub(super) fn for_each<E>(
        &mut self,
        take: impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<Ending, E> {
        match self.for_each_until(u64::MAX, take)? {
            Until::Later(_) => Ok(Ending::Whole),
            Until::End(ending) => Ok(ending),
        }
    }

    /// Hands to `take` what comes before the first packet that is later than `last`, nanoseconds
    /// since 1970. That one comes first the next time.
    pub(crate) fn for_each_until<E>(
        &mut self,
        last: u64,
        mut take: impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<Until, E> {
        loop {
            match self.step(last, &mut take)? {
                Next::Later(time) => return Ok(Until::Later(time)),
                Next::Consume(len) => self.reader.consume(len),
                Next::Refill => {
                    take(Item::Waiting)?;
                    if !self.refill() {
                        return Ok(Until::End(Ending::Damaged));
                    }
                }
                Next::Grow if self.grow() && self.refill() => {}
                Next::Grow => return Ok(Until::End(Ending::Damaged)),
                Next::End(ending) => return Ok(Until::End(self.ending(ending))),
            }
        }
    }

    fn step<E>(
        &mut self,
        last: u64,
        take: &mut impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<Next, E> {
        let next = match self.reader.next() {
            Ok((len, block)) => match self.section.item(&block) {
                Some(Item::Packet(Packet { time: Some(time), .. })) if time > last => {
                    return Ok(Next::Later(time));
                }
                Some(item) => {
                    take(item)?;
                    Next::Consume(len)
                }
                None => Next::Consume(len),
            },
            Err(PcapError::Eof) => Next::End(Ending::Whole),
            Err(PcapError::Incomplete(_)) => Next::Refill,
            Err(PcapError::BufferTooSmall) => Next::Grow,
            Err(PcapError::UnexpectedEof) => Next::End(Ending::Truncated),
            Err(
                PcapError::ReadError
                | PcapError::HeaderNotRecognized
                | PcapError::NomError(..)
                | PcapError::OwnedNomError(..),
            ) => Next::End(Ending::Damaged),
        };
        Ok(match next {
            Next::End(Ending::Truncated) if self.reader.data().is_empty() => {
                Next::End(Ending::Whole)
            }
            next => next,
        })
    }

    /// What `ending` is, given what reading met.
    fn ending(&self, ending: Ending) -> Ending {
        match self.failed.get() {
            Failure::None => ending,
            Failure::Unreadable => Ending::Unreadable,
            Failure::Truncated => Ending::Truncated,
            Failure::Damaged => Ending::Damaged,
        }
    }

    /// Reads on; false where there is no room for a packet that large.
    fn refill(&mut self) -> bool {
        let before = self.reader.data().len();
        if self.reader.refill().is_err() {
            return false;
        }
        // Nothing came and nothing is over: there was no room.
        self.reader.data().len() != before || self.reader.reader_exhausted() || self.grow()
    }

    fn grow(&mut self) -> bool {
        self.room *= 2;
        self.room <= ROOM_MAX && self.reader.grow(self.room)
    }
}

impl Section {
    /// What a block holds, if anybody should know of it.
    fn item<'a>(&mut self, block: &'a PcapBlockOwned<'_>) -> Option<Item<'a>> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let clock = Clock::of_pcap(header.is_nanosecond_precision());
                self.interfaces = vec![Interface::new(header.network, header.snaplen, clock)];
                None
            }
            PcapBlockOwned::Legacy(packet) => {
                let stamp = |interface: &Interface| {
                    interface.clock.split(packet.ts_sec.into(), packet.ts_usec.into())
                };
                Some(self.packet(0, stamp, packet.origlen, packet.data))
            }
            PcapBlockOwned::NG(Block::SectionHeader(header)) => {
                *self = Self { big_endian: header.big_endian(), interfaces: Vec::new() };
                None
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                if self.interfaces.len() < INTERFACES_MAX {
                    // The crate reads the offset little-endian whatever the section is.
                    let offset = interface.if_tsoffset;
                    let offset = if self.big_endian { offset.swap_bytes() } else { offset };
                    let clock = Clock::of_pcapng(interface.if_tsresol, offset);
                    let link = interface.linktype;
                    self.interfaces.push(Interface::new(link, interface.snaplen, clock));
                }
                None
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                let stamp = |interface: &Interface| interface.clock.whole(ticks);
                Some(self.packet(packet.if_id, stamp, packet.origlen, packet.packet_data()))
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                Some(self.simple_packet(packet.packet_data()))
            }
            // Names, statistics, keys and logs.
            PcapBlockOwned::NG(
                Block::NameResolution(_)
                | Block::InterfaceStatistics(_)
                | Block::SystemdJournalExport(_)
                | Block::DecryptionSecrets(_)
                | Block::ProcessInformation(_),
            ) => None,
            PcapBlockOwned::NG(Block::Custom(block)) => {
                Some(Item::Block(self.number(block.block_type.to_le_bytes())))
            }
            PcapBlockOwned::NG(Block::Unknown(block)) => {
                match self.number(block.block_type.to_le_bytes()) {
                    OBSOLETE_PACKET => Some(
                        self.obsolete_packet(block.data).unwrap_or(Item::Block(OBSOLETE_PACKET)),
                    ),
                    number => Some(Item::Block(number)),
                }
            }
        }
    }

    fn packet<'a>(
        &self,
        interface: u32,
        stamp: impl Fn(&Interface) -> Option<u64>,
        wire_len: u32,
        bytes: &'a [u8],
    ) -> Item<'a> {
        let Some(interface) = self.interfaces.get(interface as usize) else {
            return Item::NoInterface;
        };
        let time = stamp(interface);
        Item::Packet(Packet { link: interface.link, time, wire_len, bytes })
    }

    /// Its length is the original one; what is behind the snap length is padding.
    fn simple_packet<'a>(&self, bytes: &'a [u8]) -> Item<'a> {
        let Some(interface) = self.interfaces.first() else { return Item::NoInterface };
        let len = if interface.snap_len == 0 {
            bytes.len()
        } else {
            bytes.len().min(interface.snap_len as usize)
        };
        let wire_len = bytes.len() as u32;
        Item::Packet(Packet { link: interface.link, time: None, wire_len, bytes: &bytes[..len] })
    }

    /// Interface 2 bytes, drops 2, time 8, captured length 4, original length 4, the packet.
    fn obsolete_packet<'a>(&self, block: &'a [u8]) -> Option<Item<'a>> {
        const HEADER: usize = 20;
        let (header, bytes) = block.split_first_chunk::<HEADER>()?;
        let interface = [header[0], header[1]];
        let interface = if self.big_endian {
            u16::from_be_bytes(interface)
        } else {
            u16::from_le_bytes(interface)
        };
        let number =
            |at: usize| self.number([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let ticks = u64::from(number(4)) << 32 | u64::from(number(8));
        let stamp = |interface: &Interface| interface.clock.whole(ticks);
        let bytes = bytes.get(..number(12) as usize)?;
        Some(self.packet(u32::from(interface), stamp, number(16), bytes))
    }

    /// A number as the section writes it.
    fn number(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}
