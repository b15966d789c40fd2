//! A TLS client as the lab needs it: it dials from a chosen address, splits its hello as told,
//! resumes by session ID or ticket, and says what came of it.
//!
//! Its functions must run inside the clients' namespace ([`crate::netns::NetNs::run`] or `enter`).

mod http;
mod sessions;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, StreamOwned, SupportedProtocolVersion,
    client::{Resumption, Tls12Resumption},
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use socket2::{Domain, Protocol, Socket, Type};

pub use self::http::Response;
use self::sessions::Sessions;
use crate::pki::{HOST, Pki};

/// How to dial.
#[derive(Clone, Debug)]
pub struct Dial {
    /// The VIP, or a backend itself.
    pub target: SocketAddr,
    /// Source address.
    pub source: IpAddr,
    /// Source port; any if `None`.
    pub source_port: Option<u16>,
    /// TCP_MAXSEG.
    pub mss: Option<u32>,
    /// Pause between the connection and the hello.
    pub idle: Duration,
    /// Where the hello is cut into segments, as offsets; empty: one write.
    pub cuts: Vec<usize>,
    /// Pause after each cut.
    pub cut_pause: Duration,
    /// The hello's message is sent in records of this many bytes; `None`: in one.
    pub record: Option<usize>,
    /// Longest wait for any one step.
    pub timeout: Duration,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// The first write goes out in the SYN (RFC 7413), once the kernel's `tcp_fastopen` allows it.
    pub fast_open: bool,
    /// The connection ends with a reset instead of a FIN.
    pub reset: bool,
}

impl Dial {
    /// Dials `target` from `source`, the hello in one write at once.
    pub fn new(source: IpAddr, target: SocketAddr) -> Self {
        Self {
            target,
            source,
            source_port: None,
            mss: None,
            idle: Duration::ZERO,
            cuts: Vec::new(),
            cut_pause: Duration::ZERO,
            record: None,
            timeout: Duration::from_secs(20),
            nodelay: true,
            fast_open: false,
            reset: false,
        }
    }

    /// Sends bytes without TLS, and returns what the server answers until it closes.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn speak(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut stream = self.say(bytes)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("listen")?;
        Ok(answer)
    }

    /// Sends bytes without TLS, and returns the open connection.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn say(&self, bytes: &[u8]) -> Result<TcpStream> {
        let mut stream = self.open()?;
        stream.write_all(bytes).context("speak")?;
        Ok(stream)
    }

    /// Sends bytes without TLS, and returns what the server answers until it closes or says no more
    /// for a while.
    ///
    /// # Errors
    /// When the connection fails before it is established.
    pub fn speak_first(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        const SILENCE: Duration = Duration::from_millis(150);
        let mut stream = self.say(bytes)?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        // A server may also reset: what it said before counts.
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..n]);
            stream.set_read_timeout(Some(SILENCE))?;
        }
        Ok(answer)
    }

    fn open(&self) -> Result<TcpStream> {
        let socket =
            Socket::new(Domain::for_address(self.target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(self.source_port.is_some())?;
        if let Some(mss) = self.mss {
            socket.set_tcp_mss(mss)?;
        }
        if self.reset {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        if self.fast_open {
            nix::sys::socket::setsockopt(
                &socket,
                nix::sys::socket::sockopt::TcpFastOpenConnect,
                &true,
            )?;
        }
        let source = SocketAddr::new(self.source, self.source_port.unwrap_or(0));
        socket.bind(&source.into()).with_context(|| format!("bind to {source}"))?;
        socket
            .connect_timeout(&self.target.into(), self.timeout)
            .with_context(|| format!("connect to {}", self.target))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(self.nodelay)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(stream)
    }
}

/// What a client's sessions are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// Session IDs of TLS 1.2.
    SessionId,
    /// Tickets of TLS 1.2.
    Ticket12,
    /// Tickets of TLS 1.3.
    Ticket13,
}

impl Offer {
    /// The version of TLS it speaks.
    pub fn version(self) -> &'static SupportedProtocolVersion {
        match self {
            Offer::SessionId | Offer::Ticket12 => &TLS12,
            Offer::Ticket13 => &TLS13,
        }
    }
}

