//! Metrics over HTTP, read from the maps at each scrape, and a page that shows them.

mod format;
mod kinds;
mod maps;
mod process;
mod replication;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, VARY},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    encoding::text::encode,
    registry::{Registry, Unit},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_io_timeout::TimeoutStream;

use self::{format::Format, maps::Maps, process::Process, replication::Replication};
use crate::{
    agent::{Swept, checks::Standing, moves::Moves},
    connection_limit::ConnectionLimit,
    ha,
    plane::Plane,
};

/// A scraper that asks for nothing, or reads nothing, for so long is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// Live charts of what `/metrics` says; it fetches nothing else.
const PAGE: &str = include_str!("export/page.html");
const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";

/// Opens the port.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen for metrics at {address}"))
}

/// Serves `/metrics` and the page for ever.
pub(crate) async fn serve(
    listener: Arc<TcpListener>,
    plane: Plane,
    gauges: Arc<Mutex<Swept>>,
    standing: Standing,
    moves: Moves,
    replication: Option<ha::Shared>,
) -> Result<()> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    let steer = registry.sub_registry_with_prefix("steer");
    steer.register_collector(Box::new(Maps::new(plane, gauges, standing)));
    let help = "From the SYN to a flow's owner until the owner gets the hello";
    steer.register_with_unit("rehome_duration", help, Unit::Seconds, moves.duration);
    let help = "Length of hellos whose flow was moved, with the header of the record";
    steer.register_with_unit("rehomed_hello", help, Unit::Bytes, moves.hello);
    if let Some(replication) = &replication {
        steer.register_collector(Box::new(Replication(replication.clone())));
    }
    let served = Arc::new(Served { registry, replication });
    let mut connection_limit = ConnectionLimit::new(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connection_limit.admit(answer(stream, Arc::clone(&served))).await,
            Err(error) => {
                // Out of descriptors or the like: it passes.
                log::warn!("accept a scrape: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What is told of.
struct Served {
    registry: Registry,
    replication: Option<ha::Shared>,
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Send + 'static, served: Arc<Served>) {
    let service = service_fn(|request| std::future::ready(respond(&request, &served)));
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
    served: &Served,
) -> Result<Response<Full<Bytes>>, fmt::Error> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only read: GET or HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refused);
    }
    match request.uri().path() {
        "/metrics" => {
            let accept = request.headers().get_all(ACCEPT).iter();
            metrics(
                &served.registry,
                Format::wanted(accept.filter_map(|value| value.to_str().ok())),
            )
        }
        "/ready" => Ok(ready(served.replication.as_ref())),
        "/" => Ok(page()),
        _ => Ok(plain(
            StatusCode::NOT_FOUND,
            "metrics are at /metrics, a page that shows them at /\n",
        )),
    }
}

fn metrics(registry: &Registry, format: Format) -> Result<Response<Full<Bytes>>, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    let mut response = Response::new(Full::from(format.of(text)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Whether the gateway may serve in the place of another one (RFC 9110 15.6.4: 503 where it may not
/// yet). One that knows of no others always may.
fn ready(replication: Option<&ha::Shared>) -> Response<Full<Bytes>> {
    match replication {
        Some(replication) if !replication.is_ready() => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "not ready: see `steer ha status`\n")
        }
        _ => plain(StatusCode::OK, "ready\n"),
    }
}

fn page() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(PAGE));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::{Instant, sleep},
    };

    use prometheus_client::metrics::gauge::ConstGauge;

    use super::*;

    /// A registry that has much to say.
    fn served() -> Arc<Served> {
        let mut registry = Registry::default();
        let help = "x".repeat(100_000);
        registry.register("much", help, ConstGauge::new(1_i64));
        Arc::new(Served { registry, replication: None })
    }

    /// The version of HTTP, where what is asked has none and so no headers either.
    fn version(asked: &str) -> &'static str {
        if asked.contains("HTTP/") { "" } else { " HTTP/1.1" }
    }

    async fn said(asked: &str) -> String {
        let (mut ours, theirs) = duplex(1 << 20);
        let server = tokio::spawn(answer(theirs, served()));
        ours.write_all(
            format!("{asked}{}\r\nHost: x\r\nConnection: close\r\n\r\n", version(asked)).as_bytes(),
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
        for path in ["/metric", "/metrics/", "/favicon.ico", "//"] {
            let nothing = said(&format!("GET {path}")).await;
            assert!(nothing.starts_with("HTTP/1.1 404 "), "{path}: {nothing}");
        }
    }

    #[tokio::test]
    async fn who_accepts_open_metrics_gets_it_and_all_others_the_text_format() {
        let open =
            said("GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0")
                .await;
        assert!(
            open.contains("application/openmetrics-text") && open.ends_with("# EOF\n"),
            "{open}"
        );
        let text = said("GET /metrics").await;
        assert!(text.contains("text/plain; version=0.0.4") && !text.contains("# EOF"), "{text}");
    }

    #[tokio::test]
    async fn the_page_may_load_nothing_from_elsewhere() {
        let page = said("GET /").await;
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("default-src 'none'"), "{page}");
        let elsewhere = PAGE.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("http"), "the page names another place");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_and_never_reads_is_hung_up_on() {
        let (mut ours, theirs) = duplex(1024);
        let start = Instant::now();
        let server = tokio::spawn(answer(theirs, served()));
        ours.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        server.await.unwrap();
        assert!(start.elapsed() < 3 * PATIENCE, "{:?}", start.elapsed());
        sleep(PATIENCE).await;
        drop(ours);
    }
}
