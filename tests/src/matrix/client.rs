//! The clients: each stack visits a server from a chosen address, keeps the session it is given,
//! and says in its own view whether it was resumed.

mod openssl;
mod rustls;
mod talker;

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use self::{openssl::OpenSsl, rustls::Rustls, talker::Talker};
use super::{
    cell::{ClientStack, Protocol},
    peers::Peers,
    program::Found,
};
use crate::{pki::Pki, topology::Lab};

/// One connection to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit {
    /// The simulated client: each keeps one session.
    pub(super) slot: usize,
    pub(super) protocol: Protocol,
    pub(super) source: IpAddr,
    pub(super) target: SocketAddr,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// Whether the client had a session to offer.
    pub(super) offered: bool,
    /// Whether it was resumed, in the client's own view.
    pub(super) resumed: bool,
    /// Name in the server's certificate; of a resumed session, that of the server which issued it.
    pub(super) server: String,
}

/// A client stack at work.
pub(super) trait Client {
    /// Connects, asks for `/`, and reads until the server closes.
    fn visit(&mut self, visit: &Visit) -> Result<Seen>;

    /// Drops the session of a slot.
    fn forget(&mut self, slot: usize) -> Result<()>;
}

/// Starts a stack in the clients' namespace.
pub(super) fn start<'a>(
    stack: ClientStack,
    program: &Found,
    lab: &'a Lab,
    pki: &'a Pki,
    peers: &Peers,
) -> Result<Box<dyn Client + 'a>> {
    Ok(match stack {
        ClientStack::Openssl => Box::new(OpenSsl::new(lab.client(), peers)?),
        ClientStack::Rustls => Box::new(Rustls::new(lab.client(), pki)),
        ClientStack::Gnutls
        | ClientStack::Go
        | ClientStack::Java
        | ClientStack::Python
        | ClientStack::Node
        | ClientStack::Curl
        | ClientStack::Chromium => {
            Box::new(Talker::start(lab.client(), peers.client(stack, program)?)?)
        }
    })
}