/// One simulated client: it keeps the session it was given last and offers it again.
#[derive(Clone)]
pub struct Client {
    pki: Arc<Pki>,
    config: Arc<ClientConfig>,
    sessions: Arc<Sessions>,
    tls12: Tls12Resumption,
}

/// What a handshake showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Whether the client had a session to offer.
    pub offered: bool,
    /// Whether the server accepted it, in the client's own view.
    pub resumed: bool,
    /// Name in the server's certificate; of a resumed session, that of the server which issued it.
    pub server: String,
    /// From TCP connect to Finished.
    pub time: Duration,
}

/// An open TLS connection.
pub struct Connection {
    /// How it came to be.
    pub handshake: Handshake,
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// Whether the server is asked to keep it open behind its answers.
    kept: bool,
}

impl Client {
    /// A client with the certificate that the backends ask for, and no session yet.
    ///
    /// # Errors
    /// When rustls refuses the certificates.
    pub fn new(pki: &Arc<Pki>) -> Result<Self> {
        Self::offering(pki, Offer::SessionId)
    }

    /// As [`Client::new`], with another kind of session.
    ///
    /// # Errors
    /// When rustls refuses the certificates.
    pub fn offering(pki: &Arc<Pki>, offer: Offer) -> Result<Self> {
        let mut client = Self::with_config(pki, pki.client_config(true, offer.version())?);
        if offer == Offer::Ticket12 {
            client.tls12 = Tls12Resumption::SessionIdOrTickets;
            client = client.sibling();
        }
        Ok(client)
    }

    /// Changes its settings.
    pub fn change(&mut self, how: impl FnOnce(&mut ClientConfig)) {
        let mut config = (*self.config).clone();
        how(&mut config);
        self.config = Arc::new(config);
    }

    /// A client with settings of its own.
    pub fn with_config(pki: &Arc<Pki>, mut config: ClientConfig) -> Self {
        let (sessions, tls12) = (Arc::new(Sessions::default()), Tls12Resumption::SessionIdOnly);
        config.resumption = Resumption::store(sessions.clone()).tls12_resumption(tls12);
        Self { pki: pki.clone(), config: Arc::new(config), sessions, tls12 }
    }

    /// Another client like this one, without its session; cheaper than a new one.
    pub fn sibling(&self) -> Self {
        let sessions = Arc::new(Sessions::default());
        let mut config = (*self.config).clone();
        config.resumption = Resumption::store(sessions.clone()).tls12_resumption(self.tls12);
        Self { pki: self.pki.clone(), config: Arc::new(config), sessions, tls12: self.tls12 }
    }

    /// Forgets which group its server wants, so that it guesses wrong again.
    pub fn forget_group(&self) {
        self.sessions.forget_group();
    }

    /// Makes every hello of this client at least `len` bytes longer, by protocol names that no
    /// server speaks.
    pub fn lengthen_hello(&mut self, len: usize) {
        const NAME: usize = 200;
        let mut config = (*self.config).clone();
        let fillers =
            (0..len.div_ceil(NAME + 1)).map(|index| format!("{index:0>NAME$}").into_bytes());
        config.alpn_protocols = std::iter::once(b"http/1.1".to_vec()).chain(fillers).collect();
        self.config = Arc::new(config);
    }

    /// Forgets its session.
    pub fn forget(&self) {
        self.sessions.clear();
    }

