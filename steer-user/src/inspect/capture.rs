//! Capture files, pcap and pcapng, as packets: one at a time, in bounded memory.

use std::{
    fmt,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use pcap_parser::{
    Block, Linktype, PcapBlockOwned, PcapError, create_reader,
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

/// Room for a packet at first, bytes.
const ROOM: usize = 1 << 16;
/// Largest packet or block that is read, bytes.
const ROOM_MAX: usize = 1 << 24;
/// Interfaces of a pcapng section that are told apart; packets of others are passed over.
const INTERFACES_MAX: usize = 1 << 16;

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
            Self::NoCapture => "no capture: neither pcap nor pcapng",
            Self::Unreadable => "cannot be read",
        })
    }
}

/// How a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// A capture file being read.
pub(super) struct Capture {
    reader: Box<dyn PcapReaderIterator + Send>,
    failed: Failed,
    room: usize,
    interfaces: Vec<Interface>,
}

/// What a pcapng file says of an interface, or a pcap file of all its packets.
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
        let failed = Failed::default();
        match create_reader(ROOM, Full { file, failed: failed.clone() }) {
            Ok(reader) => Ok(Self { reader, failed, room: ROOM, interfaces: Vec::new() }),
            Err(_) if failed.is_set() => Err(Refused::Unreadable),
            Err(_) => Err(Refused::NoCapture),
        }
    }

    /// Hands every packet with its link type to `take`.
    pub(super) fn for_each<E>(&mut self, mut take: impl FnMut(u16, &[u8]) -> Result<(), E>) -> Result<Ending, E> {
        loop {
            match self.step(&mut take)? {
                Next::Consume(len) => self.reader.consume(len),
                Next::Refill if self.refill() => {}
                Next::Grow if self.grow() && self.refill() => {}
                Next::Refill | Next::Grow => return Ok(Ending::Damaged),
                Next::End(_) if self.failed.is_set() => return Ok(Ending::Unreadable),
                Next::End(ending) => return Ok(ending),
            }
        }
    }

    fn step<E>(&mut self, take: &mut impl FnMut(u16, &[u8]) -> Result<(), E>) -> Result<Next, E> {
        let next = match self.reader.next() {
            Ok((len, block)) => {
                if let Some((link, bytes)) = packet(&mut self.interfaces, &block) {
                    take(link, bytes)?;
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
            Next::End(Ending::Truncated) if self.reader.data().is_empty() => Next::End(Ending::Whole),
            next => next,
        })
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

/// The packet in a block, if it is one.
fn packet<'a>(interfaces: &mut Vec<Interface>, block: &'a PcapBlockOwned<'_>) -> Option<(u16, &'a [u8])> {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            *interfaces = vec![Interface::new(header.network, header.snaplen)];
            None
        }
        PcapBlockOwned::Legacy(packet) => Some((interfaces.first()?.link, packet.data)),
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            None
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            if interfaces.len() < INTERFACES_MAX {
                interfaces.push(Interface::new(interface.linktype, interface.snaplen));
            }
            None
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            Some((interfaces.get(packet.if_id as usize)?.link, packet.packet_data()))
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let interface = interfaces.first()?;
            let bytes = packet.packet_data();
            // Its length is the original one; what is behind the snap length is padding.
            let len = if interface.snap_len == 0 { bytes.len() } else { bytes.len().min(interface.snap_len as usize) };
            Some((interface.link, bytes.get(..len)?))
        }
        PcapBlockOwned::NG(_) => None,
    }
}

/// Whether reading failed.
#[derive(Clone, Default)]
struct Failed(Arc<AtomicBool>);

impl Failed {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads as much as there is room for, so that a pipe looks like a file. It ends where reading fails: what came before
/// is good.
struct Full<R> {
    file: R,
    failed: Failed,
}

impl<R: Read> Read for Full<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut have = 0;
        while let Some(room) = to.get_mut(have..).filter(|room| !room.is_empty() && !self.failed.is_set()) {
            match self.file.read(room) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.failed.set(),
            }
        }
        Ok(have)
    }
}
