//! Capture files, pcap and pcapng, as packets: one at a time, in bounded memory.

use std::{fmt, io::Read};

use pcap_parser::{
    Block, Linktype, PcapBlockOwned, PcapError, create_reader,
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

use super::source::{Failed, Failure, Source};

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
pub(super) enum Item<'a> {
    /// A packet of this link type.
    Packet(u16, &'a [u8]),
    /// A packet of an interface that the file does not describe.
    NoInterface,
    /// A block of a type that is not read.
    Block(u32),
    /// Nothing more is at hand: reading on may take as long as it takes.
    Waiting,
}

/// A capture file being read.
pub(super) struct Capture {
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
}

impl Interface {
    /// The upper bits of a pcap file's field are about frame check sequences.
    fn new(link: Linktype, snap_len: u32) -> Self {
        Self { link: link.0 as u16, snap_len }
    }
}

/// What to do before the next look.
enum Next {
    Consume(usize),
    Refill,
    Grow,
    End(Ending),
}

impl Capture {
    /// Looks at the first bytes.
    pub(super) fn open(file: impl Read + Send + 'static) -> Result<Self, Refused> {
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
        mut take: impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<Ending, E> {
        loop {
            match self.step(&mut take)? {
                Next::Consume(len) => self.reader.consume(len),
                Next::Refill => {
                    take(Item::Waiting)?;
                    if !self.refill() {
                        return Ok(Ending::Damaged);
                    }
                }
                Next::Grow if self.grow() && self.refill() => {}
                Next::Grow => return Ok(Ending::Damaged),
                Next::End(ending) => return Ok(self.ending(ending)),
            }
        }
    }

    fn step<E>(&mut self, take: &mut impl FnMut(Item<'_>) -> Result<(), E>) -> Result<Next, E> {
        let next = match self.reader.next() {
            Ok((len, block)) => {
                if let Some(item) = self.section.item(&block) {
                    take(item)?;
                }
                Next::Consume(len)
            }
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
                self.interfaces = vec![Interface::new(header.network, header.snaplen)];
                None
            }
            PcapBlockOwned::Legacy(packet) => Some(self.packet(0, packet.data)),
            PcapBlockOwned::NG(Block::SectionHeader(header)) => {
                *self = Self { big_endian: header.big_endian(), interfaces: Vec::new() };
                None
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                if self.interfaces.len() < INTERFACES_MAX {
                    self.interfaces.push(Interface::new(interface.linktype, interface.snaplen));
                }
                None
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                Some(self.packet(packet.if_id, packet.packet_data()))
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

    fn packet<'a>(&self, interface: u32, bytes: &'a [u8]) -> Item<'a> {
        self.interfaces
            .get(interface as usize)
            .map_or(Item::NoInterface, |interface| Item::Packet(interface.link, bytes))
    }

    /// Its length is the original one; what is behind the snap length is padding.
    fn simple_packet<'a>(&self, bytes: &'a [u8]) -> Item<'a> {
        let Some(interface) = self.interfaces.first() else { return Item::NoInterface };
        let len = if interface.snap_len == 0 {
            bytes.len()
        } else {
            bytes.len().min(interface.snap_len as usize)
        };
        Item::Packet(interface.link, &bytes[..len])
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
        let len = self.number([header[12], header[13], header[14], header[15]]) as usize;
        Some(self.packet(u32::from(interface), bytes.get(..len)?))
    }

    /// A number as the section writes it.
    fn number(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}
