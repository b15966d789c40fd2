//! One end of a conversation: what it says is a pattern, what it hears is compared with one.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail};
use socket2::SockRef;

use super::{PATIENCE, Who, wait_for};

/// One socket and the thread that listens to it.
pub(super) struct End {
    stream: TcpStream,
    /// What this side says.
    pattern: Pattern,
    said: u64,
    hearing: Arc<Hearing>,
}

#[derive(Default)]
struct Hearing {
    /// Bytes that arrived as they should.
    heard: AtomicU64,
    /// How the other side ended: `Ok` as it should.
    ended: Mutex<Option<Result<(), String>>>,
}

impl End {
    /// The end of `who` in conversation `id`.
    pub(super) fn new(stream: TcpStream, id: u64, who: Who) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let hearing = Arc::<Hearing>::default();
        let (mut ear, heard, expected) =
            (stream.try_clone()?, hearing.clone(), Pattern { id, who: who.other() });
        // It ends with the connection, which ends when this end is dropped.
        thread::spawn(move || heard.listen(&mut ear, expected));
        Ok(Self { stream, pattern: Pattern { id, who }, said: 0, hearing })
    }

    pub(super) fn said(&self) -> u64 {
        self.said
    }

    pub(super) fn local_address(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    pub(super) fn mss(&self) -> Result<u32> {
        Ok(SockRef::from(&self.stream).tcp_mss()?)
    }

    pub(super) fn say(&mut self, len: usize) -> Result<()> {
        let bytes = self.pattern.bytes(self.said, len);
        self.stream
            .write_all(&bytes)
            .with_context(|| format!("say bytes {} to {}", self.said, self.said + len as u64))?;
        self.said += len as u64;
        Ok(())
    }

    pub(super) fn await_heard(&self, bytes: u64) -> Result<()> {
        wait_for(PATIENCE, "hear the other side", || {
            let heard = self.hearing.heard.load(Ordering::Acquire);
            match self.hearing.ended() {
                _ if heard >= bytes => Ok(Some(())),
                None => Ok(None),
                Some(ended) => bail!("heard {heard} bytes of {bytes}, then {ended:?}"),
            }
        })
    }

    pub(super) fn await_end(&self) -> Result<()> {
        match wait_for(PATIENCE, "hear the other side's end", || Ok(self.hearing.ended()))? {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error}"),
        }
    }

    pub(super) fn shut_down(&self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("say no more")
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Fails where the connection is gone.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

impl Hearing {
    fn ended(&self) -> Option<Result<(), String>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn listen(&self, ear: &mut TcpStream, expected: Pattern) {
        let end = self.hear_all(ear, expected);
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(end.map_err(|error| format!("{error:#}")));
    }

    fn hear_all(&self, ear: &mut TcpStream, expected: Pattern) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = ear.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            let at = self.heard.load(Ordering::Acquire);
            if buffer[..n] != expected.bytes(at, n) {
                bail!("what arrived from byte {at} on is not what was said");
            }
            self.heard.fetch_add(n as u64, Ordering::AcqRel);
        }
    }
}

/// What one side of a conversation says.
#[derive(Clone, Copy)]
struct Pattern {
    id: u64,
    who: Who,
}

impl Pattern {
    fn bytes(self, at: u64, len: usize) -> Vec<u8> {
        let (first, last) = (at / 8, (at + len as u64).div_ceil(8));
        let words: Vec<u8> = (first..last).flat_map(|word| self.word(word).to_le_bytes()).collect();
        words[(at % 8) as usize..][..len].to_vec()
    }

    /// splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    fn word(self, at: u64) -> u64 {
        let side = if self.who == Who::Client { 1 } else { 2 };
        let mut z =
            (self.id << 34 | side << 32).wrapping_add(at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
