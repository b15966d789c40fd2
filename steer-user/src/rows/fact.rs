//! What is known of an identifier, and what becomes of it where it is told.

use std::net::SocketAddr;

use steer_common::session::Kind;

use crate::service::Service;

/// Who holds a session, or a ticket key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fact {
    /// Its VIP, or the name of its pool.
    pub pool: Service,
    /// What it is an identifier of.
    pub kind: Kind,
    /// The identifier, 1 to 32 bytes.
    pub id: Vec<u8>,
    /// The backend that holds it.
    pub owner: SocketAddr,
    /// Seconds since it was learned.
    pub age: u32,
    /// Seconds since its owner last issued or accepted it.
    pub idle: u32,
    /// How often the owner accepted it, or tickets of it.
    pub uses: u32,
    /// Of a key name: the end of the first ticket of it that was accepted.
    pub tail: u16,
    /// Of a key name: what its tickets showed, any of `KEY_NAME_*` but what is configured.
    pub flags: u16,
}

/// What became of a fact that was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// It is known now.
    Taken,
    /// As much, or more, was known.
    Known,
    /// Its pool or its backend is not here.
    Elsewhere,
    /// It is too old to be honoured.
    Expired,
    /// There is no room for it.
    Full,
}
