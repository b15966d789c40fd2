//! What is told of a connection: one row.

use std::{fmt, net::SocketAddr};

use serde::Serialize;
use steer_common::wire::tls::Version;

/// A TCP connection and what it shows of its TLS session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Who opened the connection.
    pub client: SocketAddr,
    /// Who was dialled.
    pub server: SocketAddr,
    /// The first ClientHello; `None` where it is not there, not whole or malformed.
    pub client_hello: Option<ClientHello>,
    /// The ServerHello, which is no HelloRetryRequest; `None` where it is not there or not whole.
    pub server_hello: Option<ServerHello>,
    /// The first 32 bytes of the ticket that the server issued in clear (TLS 1.2 and below), in
    /// hexadecimal.
    pub new_session_ticket_prefix: Option<String>,
    /// How the handshake came out.
    pub outcome: Outcome,
    /// What in this hello could steer it.
    pub key: Key,
    /// Version of the PROXY protocol whose header stands in front of the hello: `v1`, `v2`.
    pub proxy_protocol: Option<&'static str>,
    /// The client that the header announces.
    pub proxied_client: Option<SocketAddr>,
    /// The tags and tunnels that its first packet was found in, the outermost first.
    pub encapsulation: Option<String>,
}

/// What a ClientHello offers. Identifiers are in hexadecimal; what is not there or empty is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientHello {
    /// Highest known version of supported_versions, else legacy_version; `None` below TLS 1.0.
    pub version: Option<&'static str>,
    /// Length of the handshake message with its header, bytes.
    pub bytes: u32,
    /// TCP segments that brought a new byte of it or of its record headers.
    pub segments: u32,
    /// The session ID.
    pub session_id: Option<String>,
    /// The first 32 bytes of the ticket of TLS 1.2.
    pub ticket_prefix: Option<String>,
    /// The first 16 bytes of the first PSK identity.
    pub psk_prefix: Option<String>,
    /// The server name.
    pub sni: Option<String>,
    /// Whether Encrypted Client Hello, or its grease, is there.
    pub ech: bool,
    /// Whether a PSK identity is there that has a byte at least.
    #[serde(skip)]
    pub offers_psk: bool,
}

/// What a ServerHello says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerHello {
    /// The negotiated version; `None` below TLS 1.0, and where it is none that is known.
    pub version: Option<&'static str>,
    /// The session ID in hexadecimal; `None` where it is empty.
    pub session_id: Option<String>,
    /// Whether it selects a PSK identity.
    pub psk_accepted: bool,
    /// Whether the version is one whose messages are known, SSL 3.0 among them.
    #[serde(skip)]
    pub is_known: bool,
}

/// How a handshake came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A full handshake.
    Full,
    /// The server resumed the client's session.
    Resumed,
    /// What would tell is not in the capture.
    Unknown,
}

/// What in a hello could steer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// The session ID.
    SessionId,
    /// The ticket of TLS 1.2.
    Ticket,
    /// The name of the key of a TLS 1.3 ticket.
    KeyName,
    /// Nothing.
    None,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SessionId => "session-id",
            Self::Ticket => "ticket",
            Self::KeyName => "key-name",
            Self::None => "none",
        })
    }
}

impl Key {
    /// Judges by the negotiated version; where that was not seen, by the one offered.
    pub(super) fn of(client: Option<&ClientHello>, server: Option<&ServerHello>) -> Self {
        let Some(client) = client else { return Self::None };
        let version = server.map_or(client.version, |server| server.version);
        // What is not known came after TLS 1.2: drafts of TLS 1.3, and what vendors made of them.
        let is_newer = server.is_some_and(|server| !server.is_known);
        if is_newer || version == Some(Version::Tls13.word()) {
            return if client.offers_psk { Self::KeyName } else { Self::None };
        }
        match (&client.ticket_prefix, &client.session_id) {
            (Some(_), _) => Self::Ticket,
            (None, Some(_)) => Self::SessionId,
            (None, None) => Self::None,
        }
    }
}

/// The word for a version on the wire; `None` for one that has none.
pub(crate) fn version_word(number: u16) -> Option<&'static str> {
    Version::from_wire(number).map(Version::word)
}

/// Bytes in lower-case hexadecimal; `None` for none.
pub(super) fn hex(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