    /// Connects and shakes hands.
    ///
    /// # Errors
    /// When either fails: what a user would see as a broken connection.
    pub fn connect(&self, dial: &Dial) -> Result<Connection> {
        let offered = self.sessions.has_one();
        let start = Instant::now();
        let mut tcp = dial.open()?;
        let mut tls = ClientConnection::new(self.config.clone(), ServerName::try_from(HOST)?)?;
        thread::sleep(dial.idle);
        if !dial.cuts.is_empty() || dial.record.is_some() {
            write_hello(&mut tls, &mut tcp, dial)?;
        }
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).context("shake hands")?;
        }
        let time = start.elapsed();
        let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let server = self.server_of(&tls)?;
        Ok(Connection {
            handshake: Handshake { offered, resumed, server, time },
            stream: StreamOwned::new(tls, tcp),
            kept: false,
        })
    }

    /// Connects and asks for `/`: the whole of a short visit.
    ///
    /// # Errors
    /// When the connection fails, or when the server's answer and its certificate name different
    /// backends.
    pub fn visit(&self, dial: &Dial) -> Result<Handshake> {
        let mut connection = self.connect(dial)?;
        connection.ask()?;
        Ok(connection.handshake)
    }

    /// Visits `/` with the request as early data (RFC 8446 2.3) behind the hello; also returns
    /// whether it was accepted.
    ///
    /// # Errors
    /// When the connection fails, or there is no session that allows it.
    pub fn visit_early(&self, dial: &Dial) -> Result<(Handshake, bool)> {
        let start = Instant::now();
        let mut tcp = dial.open()?;
        let mut tls = ClientConnection::new(self.config.clone(), ServerName::try_from(HOST)?)?;
        let mut early = tls.early_data().context("no session that allows early data")?;
        early.write_all(http::request("/").as_bytes()).context("write early data")?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).context("shake hands")?;
        }
        let (time, accepted) = (start.elapsed(), tls.is_early_data_accepted());
        let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let handshake = Handshake { offered: true, resumed, server: self.server_of(&tls)?, time };
        let mut connection =
            Connection { handshake, stream: StreamOwned::new(tls, tcp), kept: false };
        let body = if accepted { connection.listen("/")? } else { connection.get("/")? }.text();
        anyhow::ensure!(
            body.starts_with(&connection.handshake.server),
            "another server answered: {body:?}"
        );
        Ok((connection.handshake, accepted))
    }

    fn server_of(&self, tls: &ClientConnection) -> Result<String> {
        let shown = tls
            .peer_certificates()
            .and_then(<[_]>::first)
            .context("the server showed no certificate")?;
        Ok(self
            .pki
            .name_of(shown)
            .context("the server's certificate is not of this lab")?
            .to_owned())
    }
}

impl Connection {
    /// Asks for `/`, and expects an answer from the server that the handshake named.
    ///
    /// # Errors
    /// When the connection fails, or when the server's answer and its certificate name different
    /// backends.
    pub fn ask(&mut self) -> Result<()> {
        let body = self.get("/")?.text();
        let reused = if self.handshake.resumed { "r" } else { "." };
        let expected = format!("{} {reused} SUCCESS\n", self.handshake.server);
        if body != expected {
            return Err(anyhow!(
                "the server answered {body:?}, its certificate and handshake say {expected:?}"
            ));
        }
        Ok(())
    }
}

/// The message of a hello's one record in records of `len` bytes.
fn in_records(hello: &[u8], len: usize) -> Vec<u8> {
    let (header, message) = hello.split_at(5);
    let records = message
        .chunks(len)
        .flat_map(|piece| [&header[..3], &(piece.len() as u16).to_be_bytes(), piece].concat());
    records.collect()
}

fn write_hello(tls: &mut ClientConnection, tcp: &mut TcpStream, dial: &Dial) -> Result<()> {
    let mut hello = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut hello)?;
    }
    if let Some(len) = dial.record {
        hello = in_records(&hello, len);
    }
    let mut start = 0;
    for &cut in dial.cuts.iter().filter(|&&cut| cut < hello.len()) {
        tcp.write_all(&hello[start..cut]).context("write a piece of the hello")?;
        thread::sleep(dial.cut_pause);
        start = cut;
    }
    tcp.write_all(&hello[start..]).context("write the rest of the hello")
}
