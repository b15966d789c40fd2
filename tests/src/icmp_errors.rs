//! ICMP errors as a router sends them, about segments that somebody is said to have sent.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::NetNs;

/// What a router complains of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Frag-Needed, or Packet-Too-Big: the MTU of its next link.
    TooBig(u32),
    /// Destination unreachable, with this code of ICMP or ICMPv6 (1: host, or administratively
    /// prohibited).
    Unreachable(u8),
}

/// Sends errors from one address to another.
pub struct Teller {
    socket: Socket,
    to: IpAddr,
}

impl Teller {
    /// Opens one at an address of a namespace.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub fn open(ns: &NetNs, from: IpAddr, to: IpAddr) -> Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = ns.run(|| {
            let socket =
                Socket::new(domain, Type::RAW, Some(protocol)).context("open a raw socket")?;
            socket
                .bind(&SocketAddr::new(from, 0).into())
                .with_context(|| format!("bind to {from}"))?;
            Ok(socket)
        })?;
        Ok(Self { socket, to })
    }

    /// Sends an error that quotes a segment of `quoted` (source, destination) with this sequence
    /// number.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn tell(&self, trouble: Trouble, quoted: (SocketAddr, SocketAddr), seq: u32) -> Result<()> {
        let mut message = head(trouble, self.to.is_ipv4()).to_vec();
        message.extend(quoted_headers(quoted, seq));
        if self.to.is_ipv4() {
            // The kernel computes that of ICMPv6 alone.
            let check = checksum(&message);
            message[2..4].copy_from_slice(&check.to_be_bytes());
        }
        self.socket
            .send_to(&message, &SocketAddr::new(self.to, 0).into())
            .context("send an ICMP error")?;
        Ok(())
    }
}

/// Type, code, checksum (zero) and the word behind it (RFC 792, RFC 1191, RFC 4443).
fn head(trouble: Trouble, v4: bool) -> [u8; 8] {
    let (kind, code, word) = match (trouble, v4) {
        (Trouble::TooBig(mtu), true) => (3, 4, mtu),
        (Trouble::TooBig(mtu), false) => (2, 0, mtu),
        (Trouble::Unreachable(code), true) => (3, code, 0),
        (Trouble::Unreachable(code), false) => (1, code, 0),
    };
    let word: [u8; 4] = word.to_be_bytes();
    [kind, code, 0, 0, word[0], word[1], word[2], word[3]]
}

/// RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// An IP header and the first 8 bytes of a TCP header, as a router quotes them.
fn quoted_headers((source, destination): (SocketAddr, SocketAddr), seq: u32) -> Vec<u8> {
    let mut bytes = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 5, 220, 0, 0, 0x40, 0, 63, 6, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 5, 180, 6, 63];
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => Vec::new(),
    };
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes.extend(seq.to_be_bytes());
    bytes
}
