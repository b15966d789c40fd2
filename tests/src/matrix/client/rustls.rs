//! rustls; with the feature `post-quantum` with its default provider, whose first key share makes
//! hellos of more than one segment.

use std::{
    collections::HashMap,
    fmt,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
#[cfg(feature = "post-quantum")]
use rustls::crypto::aws_lc_rs as provider;
#[cfg(not(feature = "post-quantum"))]
use rustls::crypto::ring as provider;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use socket2::{Domain, Socket, Type};

use super::{Client, Seen, Visit};
use crate::{
    matrix::cell::Protocol,
    netns::NetNs,
    pki::{HOST, Pki},
};

/// Longest wait for any one step.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Rustls<'a> {
    ns: &'a NetNs,
    pki: &'a Pki,
    slots: HashMap<usize, Slot>,
}

#[derive(Clone)]
struct Slot {
    config: Arc<ClientConfig>,
    store: Arc<Store>,
}

impl<'a> Rustls<'a> {
    pub(super) fn new(ns: &'a NetNs, pki: &'a Pki) -> Self {
        Self { ns, pki, slots: HashMap::new() }
    }

    fn slot(&mut self, visit: &Visit) -> Result<Slot> {
        if let Some(slot) = self.slots.get(&visit.slot) {
            return Ok(slot.clone());
        }
        let version = match visit.protocol {
            Protocol::Tls12 => &TLS12,
            Protocol::Tls13 => &TLS13,
        };
        let mut config = config(self.pki, version)?;
        let store = Arc::new(Store::default());
        config.resumption = Resumption::store(store.clone());
        let slot = Slot { config: Arc::new(config), store };
        self.slots.insert(visit.slot, slot.clone());
        Ok(slot)
    }
}

impl Client for Rustls<'_> {
    fn visit(&mut self, visit: &Visit) -> Result<Seen> {
        let slot = self.slot(visit)?;
        let offered = slot.store.has_one();
        let pki = self.pki;
        self.ns.run(|| {
            let tls = ClientConnection::new(slot.config.clone(), ServerName::try_from(HOST)?)?;
            let mut stream = StreamOwned::new(tls, dial(visit)?);
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").context("ask for /")?;
            match stream.read_to_end(&mut Vec::new()) {
                Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                    return Err(error).context("read the answer");
                }
                Ok(_) | Err(_) => {}
            }
            let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
            let shown = stream
                .conn
                .peer_certificates()
                .and_then(<[_]>::first)
                .context("the server showed nothing")?;
            let server = pki
                .name_of(shown)
                .context("the server's certificate is not of this lab")?
                .to_owned();
            Ok(Seen { offered, resumed, server })
        })
    }

    fn forget(&mut self, slot: usize) -> Result<()> {
        self.slots.remove(&slot);
        Ok(())
    }
}

fn config(pki: &Pki, version: &'static SupportedProtocolVersion) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pki.authority_pem().as_bytes())?)
        .context("trust the authority")?;
    let certificate = CertificateDer::from_pem_slice(pki.client().certificate_pem().as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(pki.client().key_pem().as_bytes())?;
    ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .context("use the client certificate")
}

fn dial(visit: &Visit) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(visit.target), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(visit.source, 0).into())?;
    socket
        .connect_timeout(&visit.target.into(), PATIENCE)
        .with_context(|| format!("connect to {}", visit.target))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The last session that was given. It remembers no group, so that every hello carries the
/// post-quantum share.
#[derive(Default)]
struct Store(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    tls12: Option<Tls12ClientSessionValue>,
    tls13: Option<Tls13ClientSessionValue>,
}

impl Store {
    fn has_one(&self) -> bool {
        let kept = self.kept();
        kept.tls12.is_some() || kept.tls13.is_some()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("has_one", &self.has_one()).finish()
    }
}

impl ClientSessionStore for Store {
    fn set_kx_hint(&self, _server: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _server: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept().tls12 = Some(value);
    }

    fn tls12_session(&self, _server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().tls12.clone()
    }

    fn remove_tls12_session(&self, _server: &ServerName<'static>) {
        self.kept().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.kept().tls13 = Some(value);
    }

    fn take_tls13_ticket(&self, _server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().tls13.take()
    }
}
