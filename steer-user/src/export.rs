//! Metrics over HTTP, in OpenMetrics format: the counters' own words, read from the maps at each
//! scrape.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};
use steer_common::{
    counters::Counter,
    shared::{LAYOUT_VERSION, SWITCH_BYPASS, SWITCH_LEAVE},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_io_timeout::TimeoutStream;

use crate::{
    agent::{
        Swept,
        checks::{Kind, Standing},
        not_made,
    },
    connection_limit::ConnectionLimit,
    plane::Plane,
    report::{
        BackendReport, BackendState, Backends, Keys, LayoutReport, NameOrigin, Resumptions, Stats,
    },
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// A scraper that asks for nothing, or reads nothing, for so long is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;

/// Opens the port.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen for metrics at {address}"))
}

/// Serves `/metrics` for ever.
pub(crate) async fn serve(
    listener: Arc<TcpListener>,
    plane: Plane,
    gauges: Arc<Mutex<Swept>>,
    standing: Standing,
) -> Result<()> {
    let mut registry = Registry::with_prefix("steer");
    registry.register_collector(Box::new(Maps { plane, gauges, standing, started: time_of_day() }));
    let registry = Arc::new(registry);
    let mut connection_limit = ConnectionLimit::new(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connection_limit.admit(answer(stream, Arc::clone(&registry))).await,
            Err(error) => {
                // Out of descriptors or the like: it passes.
                log::warn!("accept a scrape: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a scraper compares it with its own time of day")]
fn time_of_day() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Send + 'static, registry: Arc<Registry>) {
    let service = service_fn(|request| std::future::ready(respond(&request, &registry)));
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // Who asks and never reads is hung up on, too.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(PATIENCE));
    if let Err(error) = connection.serve_connection(TokioIo::new(Box::pin(stream)), service).await {
        log::debug!("scrape: {error}");
    }
}

fn respond(
    request: &Request<Incoming>,
    registry: &Registry,
) -> Result<Response<Full<Bytes>>, fmt::Error> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = Response::new(Full::from("metrics are only read: GET or HEAD\n"));
        *refused.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refused);
    }
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
    standing: Standing,
    /// When the agent started, seconds since 1970.
    started: u64,
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
        tables(&mut encoder, &swept)?;
        capacities(&mut encoder, &room(&self.plane).map_err(unreadable)?)?;
        self.gateway(&mut encoder).map_err(unreadable)?;
        warnings(&mut encoder, &self.standing)
    }
}

impl Maps {
    /// The agent and the switches.
    fn gateway(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<()> {
        build_info(encoder)?;
        gauge(
            encoder,
            "agent_start_time_seconds",
            "When the agent started, since 1970",
            self.started,
        )?;
        let help = "Whether steering is off: every new flow stays on its first backend";
        gauge(encoder, "bypass", help, self.plane.switch(SWITCH_BYPASS)?.into())?;
        let help = "Whether new connections to VIPs pass to the kernel's own rules";
        gauge(encoder, "leave", help, self.plane.switch(SWITCH_LEAVE)?.into())?;
        let help = "The most splices since the agent started, as its sweeps met them";
        gauge(encoder, "splices_high", help, self.standing.splices_high())?;
        let not_made = ConstCounter::new(not_made());
        let help = "Health checks that could not be made for a fault of the gateway's own: they count for nothing";
        let name = "health_checks_not_made";
        not_made.encode(encoder.encode_descriptor(name, help, None, not_made.metric_type())?)?;
        Ok(())
    }
}

fn build_info(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let info = Info::new([
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("layout", LAYOUT_VERSION.to_string()),
    ]);
    let family = encoder.encode_descriptor(
        "build",
        "Version of the agent, and of the layout of its maps",
        None,
        info.metric_type(),
    )?;
    info.encode(family)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

/// Every kind, so that what never was wrong is 0 and not absent.
fn warnings(encoder: &mut DescriptorEncoder<'_>, standing: &Standing) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let help = "Whether something of a kind needs attention; the log and steer status say what";
    let mut family = encoder.encode_descriptor("warning", help, None, kind)?;
    let now = standing.all();
    for kind in Kind::ALL {
        let stands = now.iter().any(|warning| warning.kind == kind);
        ConstGauge::new(i64::from(stands))
            .encode(family.encode_family(&[("kind", kind.word())])?)?;
    }
    Ok(())
}

/// What the tables can hold.
fn room(plane: &Plane) -> Result<[(&'static str, u32); 9]> {
    Ok([
        ("sessions", plane.sessions.max_entries()?),
        ("key_names", plane.key_names.max_entries()?),
        ("key_name_tries", plane.key_name_tries.max_entries()?),
        ("sources", plane.sources.max_entries()?),
        ("flows", plane.flows.max_entries()?),
        ("splices", plane.splices.max_entries()?),
        ("handshakes", plane.handshakes.max_entries()?),
        ("foreign", plane.foreign.max_entries()?),
        ("legs", plane.legs.max_entries()?),
    ])
}

fn capacities(encoder: &mut DescriptorEncoder<'_>, room: &[(&'static str, u32)]) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut family = encoder.encode_descriptor(
        "table_max_entries",
        "Entries that a table can hold",
        None,
        kind,
    )?;
    for (table, entries) in room {
        ConstGauge::new(i64::from(*entries)).encode(family.encode_family(&[("table", *table)])?)?;
    }
    Ok(())
}

fn packets(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
    let counter = |value| ConstCounter::new(value);
    let kind = counter(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(
        "packets",
        "What happened to packets and flows, by word",
        None,
        kind,
    )?;
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
    let mut family =
        encoder.encode_descriptor("backend_up", "Whether it takes new flows", None, kind)?;
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
            for (outcome, n) in
                [("accepted", accepted), ("rejected", rejected), ("not-offered", not_offered)]
            {
                let [address, vip] = labels(backend);
                let labels = [
                    address,
                    vip,
                    ("version", version.to_owned()),
                    ("outcome", outcome.to_owned()),
                ];
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
            n.encode(
                family.encode_family(&[("vip", vip.to_string()), ("state", state.to_owned())])?,
            )?;
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::{Instant, sleep},
    };

    use super::*;

    /// A registry that has much to say.
    fn registry() -> Arc<Registry> {
        let mut registry = Registry::default();
        let help = "x".repeat(100_000);
        registry.register("much", help, ConstGauge::new(1_i64));
        Arc::new(registry)
    }

    async fn said(asked: &str) -> String {
        let (mut ours, theirs) = duplex(1 << 20);
        let server = tokio::spawn(answer(theirs, registry()));
        ours.write_all(
            format!("{asked} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).await.unwrap();
        server.await.unwrap();
        text
    }

    #[tokio::test]
    async fn metrics_are_read_and_nothing_else() {
        assert!(said("GET /metrics").await.starts_with("HTTP/1.1 200 "));
        let head = said("HEAD /metrics").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.len() < 1000, "{head}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
            let refused = said(&format!("{method} /metrics")).await;
            assert!(
                refused.starts_with("HTTP/1.1 405 ")
                    && refused.to_lowercase().contains("allow: get, head"),
                "{refused}"
            );
        }
        assert!(said("GET /").await.starts_with("HTTP/1.1 404 "));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_and_never_reads_is_hung_up_on() {
        let (mut ours, theirs) = duplex(1024);
        let start = Instant::now();
        let server = tokio::spawn(answer(theirs, registry()));
        ours.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        server.await.unwrap();
        assert!(start.elapsed() < 3 * PATIENCE, "{:?}", start.elapsed());
        sleep(PATIENCE).await;
        drop(ours);
    }
}
