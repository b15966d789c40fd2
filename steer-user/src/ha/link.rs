//! One store, as a gateway uses it: one connection on which it writes ([`super::writer`]), one on
//! which it reads ([`super::reader`]). Either ends at any error and begins anew.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time};

use super::{
    outbox::Outbox,
    seal::{Number, Purpose, Seal},
    status::Shared,
    store::{Connection, MESSAGE_MAX, PATIENCE, Store},
};
use crate::clock;

/// Wait before a store is tried again, at first and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
/// Parts that the state of a gateway may have.
const PARTS_MAX: u32 = 1 << 16;

/// What names the parts of all that a gateway knows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) parts: u32,
    /// Where the walk began in the gateway's stream, and behind which batch.
    pub(super) position: String,
    pub(super) sequence: u64,
    /// When the walk began, milliseconds of the store's clock.
    pub(super) began: u64,
    /// When it was over.
    pub(super) ended: u64,
}

/// The beginning of a stream.
pub(super) const BEGINNING: &str = "0-0";

/// What both connections to a store need.
#[derive(Debug)]
pub(super) struct Link {
    /// The store's number.
    pub(super) number: usize,
    pub(super) store: Store,
    /// This gateway.
    pub(super) name: String,
    pub(super) epoch: u64,
    pub(super) seal: Arc<Seal>,
    pub(super) outbox: Arc<Outbox>,
    /// Whether what this gateway knew in an earlier life was read, or need not be: what it knows now
    /// takes its place at the store.
    pub(super) restored: watch::Sender<bool>,
    /// What went wrong last on either connection.
    pub(super) failed: Mutex<[String; 2]>,
    pub(super) shared: Shared,
}

/// One of the two connections to a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Half {
    /// On which it writes.
    Write,
    /// On which it reads.
    Read,
}

impl Link {
    /// What names the parts of all that a gateway knows, if it is there.
    pub(super) async fn contents(
        &self,
        connection: &mut Connection,
        gateway: &str,
    ) -> Result<Option<(Number, Contents)>> {
        let Some(message) = connection.get(Purpose::Contents, gateway).await? else {
            return Ok(None);
        };
        let opened = self.open(Purpose::Contents, gateway, &message);
        Ok(opened.and_then(|(number, text)| {
            let contents = postcard::from_bytes::<Contents>(&text).ok()?;
            (contents.parts <= PARTS_MAX).then_some((number, contents))
        }))
    }

    /// Opens a message; one that is none is counted.
    pub(super) fn open(
        &self,
        purpose: Purpose,
        gateway: &str,
        message: &[u8],
    ) -> Option<(Number, Vec<u8>)> {
        let fits = message.len() <= MESSAGE_MAX;
        let opened = fits.then(|| self.seal.open(purpose, gateway, message)).flatten();
        if opened.is_none() {
            self.shared.lock().report.refused += 1;
        }
        opened
    }

    /// Notes what went wrong on a connection, and logs it where it is another thing than before.
    pub(super) fn note_error(&self, half: Half, error: &anyhow::Error) {
        let word = match half {
            Half::Write => "write",
            Half::Read => "read",
        };
        self.note(half, format!("{word}: {}", told_once(error)));
    }

    /// Notes that a connection does what it should.
    pub(super) fn note_good(&self, half: Half) {
        self.note(half, String::new());
    }

    fn note(&self, half: Half, text: String) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut noted = self.shared.lock();
        let Some(store) = noted.report.stores.get_mut(self.number) else { return };
        let [write, read] = &mut *failed;
        let last = if half == Half::Write { &mut *write } else { &mut *read };
        if !text.is_empty() && *last != text {
            log::warn!("store {}: {text}", store.server);
        }
        *last = text;
        store.error.clone_from(if write.is_empty() { read } else { write });
    }
}

/// An error with its causes; what says the same as the one before is left out.
fn told_once(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| {
        match said.contains(&cause) {
            true => said,
            false if said.is_empty() => cause,
            false => format!("{said}: {cause}"),
        }
    })
}

/// Parts of a walk have numbers of their own.
pub(super) fn part_number(epoch: u64, walk: u32, part: u32) -> Number {
    Number { epoch, sequence: u64::from(walk) << 32 | u64::from(part) }
}

/// Under which name a part stands at a store.
pub(super) fn part_name(gateway: &str, number: Number) -> String {
    format!("{gateway}:{:x}:{:x}", number.epoch, number.sequence)
}

/// Waits that get longer while something fails at once.
pub(super) struct Retry(Duration);

impl Default for Retry {
    fn default() -> Self {
        Self(RETRY[0])
    }
}

impl Retry {
    /// Waits after a session that began then.
    pub(super) async fn wait(&mut self, began: time::Instant) {
        self.0 = if began.elapsed() > RETRY[1] { RETRY[0] } else { (self.0 * 2).min(RETRY[1]) };
        time::sleep(self.0).await;
    }
}

/// How far a store's clock is ahead of this machine's, milliseconds.
#[derive(Clone, Copy)]
pub(super) struct StoreClock(i64);

impl StoreClock {
    pub(super) async fn read(connection: &mut Connection) -> Result<Self> {
        let time =
            time::timeout(PATIENCE, connection.time()).await.context("ask for the time")??;
        Ok(Self((time as i64).wrapping_sub(own_time())))
    }

    /// Milliseconds of the store's clock.
    pub(super) fn now(self) -> u64 {
        own_time().wrapping_add(self.0) as u64
    }

    /// Milliseconds since then.
    pub(super) fn since(self, then: u64) -> u64 {
        self.now().saturating_sub(then)
    }
}

fn own_time() -> i64 {
    (clock::nanoseconds() / 1_000_000) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_nothing_twice() {
        let cause = anyhow::anyhow!("refused (os error 111)");
        let same = cause.context("refused (os error 111)").context("connect");
        assert_eq!(told_once(&same), "connect: refused (os error 111)");
        assert_eq!(told_once(&anyhow::anyhow!("b").context("a")), "a: b");
    }
}
