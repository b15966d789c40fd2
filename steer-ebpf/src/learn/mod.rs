//! What backends' and clients' handshakes teach: sessions, names of ticket keys, certificates.

pub(crate) mod certificate;
pub(crate) mod key_names;
pub(crate) mod server_flight;
pub(crate) mod sources;
