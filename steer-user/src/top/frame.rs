//! What one frame tells: the difference of two looks.

use serde::{Deserialize, Serialize};
use steer_common::counters::Counter;

use super::{sample::Sample, verdicts::VERDICTS};
use crate::report::{BackendReport, BackendState, HealthState, Resumptions, Status, TableReport};

/// Two looks at a gateway, compared.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Frame {
    /// Seconds between them.
    pub seconds: f64,
    /// How the gateway is.
    pub health: HealthState,
    /// Warnings, and what keeps it from being healthy, as sentences.
    pub because: Vec<String>,
    /// Version of its agent; absent when it does not answer.
    pub version: Option<String>,
    /// Whether steering is off.
    pub bypass: bool,
    /// Whether new connections pass to the kernel's own rules.
    pub leave: bool,
    /// Of the whole gateway.
    pub rates: Rates,
    /// By backend, in the order that was asked for.
    pub backends: Vec<BackendRow>,
    /// Verdicts that were ever met, those met most now first.
    pub verdicts: Vec<VerdictRow>,
    /// How full the tables are.
    pub tables: Vec<TableReport>,
}

/// Events a second, between the two looks.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rates {
    /// Packets from clients.
    pub packets_from_clients: f64,
    /// Packets from backends.
    pub packets_from_backends: f64,
    /// Bytes to backends and from them.
    pub bytes: f64,
    /// New flows.
    pub flows: f64,
    /// Flows sent to their owner.
    pub rehomes: f64,
    /// Of a hundred sessions offered between the two looks, those resumed; absent: none was offered.
    pub resumed_percent: Option<f64>,
    /// The same since the counters began.
    pub resumed_percent_ever: Option<f64>,
}

/// A backend, with rates between the two looks.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BackendRow {
    /// Its address and port.
    pub address: String,
    /// Its VIP or pool.
    pub vip: String,
    /// What it may get.
    pub state: BackendState,
    /// New flows a second with it as the first backend.
    pub flows: f64,
    /// Flows re-homed to it, a second.
    pub rehomes: f64,
    /// Sessions learned from it, a second.
    pub learned: f64,
    /// Bytes to it and from it, a second.
    pub bytes: f64,
    /// Of a hundred sessions ever offered to it, those it resumed; absent: none was offered.
    pub resumed_percent: Option<f64>,
}

/// How often one decision was made.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VerdictRow {
    /// The counter's word.
    pub event: String,
    /// A second, between the two looks.
    pub rate: f64,
    /// Since the counters began.
    pub total: u64,
}

/// What backends are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Order {
    /// Their numbers.
    #[default]
    Number,
    /// New flows, most first.
    Flows,
    /// Re-homes, most first.
    Rehomes,
    /// Bytes, most first.
    Bytes,
    /// Resumption rate, least first: trouble is on top.
    Resumed,
}

impl Order {
    /// The next one, in a circle.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Number => Self::Flows,
            Self::Flows => Self::Rehomes,
            Self::Rehomes => Self::Bytes,
            Self::Bytes => Self::Resumed,
            Self::Resumed => Self::Number,
        }
    }

    /// The word on the screen.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Flows => "flows",
            Self::Rehomes => "re-homes",
            Self::Bytes => "bytes",
            Self::Resumed => "resumed, least first",
        }
    }

    fn sort(self, rows: &mut [BackendRow]) {
        let by = |of: fn(&BackendRow) -> f64| {
            move |a: &BackendRow, b: &BackendRow| of(b).total_cmp(&of(a))
        };
        match self {
            Self::Number => {}
            Self::Flows => rows.sort_by(by(|row| row.flows)),
            Self::Rehomes => rows.sort_by(by(|row| row.rehomes)),
            Self::Bytes => rows.sort_by(by(|row| row.bytes)),
            Self::Resumed => rows.sort_by(by(|row| -row.resumed_percent.unwrap_or(101.0))),
        }
    }
}

