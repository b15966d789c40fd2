//! TLS records (RFC 5246 6.2.1) and the handshake messages that name a session.

pub mod client_certificate;
pub mod client_hello;
pub mod server_flight;

/// Record content types (RFC 5246 6.2.1).
pub mod content {
    /// ChangeCipherSpec.
    pub const CHANGE_CIPHER_SPEC: u8 = 0x14;
    /// Alert.
    pub const ALERT: u8 = 0x15;
    /// Handshake.
    pub const HANDSHAKE: u8 = 0x16;
    /// Application data.
    pub const APPLICATION_DATA: u8 = 0x17;
}

/// Handshake message types (RFC 5246 7.4).
pub mod handshake {
    /// ClientHello.
    pub const CLIENT_HELLO: u8 = 1;
    /// ServerHello.
    pub const SERVER_HELLO: u8 = 2;
    /// NewSessionTicket (RFC 5077 3.3).
    pub const NEW_SESSION_TICKET: u8 = 4;
    /// Certificate.
    pub const CERTIFICATE: u8 = 11;
    /// ServerKeyExchange.
    pub const SERVER_KEY_EXCHANGE: u8 = 12;
    /// CertificateRequest.
    pub const CERTIFICATE_REQUEST: u8 = 13;
    /// ServerHelloDone.
    pub const SERVER_HELLO_DONE: u8 = 14;
}

/// Extension types (IANA, TLS ExtensionType Values).
pub mod extension {
    /// server_name (RFC 6066 3).
    pub const SERVER_NAME: u16 = 0;
    /// session_ticket (RFC 5077 3.2).
    pub const SESSION_TICKET: u16 = 35;
    /// pre_shared_key (RFC 8446 4.2.11).
    pub const PRE_SHARED_KEY: u16 = 41;
    /// supported_versions (RFC 8446 4.2.1).
    pub const SUPPORTED_VERSIONS: u16 = 43;
    /// encrypted_client_hello (RFC 9849).
    pub const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
}

/// The versions of TLS that are told apart, by their number on the wire.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.0 (RFC 2246).
    Tls10 = 0x0301,
    /// TLS 1.1 (RFC 4346).
    Tls11 = 0x0302,
    /// TLS 1.2 (RFC 5246).
    Tls12 = 0x0303,
    /// TLS 1.3 (RFC 8446).
    Tls13 = 0x0304,
}

impl Version {
    /// The version with this number; `None` for others, grease (RFC 8701) among them.
    #[inline(always)]
    pub const fn from_wire(number: u16) -> Option<Self> {
        match number {
            0x0301 => Some(Version::Tls10),
            0x0302 => Some(Version::Tls11),
            0x0303 => Some(Version::Tls12),
            0x0304 => Some(Version::Tls13),
            _ => None,
        }
    }

    /// The word used in CLI and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Version::Tls10 => "1.0",
            Version::Tls11 => "1.1",
            Version::Tls12 => "1.2",
            Version::Tls13 => "1.3",
        }
    }
}

/// Length of a record header, bytes.
pub const RECORD_HEADER: usize = 5;
/// Longest record in clear, bytes without its header (RFC 8446 5.1).
pub const RECORD_MAX: u32 = 1 << 14;
/// Major version of every SSL 3 and TLS record and hello.
pub const MAJOR: u8 = 3;
/// Where the length byte of the session ID stands, from the record header of an unfragmented hello:
/// record header 5, message header 4, version 2, random 32 (RFC 5246 7.4.1.2).
pub const SESSION_ID_LEN_AT: usize = 43;
