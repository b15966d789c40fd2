//! What the clients saw, and what of their errors the chaos explains.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{chaos::Window, crowd::Errand};

/// So long after a server was started again a connection may still meet its absence: health checks
/// find out meanwhile.
const AFTERMATH: Duration = Duration::from_secs(1);

/// What came of one kind of errand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) connections: u64,
    pub(super) offered: u64,
    pub(super) resumed: u64,
    pub(super) failed: u64,
}

/// A connection that failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) errand: Errand,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// The backend, once the client knew it.
    pub(super) server: Option<usize>,
    pub(super) class: &'static str,
    pub(super) text: String,
}

/// What an errand came to.
pub(super) enum Seen {
    Done {
        offered: bool,
        resumed: bool,
    },
    /// Other bytes than were sent, or another server than the certificate's.
    Wrong(String),
    Failed(Failure),
}

/// Written by all clients.
pub(super) struct Ledger {
    kept: Mutex<Kept>,
    pub(super) n_backends: usize,
}

#[derive(Default)]
struct Kept {
    tallies: BTreeMap<Errand, Tally>,
    bytes: u64,
    failures: Vec<Failure>,
    wrong: Vec<String>,
}

impl Ledger {
    pub(super) fn new(n_backends: usize) -> Self {
        Self { kept: Mutex::default(), n_backends }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, errand: Errand, seen: Seen) {
        let mut kept = self.kept();
        let tally = kept.tallies.entry(errand).or_default();
        tally.connections += 1;
        match seen {
            Seen::Done { offered, resumed } => {
                tally.offered += u64::from(offered);
                tally.resumed += u64::from(resumed);
            }
            Seen::Wrong(what) => kept.wrong.push(what),
            Seen::Failed(failure) => {
                tally.failed += 1;
                kept.failures.push(failure);
            }
        }
    }

    /// Bytes of bodies whose sum was compared.
    pub(super) fn note_bytes(&self, n: u64) {
        self.kept().bytes += n;
    }

    pub(super) fn tallies(&self) -> BTreeMap<Errand, Tally> {
        self.kept().tallies.clone()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.kept().bytes
    }

    pub(super) fn wrong(&self) -> Vec<String> {
        self.kept().wrong.clone()
    }

    /// Connections so far, and those of them that failed.
    pub(super) fn so_far(&self) -> (u64, u64) {
        let kept = self.kept();
        (kept.tallies.values().map(|tally| tally.connections).sum(), kept.failures.len() as u64)
    }

    /// Failures by what they were and whether a window of chaos explains them.
    pub(super) fn failures(&self, windows: &[Window]) -> Vec<(Failure, Option<&'static str>)> {
        let explained = |failure: &Failure| {
            windows.iter().find(|w| explains(w, failure)).map(|w| w.what.word())
        };
        self.kept().failures.iter().map(|failure| (failure.clone(), explained(failure))).collect()
    }
}

/// Only one thing ends a connection by itself: the server at its other end dies. Whatever else
/// befalls, TCP waits.
fn explains(window: &Window, failure: &Failure) -> bool {
    let overlap = failure.began <= window.to + AFTERMATH && failure.ended >= window.from;
    let its_server = failure.server.is_none() || failure.server == window.backend;
    window.what.ends_connections()
        && overlap
        && its_server
        && matches!(failure.class, REFUSED | RESET | ENDED)
}

const REFUSED: &str = "refused";
const RESET: &str = "reset";
const ENDED: &str = "ended early";

/// What an error is, in a word or two.
pub(super) fn class(error: &anyhow::Error) -> &'static str {
    let text = format!("{error:#}").to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match () {
        () if has(&["refused"]) => REFUSED,
        () if has(&["reset by peer", "broken pipe"]) => RESET,
        () if has(&[
            "unexpected eof",
            "unexpected end",
            "close_notify",
            "breaks off",
            "ends after",
            "tls handshake eof",
        ]) =>
        {
            ENDED
        }
        () if has(&["timed out", "temporarily unavailable", "would block"]) => "timed out",
        () if has(&["unreachable", "no route"]) => "unreachable",
        () if has(&["alert"]) => "TLS alert",
        () => "other",
    }
}
