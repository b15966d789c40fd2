//! Metrics over HTTP, in OpenMetrics format: the counters' own words, read from the maps at each scrape.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use steer_common::counters::Counter;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    agent::Swept,
    guests::Guests,
    plane::Plane,
    report::{BackendReport, BackendState, Backends, Keys, LayoutReport, NameOrigin, Resumptions, Stats},
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// A scraper that asks for nothing for so long is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time.
const GUESTS: usize = 64;

/// Opens the port.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen for metrics at {address}"))
}

/// Serves `/metrics` for ever.
pub(crate) async fn serve(listener: TcpListener, plane: Plane, gauges: Arc<Mutex<Swept>>) -> Result<()> {
    let mut registry = Registry::with_prefix("steer");
    registry.register_collector(Box::new(Maps { plane, gauges }));
    let registry = Arc::new(registry);
    let mut guests = Guests::new(GUESTS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => guests.admit(answer(stream, Arc::clone(&registry))).await,
            Err(error) => {
                // Out of descriptors or the like: it passes.
                log::warn!("accept a scrape: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, registry: Arc<Registry>) {
    let service = service_fn(|request| std::future::ready(respond(&request, &registry)));
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
        log::debug!("scrape: {error}");
    }
}

fn respond(request: &Request<Incoming>, registry: &Registry) -> Result<Response<Full<Bytes>>, fmt::Error> {
    if request.uri().path() != "/metrics" {
        let mut nothing = Response::new(Full::from("metrics are at /metrics\n"));
        *nothing.status_mut() = StatusCode::NOT_FOUND;
        return Ok(nothing);
    }
    let mut text = String::new();
    encode(&mut text, registry)?;
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    Ok(response)
}

/// The maps as a source of metrics.
struct Maps {
    plane: Plane,
    gauges: Arc<Mutex<Swept>>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maps")
    }
}

impl Collector for Maps {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let unreadable = |error| {
            log::warn!("read the maps for a scrape: {error:#}");
            fmt::Error
        };
        packets(&mut encoder, &Stats::read(&self.plane).map_err(unreadable)?)?;
        let report = Backends::read(&self.plane).map_err(unreadable)?;
        backends(&mut encoder, &report)?;
        resumptions(&mut encoder, &report)?;
        key_names(&mut encoder, &Keys::read(&self.plane, None).map_err(unreadable)?)?;
        let swept = self.gauges.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tables(&mut encoder, &swept)
    }
}

fn packets(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
    let counter = |value| ConstCounter::new(value);
    let kind = counter(0_u64).metric_type();
    let mut family = encoder.encode_descriptor("packets", "What happened to packets and flows, by word", None, kind)?;
    for word in Counter::ALL {
        counter(stats.value(*word)).encode(family.encode_family(&[("event", word.word())])?)?;
    }
    Ok(())
}

/// Name, explanation and value of one family per backend.
type BackendFamily = (&'static str, &'static str, fn(&BackendReport) -> u64);

const BACKEND_FAMILIES: [BackendFamily; 7] = [
    ("backend_flows", "Flows whose first backend it was", |backend| backend.flows),
    ("backend_rehomed_flows", "Flows re-homed to it", |backend| backend.rehomed),
    ("backend_sessions_learned", "Sessions learned from it", |backend| backend.learned),
    ("backend_session_hits", "Hellos whose session it owned", |backend| backend.hits),
    ("backend_resumptions", "Resumptions it accepted", |backend| backend.resumed),
    ("backend_packets", "Packets to it and from it", |backend| backend.packets),
    ("backend_bytes", "Bytes to it and from it", |backend| backend.bytes),
];

fn backends(encoder: &mut DescriptorEncoder<'_>, report: &Backends) -> fmt::Result {
    for (name, help, value) in BACKEND_FAMILIES {
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for backend in &report.backends {
            ConstCounter::new(value(backend)).encode(family.encode_family(&labels(backend))?)?;
        }
    }
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut family = encoder.encode_descriptor("backend_up", "Whether it takes new flows", None, kind)?;
    for backend in &report.backends {
        let up = ConstGauge::new(i64::from(backend.state == BackendState::Up));
        up.encode(family.encode_family(&labels(backend))?)?;
    }
    Ok(())
}

fn resumptions(encoder: &mut DescriptorEncoder<'_>, report: &Backends) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    let help = "Hellos by what their backend answered; version 1.2 is 1.2 and below";
    let mut family = encoder.encode_descriptor("resumptions", help, None, kind)?;
    for backend in &report.backends {
        for (version, outcomes) in [("1.2", backend.tls12), ("1.3", backend.tls13)] {
            let Resumptions { accepted, rejected, not_offered } = outcomes;
            for (outcome, n) in [("accepted", accepted), ("rejected", rejected), ("not-offered", not_offered)] {
                let [address, vip] = labels(backend);
                let labels = [address, vip, ("version", version.to_owned()), ("outcome", outcome.to_owned())];
                ConstCounter::new(n).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

/// A shared name counts as shared only, however its owner is known.
fn key_names(encoder: &mut DescriptorEncoder<'_>, keys: &Keys) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let help = "Names of ticket keys; those that are shared do not steer";
    let mut family = encoder.encode_descriptor("key_names", help, None, kind)?;
    for LayoutReport { vip, .. } in &keys.layouts {
        let own = keys.names.iter().filter(|name| name.vip == Some(*vip));
        let of = |origin| own.clone().filter(|name| !name.shared && name.origin == origin).count();
        let states = NameOrigin::ALL.map(|origin| (origin.word(), of(origin)));
        let shared = own.clone().filter(|name| name.shared).count();
        for (state, n) in states.into_iter().chain([("shared", shared)]) {
            let n = ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX));
            n.encode(family.encode_family(&[("vip", vip.to_string()), ("state", state.to_owned())])?)?;
        }
    }
    Ok(())
}

fn labels(backend: &BackendReport) -> [(&'static str, String); 2] {
    [("backend", backend.address.to_string()), ("vip", backend.vip.to_string())]
}

fn tables(encoder: &mut DescriptorEncoder<'_>, swept: &Swept) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let help = "Entries of a table at the last sweep";
    let mut family = encoder.encode_descriptor("table_entries", help, None, kind)?;
    let tables = [
        ("sessions", swept.sessions),
        ("key_names", swept.key_names),
        ("flows", swept.flows),
        ("splices", swept.splices),
    ];
    for (table, entries) in tables {
        let entries = ConstGauge::new(i64::try_from(entries).unwrap_or(i64::MAX));
        entries.encode(family.encode_family(&[("table", table)])?)?;
    }
    Ok(())
}
