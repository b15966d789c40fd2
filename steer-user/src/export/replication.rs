//! How replication goes, as metrics.

use std::{fmt, sync::atomic::AtomicU64};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
};

use crate::ha::{Report, Shared};

/// What [`crate::ha`] tells.
#[derive(Debug)]
pub(super) struct Replication(pub(super) Shared);

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Store {
    store: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Peer {
    gateway: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Lag {
    gateway: String,
    quantile: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Collector for Replication {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let report = self.0.report();
        let encoder = &mut encoder;
        let ready = ConstGauge::new(i64::from(report.ready));
        let help = "1: the gateway knows what the others do, as far as that can be known";
        ready.encode(encoder.encode_descriptor("ha_ready", help, None, ready.metric_type())?)?;
        stores(encoder, &report)?;
        peers(encoder, &report)?;
        let rows = report.rows;
        let outcomes = [
            ("told", rows.told),
            ("taken", rows.taken),
            ("known", rows.known),
            ("elsewhere", rows.elsewhere),
            ("expired", rows.expired),
            ("full", rows.full),
            ("unknown", rows.unknown),
        ];
        let outcomes = outcomes.map(|(outcome, n)| (Outcome { outcome }, n));
        counters(encoder, "ha_rows", "Rows by what became of them", outcomes)?;
        for (name, help, n) in [
            ("ha_refused_messages", "Messages that could not be opened", report.refused),
            (
                "ha_mended_rows",
                "Rows that were missing when whole states were compared",
                report.mended,
            ),
        ] {
            let n = ConstCounter::new(n);
            n.encode(encoder.encode_descriptor(name, help, None, n.metric_type())?)?;
        }
        Ok(())
    }
}

fn stores(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> fmt::Result {
    let label = |store: &crate::ha::StoreReport| Store { store: store.server.clone() };
    let of = |n: fn(&crate::ha::StoreReport) -> u64| {
        report.stores.iter().map(move |store| (label(store), n(store)))
    };
    gauges(encoder, "ha_store_up", "1: the store answers", of(|store| store.connected.into()))?;
    let help = "Messages that wait to be written to the store";
    gauges(encoder, "ha_store_queued_messages", help, of(|store| store.queued))?;
    let help = "Messages that were written to the store";
    counters(encoder, "ha_store_written_messages", help, of(|store| store.written))?;
    let help = "Messages that the store did not get; all is written anew when it answers again";
    counters(encoder, "ha_store_dropped_messages", help, of(|store| store.dropped))
}

fn peers(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> fmt::Result {
    let of = |n: fn(&crate::ha::PeerReport) -> u64| {
        let label = |peer: &crate::ha::PeerReport| Peer { gateway: peer.name.clone() };
        report.peers.iter().map(move |peer| (label(peer), n(peer)))
    };
    let help = "1: the other gateway was heard of within ten seconds";
    gauges(encoder, "ha_peer_up", help, of(|peer| peer.alive.into()))?;
    gauges(encoder, "ha_peer_ready", "1: it says that it is ready", of(|peer| peer.ready.into()))?;
    counters(encoder, "ha_peer_rows", "Rows of it that were read", of(|peer| peer.rows))?;
    let help = "How often messages of it were missing; its whole state was read then";
    counters(encoder, "ha_peer_gaps", help, of(|peer| peer.gaps))?;
    let lags = Family::<Lag, Gauge<f64, AtomicU64>>::default();
    for peer in &report.peers {
        for (quantile, ms) in [("0.5", peer.lag_p50_ms), ("0.99", peer.lag_p99_ms)] {
            let label = Lag { gateway: peer.name.clone(), quantile };
            lags.get_or_create(&label).set(ms / 1000.0);
        }
    }
    let help = "From when a row was noted at the other gateway until it was known here";
    let unit = Some(&prometheus_client::registry::Unit::Seconds);
    lags.encode(encoder.encode_descriptor("ha_lag", help, unit, MetricType::Gauge)?)
}

fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (label, n) in values {
        ConstGauge::new(n as i64).encode(metric.encode_family(&label)?)?;
    }
    Ok(())
}

fn counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (label, n) in values {
        ConstCounter::new(n).encode(metric.encode_family(&label)?)?;
    }
    Ok(())
}
