//! rustls as a server: threads of this program, the listener in a backend's namespace.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
#[cfg(feature = "post-quantum")]
use rustls::crypto::aws_lc_rs as provider;
#[cfg(not(feature = "post-quantum"))]
use rustls::crypto::ring as provider;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use crate::{
    matrix::cell::{Mode, Protocol},
    netns::NetNs,
    pki::Pki,
    topology::PORT,
};

/// Longest wait for a client.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server that shall end may look for the next connection.
const LOOK: Duration = Duration::from_millis(5);

/// A server; it ends when dropped.
pub(super) struct Rustls {
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Rustls {
    /// Listens in a namespace.
    pub(super) fn start(ns: &NetNs, pki: &Pki, index: usize, mode: Mode) -> Result<Self> {
        let config = Arc::new(config(pki, index, mode)?);
        let listener = ns.run(|| TcpListener::bind(("0.0.0.0", PORT)).context("listen"))?;
        listener.set_nonblocking(true)?;
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let config = config.clone();
                        // A connection that fails is the client's to report.
                        thread::spawn(move || answer(stream, config));
                    }
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for Rustls {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().map(thread::JoinHandle::join);
    }
}

fn config(pki: &Pki, index: usize, mode: Mode) -> Result<ServerConfig> {
    let version = match mode.protocol() {
        Protocol::Tls12 => &TLS12,
        Protocol::Tls13 => &TLS13,
    };
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pki.authority_pem().as_bytes())?)
        .context("trust the authority")?;
    let certificate =
        CertificateDer::from_pem_slice(pki.server(index).certificate_pem().as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(pki.server(index).key_pem().as_bytes())?;
    let crypto = Arc::new(provider::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(roots.into(), crypto.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[version])?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate], key)
        .context("use the server's certificate")?;
    if mode.tickets() {
        config.ticketer = provider::Ticketer::new()?;
    }
    Ok(config)
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut tls = StreamOwned::new(ServerConnection::new(config)?, stream);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut piece = [0; 1024];
        let n = tls.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        request.extend_from_slice(&piece[..n]);
    }
    tls.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")?;
    tls.conn.send_close_notify();
    tls.flush()?;
    io::copy(&mut tls.sock, &mut io::sink()).map(drop).or_else(|_| Ok(()))
}
