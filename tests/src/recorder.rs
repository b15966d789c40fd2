//! Captures of what passes on an interface, as pcap files: what `steer assess` reads.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use crate::{frames::Tap, netns::NetNs};

/// How often a recorder looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Records one interface until [`Recorder::stop`].
pub struct Recorder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize>>,
}

impl Recorder {
    /// Begins to record to a file, with times to a nanosecond.
    ///
    /// # Errors
    /// When the interface or the file cannot be opened.
    pub fn start(ns: &NetNs, interface: &str, file: &Path) -> Result<Self> {
        let tap = Tap::open(ns, interface)?;
        let file = File::create(file).with_context(|| format!("create {}", file.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let thread = thread::spawn(move || record(&tap, file, &until));
        Ok(Self { stop, thread })
    }

    /// Ends it; how many frames there are.
    ///
    /// # Errors
    /// When it could not read or write.
    pub fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the recorder panicked"))?
    }
}

fn record(tap: &Tap, file: File, stop: &AtomicBool) -> Result<usize> {
    tap.enlarge()?;
    let mut file = BufWriter::new(file);
    file.write_all(&header())?;
    let (mut n_frames, mut buffer) = (0, vec![0; 1 << 18]);
    loop {
        // What waits in the socket belongs to the record as well.
        let last = stop.load(Ordering::Relaxed);
        while let Some((at, len)) = tap.receive(LOOK, &mut buffer)? {
            file.write_all(&packet(at, &buffer[..len]))?;
            n_frames += 1;
        }
        if last {
            file.flush()?;
            return Ok(n_frames);
        }
    }
}

/// The header of a pcap file of Ethernet frames, with nanoseconds.
pub fn header() -> Vec<u8> {
    [0xa1b2_3c4d, 0x0004_0002, 0, 0, 0x4_0000, 1].map(u32::to_le_bytes).concat()
}

/// A frame of that file, captured so long after 1970, with its header.
pub fn packet(at: Duration, frame: &[u8]) -> Vec<u8> {
    let len = frame.len() as u32;
    let head = [at.as_secs() as u32, at.subsec_nanos(), len, len].map(u32::to_le_bytes);
    [&head.concat(), frame].concat()
}

/// The frames of such a file, each with its header.
///
/// # Errors
/// When it cannot be read.
pub fn packets(file: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let mut rest = bytes.get(header().len()..).unwrap_or_default();
    let mut packets = Vec::new();
    while let Some(len) = rest.get(8..12).and_then(|len| len.first_chunk::<4>()) {
        let (packet, behind) = rest
            .split_at_checked(16 + u32::from_le_bytes(*len) as usize)
            .context("the file ends in a packet")?;
        packets.push(packet.to_vec());
        rest = behind;
    }
    Ok(packets)
}
