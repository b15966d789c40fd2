//! Where a capture's bytes come from: a file or a pipe, perhaps packed by gzip.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use flate2::read::MultiGzDecoder;

/// How a packed file begins (RFC 1952 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// How a section of a pcapng file begins.
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// What says in which byte order the section is, where it stands in it.
const BYTE_ORDER: [u8; 4] = [0x1a, 0x2b, 0x3c, 0x4d];
const BYTE_ORDER_AT: usize = 8;
/// Length of a pcap file's header, bytes.
const PCAP_HEADER: usize = 24;

/// Why reading ended before the end.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It did not.
    None,
    /// An error of the disk or the file system.
    Unreadable,
    /// What is packed ends in its middle.
    Truncated,
    /// What is packed is damaged.
    Damaged,
}

/// What went wrong first, shared by whoever reads and whoever asks.
#[derive(Clone, Default)]
pub(super) struct Failed(Arc<AtomicU8>);

impl Failed {
    /// What went wrong.
    pub(super) fn get(&self) -> Failure {
        const FAILURES: [Failure; 4] =
            [Failure::None, Failure::Unreadable, Failure::Truncated, Failure::Damaged];
        FAILURES[usize::from(self.0.load(Ordering::Relaxed)) & 3]
    }

    fn set(&self, failure: Failure) {
        let _ = self.0.compare_exchange(0, failure as u8, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Bytes of a capture. They end where reading fails: what came before is good.
pub(super) struct Source {
    /// What was read to see what it is.
    head: Vec<u8>,
    /// How much of it was handed out.
    handed_out: usize,
    rest: Box<dyn Read + Send>,
}

impl Source {
    /// Reads the first bytes, at most `most` of them, and as many as a reader of captures wants to
    /// see at once.
    pub(super) fn open(file: impl Read + Send + 'static, most: usize) -> (Self, Failed) {
        let failed = Failed::default();
        let file = Careful { inner: file, failed: failed.clone(), packed: false };
        let mut source = Self { head: Vec::new(), handed_out: 0, rest: Box::new(file) };
        source.look(GZIP.len());
        if source.head.starts_with(&GZIP) {
            let unpacked = MultiGzDecoder::new(source);
            let unpacked = Careful { inner: unpacked, failed: failed.clone(), packed: true };
            source = Self { head: Vec::new(), handed_out: 0, rest: Box::new(unpacked) };
        }
        source.look(PCAP_HEADER);
        if let Some(len) = section_len(&source.head) {
            source.look(len.min(most));
        }
        (source, failed)
    }

    /// How many bytes were looked at.
    pub(super) fn looked_at(&self) -> usize {
        self.head.len()
    }

    /// Reads until `len` bytes are there to be looked at, or no more come.
    fn look(&mut self, len: usize) {
        let missing = len.saturating_sub(self.head.len()) as u64;
        // An error is the end, as for everybody.
        let _ = (&mut self.rest).take(missing).read_to_end(&mut self.head);
    }
}

/// The length of a section header, if this is one.
fn section_len(head: &[u8]) -> Option<usize> {
    let len = *head.get(4..)?.first_chunk()?;
    let is_big = head.get(BYTE_ORDER_AT..)?.starts_with(&BYTE_ORDER);
    let len = if is_big { u32::from_be_bytes(len) } else { u32::from_le_bytes(len) };
    head.starts_with(&SECTION).then_some(len as usize)
}

impl Read for Source {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut held = &self.head[self.handed_out..];
        if held.is_empty() {
            return self.rest.read(to);
        }
        let n = held.read(to)?;
        self.handed_out += n;
        Ok(n)
    }
}

/// A reader that notes what goes wrong, and is at its end from then on.
struct Careful<R> {
    inner: R,
    failed: Failed,
    /// Whether errors are those of unpacking.
    packed: bool,
}

impl<R: Read> Read for Careful<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.failed.get() == Failure::None {
            match self.inner.read(to) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.packed && error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.failed.set(Failure::Truncated);
                }
                Err(_) => self.failed.set(if self.packed {
                    Failure::Damaged
                } else {
                    Failure::Unreadable
                }),
                read => return read,
            }
        }
        Ok(0)
    }
}
