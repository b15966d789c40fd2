//! TLS records (RFC 5246 6.2.1) and the handshake messages that name a session.

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
}

/// Length of a record header, bytes.
pub const RECORD_HEADER: usize = 5;
/// Major version of every SSL 3 and TLS record and hello.
pub const MAJOR: u8 = 3;
/// Where the length byte of the session ID stands, from the record header of an unfragmented hello: record header 5,
/// message header 4, version 2, random 32 (RFC 5246 7.4.1.2).
pub const SESSION_ID_LEN_AT: usize = 43;
