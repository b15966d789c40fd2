//! A packet socket that takes and gives frames as the kernel has them: with unfinished checksums,
//! and of up to 64 KB.

use std::{
    io::{ErrorKind, Read as _},
    mem::size_of,
    os::fd::{AsRawFd as _, RawFd},
};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use super::packet::{HEADER, Packet};
use crate::{
    frames::{ALL_PROTOCOLS, link_address},
    netns::NetNs,
};

/// One interface of the balancer.
pub(super) struct Port {
    socket: Socket,
    /// Its station, and the one at the far end.
    pub(super) own: [u8; 6],
    pub(super) far: [u8; 6],
}

impl Port {
    pub(super) fn open(ns: &NetNs, interface: &str, own: [u8; 6], far: [u8; 6]) -> Result<Self> {
        ns.run(|| {
            let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
            let protocol = Protocol::from(i32::from(ALL_PROTOCOLS.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
            with_offloads(&socket)?;
            socket.bind(&link_address(index)?).context("bind a packet socket")?;
            socket.set_nonblocking(true)?;
            socket.set_recv_buffer_size(8 << 20)?;
            Ok(Self { socket, own, far })
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next frame that waits, and whom it is for.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<Received> {
        match (&self.socket).read(buffer) {
            Ok(n) if n >= HEADER + 14 => {
                let to = &buffer[HEADER..][..6];
                if to == self.own {
                    return Ok(Received::Ours(Packet::of(buffer[..n].to_vec())));
                }
                let for_many = to[0] & 1 != 0;
                Ok(if for_many || to == self.far { Received::Skipped } else { Received::NotOurs })
            }
            Ok(_) => Ok(Received::Skipped),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) => Err(error).context("receive a frame"),
        }
    }

    /// Sends a packet to the far end. As on a wire, what a queue has no room for is lost.
    pub(super) fn send(&self, mut packet: Packet) {
        packet.set_stations(self.far, self.own);
        drop(self.socket.send(packet.bytes()));
    }
}

/// What a socket had.
pub(super) enum Received {
    /// A frame for this station.
    Ours(Packet),
    /// What this machine itself sent, by another socket, or what is for many.
    Skipped,
    /// A frame for another station.
    NotOurs,
    /// No more for now.
    Nothing,
}

/// Every frame begins with the header of a virtio NIC, which says what is unfinished
/// (PACKET_VNET_HDR, linux/if_packet.h).
fn with_offloads(socket: &Socket) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, whose address and size are told.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).context("ask for headers") }
}
