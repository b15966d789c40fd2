//! How replication goes, for `steer ha status`, metrics and who decides which gateway serves.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::rows::Told;

/// Rows whose way is remembered of each gateway.
const LAGS: usize = 1024;

/// What is told of replication.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The cluster.
    pub cluster: String,
    /// This gateway.
    pub name: String,
    /// Whether it knows what the others do, as far as that can be known.
    pub ready: bool,
    /// Why, as a sentence.
    pub why: String,
    /// The stores.
    pub stores: Vec<StoreReport>,
    /// The other gateways.
    pub peers: Vec<PeerReport>,
    /// What became of rows here since the agent began.
    pub rows: Rows,
    /// Messages that could not be opened: of another key, or damaged.
    pub refused: u64,
    /// Rows that were not known here, or not as of so late, when another gateway's whole state was
    /// compared.
    pub mended: u64,
}

/// One store.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StoreReport {
    /// Its URL.
    pub server: String,
    /// Whether it answers.
    pub connected: bool,
    /// Whether all was read that it had when it was reached last.
    pub synced: bool,
    /// Messages that wait to be written to it.
    pub queued: u64,
    /// Messages that were written to it.
    pub written: u64,
    /// Messages that it did not get: all is written anew when it answers again.
    pub dropped: u64,
    /// What went wrong last; empty: nothing.
    pub error: String,
}

/// Another gateway.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name.
    pub name: String,
    /// Whether it was heard of within ten seconds.
    pub alive: bool,
    /// Whether it says that it is ready.
    pub ready: bool,
    /// Its version of steer.
    pub version: String,
    /// Sessions, key names and re-homed flows that it has.
    pub has: [u64; 3],
    /// Rows of it that were read.
    pub rows: u64,
    /// Rows of a kind that this version does not know.
    pub unknown: u64,
    /// How often messages of it were missing: its whole state was read then.
    pub gaps: u64,
    /// Milliseconds from when a row was noted there until it was known here; half of them were
    /// faster.
    pub lag_p50_ms: f64,
    /// The same; 99 in a hundred were faster.
    pub lag_p99_ms: f64,
}

/// Rows by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rows {
    /// Told to others.
    pub told: u64,
    /// Taken over.
    pub taken: u64,
    /// As much, or more, was known.
    pub known: u64,
    /// Of a pool or a backend that is not here.
    pub elsewhere: u64,
    /// Too old to be honoured.
    pub expired: u64,
    /// Without room.
    pub full: u64,
    /// Of a kind, or of a form, that this version does not know.
    pub unknown: u64,
}

impl Rows {
    /// The number of rows of which this became.
    pub(super) fn of(&mut self, told: Told) -> &mut u64 {
        match told {
            Told::Taken => &mut self.taken,
            Told::Known => &mut self.known,
            Told::Elsewhere => &mut self.elsewhere,
            Told::Expired => &mut self.expired,
            Told::Full => &mut self.full,
        }
    }

    pub(super) fn add(&mut self, more: &Self) {
        let Self { told, taken, known, elsewhere, expired, full, unknown } = more;
        self.told += told;
        self.taken += taken;
        self.known += known;
        self.elsewhere += elsewhere;
        self.expired += expired;
        self.full += full;
        self.unknown += unknown;
    }
}

/// What is noted of another gateway.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) report: PeerReport,
    heard: Option<Instant>,
    lags: VecDeque<f32>,
}

impl Peer {
    /// It is there.
    pub(super) fn note_heard(&mut self) {
        self.heard = Some(Instant::now());
    }

    fn is_alive(&self) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed().as_secs() < ALIVE)
    }

    /// Notes how long rows took, milliseconds.
    pub(super) fn note_lag(&mut self, lag: f32) {
        if self.lags.len() == LAGS {
            self.lags.pop_front();
        }
        self.lags.push_back(lag);
    }

    fn report(&self) -> PeerReport {
        let mut lags = self.lags.iter().copied().collect::<Vec<_>>();
        lags.sort_by(f32::total_cmp);
        let at = |part: f64| {
            let last = lags.len().saturating_sub(1) as f64;
            lags.get((last * part).round() as usize).copied().map_or(0.0, f64::from)
        };
        let (lag_p50_ms, lag_p99_ms) = (at(0.5), at(0.99));
        PeerReport { alive: self.is_alive(), lag_p50_ms, lag_p99_ms, ..self.report.clone() }
    }
}

/// What is noted while the agent runs; whoever has a copy sees it change.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Noted>>);

/// See [`Shared`].
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) report: Report,
    pub(super) peers: BTreeMap<String, Peer>,
}

/// A gateway that was not heard of for so long is not there, seconds.
pub(super) const ALIVE: u64 = 10;

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is told of it now.
    pub fn report(&self) -> Report {
        let noted = self.lock();
        let peers = noted.peers.values().map(Peer::report);
        Report { peers: peers.collect(), ..noted.report.clone() }
    }

    /// Whether the gateway knows what the others do.
    pub fn is_ready(&self) -> bool {
        self.lock().report.ready
    }
}
