//! Frames on an interface as they are: what no kernel would send, and what really arrived.

use std::{
    io::{self, Read},
    mem,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::NetNs;

/// An AF_PACKET socket on one interface: sends whole frames, sees all that pass there.
pub struct Tap {
    socket: Socket,
}

impl Tap {
    /// Opens one on an interface of a namespace.
    ///
    /// # Errors
    /// When the interface does not exist, or without CAP_NET_RAW.
    pub fn open(ns: &NetNs, interface: &str) -> Result<Self> {
        ns.run(|| {
            let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
            let protocol = Protocol::from(i32::from(ALL_PROTOCOLS.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("open a packet socket")?;
            socket.bind(&link_address(index)?).context("bind a packet socket")?;
            Ok(Self { socket })
        })
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the interface is down or the frame too long.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket.send(frame).map(drop).context("send a frame")
    }

    /// Sends frames as fast as they go, and returns how many went: those that a queue has no room for are lost.
    ///
    /// # Errors
    /// As [`Tap::send`].
    pub fn pour(&self, frames: &[impl AsRef<[u8]>]) -> Result<usize> {
        let mut n_sent = 0;
        for frame in frames {
            match self.socket.send(frame.as_ref()) {
                Ok(_) => n_sent += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error).context("send a frame"),
            }
        }
        Ok(n_sent)
    }

    /// Waits for a frame that `wanted` accepts; what this socket's own host sent counts too.
    ///
    /// # Errors
    /// When the socket breaks.
    pub fn await_frame(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + limit;
        let mut buffer = vec![0; 128 * 1024];
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left))?;
            match (&self.socket).read(&mut buffer) {
                Ok(n) if wanted(&buffer[..n]) => return Ok(Some(buffer[..n].to_vec())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("receive a frame"),
            }
        }
        Ok(None)
    }
}

/// ETH_P_ALL: every frame, in and out.
const ALL_PROTOCOLS: u16 = 0x0003;

fn link_address(index: u32) -> Result<SockAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ALL_PROTOCOLS.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: sockaddr_storage is larger than and at least as aligned as any sockaddr; the length says how much counts.
    let (_, storage) = unsafe {
        SockAddr::try_init(|storage, len| {
            storage.cast::<libc::sockaddr_ll>().write(address);
            *len = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(storage)
}