impl Frame {
    /// Compares two looks; `status` may be somewhat older.
    pub(super) fn new(before: &Sample, now: &Sample, status: &Status, order: Order) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64();
        let since = Since { before, now, seconds };
        let mut backends = since.backends();
        order.sort(&mut backends);
        Self {
            seconds,
            health: status.health.state,
            // The sentences themselves, then how many of them there are.
            because: status.warnings.iter().chain(&status.health.because).cloned().collect(),
            version: status.agent.version.clone(),
            bypass: status.bypass,
            leave: status.leave,
            rates: since.rates(),
            backends,
            verdicts: since.verdicts(),
            tables: status.tables.clone(),
        }
    }
}

/// What happened between two looks.
struct Since<'a> {
    before: &'a Sample,
    now: &'a Sample,
    seconds: f64,
}

impl Since<'_> {
    /// A second. Counters that begin anew, at another gateway's start, are no rate.
    fn rate(&self, before: u64, now: u64) -> f64 {
        if self.seconds > 0.0 { now.saturating_sub(before) as f64 / self.seconds } else { 0.0 }
    }

    fn counter(&self, counter: Counter) -> f64 {
        self.rate(self.before.stats.value(counter), self.now.stats.value(counter))
    }

    fn rates(&self) -> Rates {
        let bytes = |sample: &Sample| sample.backends.backends.iter().map(|b| b.bytes).sum();
        let (before, now) = (outcomes(self.before), outcomes(self.now));
        let between = Resumptions {
            accepted: now.accepted.saturating_sub(before.accepted),
            rejected: now.rejected.saturating_sub(before.rejected),
            not_offered: 0,
        };
        Rates {
            packets_from_clients: self.counter(Counter::FromClient),
            packets_from_backends: self.counter(Counter::FromBackend),
            bytes: self.rate(bytes(self.before), bytes(self.now)),
            flows: self.counter(Counter::Syn),
            rehomes: self.counter(Counter::Rehome),
            resumed_percent: between.rate(),
            resumed_percent_ever: now.rate(),
        }
    }

    fn backends(&self) -> Vec<BackendRow> {
        let row = |now: &BackendReport| {
            let is_it = |b: &&BackendReport| b.id == now.id && b.address == now.address;
            let before = self.before.backends.backends.iter().find(is_it);
            let rate = |of: fn(&BackendReport) -> u64| {
                before.map_or(0.0, |before| self.rate(of(before), of(now)))
            };
            BackendRow {
                address: now.address.to_string(),
                vip: now.vip.to_string(),
                state: now.state,
                flows: rate(|b| b.flows),
                rehomes: rate(|b| b.rehomed),
                learned: rate(|b| b.learned),
                bytes: rate(|b| b.bytes),
                resumed_percent: sum(now.tls12, now.tls13).rate(),
            }
        };
        self.now.backends.backends.iter().map(row).collect()
    }

    fn verdicts(&self) -> Vec<VerdictRow> {
        let row = |counter: &Counter| VerdictRow {
            event: counter.word().to_owned(),
            rate: self.counter(*counter),
            total: self.now.stats.value(*counter),
        };
        let mut rows = VERDICTS.iter().map(row).filter(|row| row.total > 0).collect::<Vec<_>>();
        rows.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)));
        rows
    }
}

/// Of all backends and versions.
fn outcomes(sample: &Sample) -> Resumptions {
    let none = Resumptions { accepted: 0, rejected: 0, not_offered: 0 };
    let of = |all, backend: &BackendReport| sum(all, sum(backend.tls12, backend.tls13));
    sample.backends.backends.iter().fold(none, of)
}

fn sum(a: Resumptions, b: Resumptions) -> Resumptions {
    Resumptions {
        accepted: a.accepted + b.accepted,
        rejected: a.rejected + b.rejected,
        not_offered: a.not_offered + b.not_offered,
    }
}
