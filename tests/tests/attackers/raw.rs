//! A client made by hand, at an address that no kernel has: it says what it wants, and nobody
//! resets what it opens.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use etherparse::{SlicedPacket, TransportSlice};
use steer_tests::{
    flood::{LINUX, at_clients, from_clients},
    frames::Tap,
    packets::Segment,
    scenario::Run,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// One connection of it.
pub(crate) struct RawClient {
    tap: Tap,
    pub(crate) address: SocketAddr,
    vip: SocketAddr,
    /// Initial sequence numbers.
    pub(crate) isn: u32,
    pub(crate) server_isn: u32,
}

impl RawClient {
    /// Opens a connection to the VIP and acknowledges it.
    pub(crate) fn connect(run: &Run, address: SocketAddr) -> Result<Self> {
        let (tap, vip, isn) = (at_clients(&run.lab)?, run.vip(), 0x1000_0000);
        tap.send(&from_clients(&Segment::new(address, vip, isn).syn().options(&LINUX[..4]))?)?;
        let answers = |frame: &[u8]| syn_ack(frame, address.port()).is_some();
        let answer = tap.await_frame(PATIENCE, answers)?.context("no SYN-ACK comes")?;
        let server_isn = syn_ack(&answer, address.port()).context("read a SYN-ACK")?;
        let client = Self { tap, address, vip, isn, server_isn };
        client.tap.send(&from_clients(&client.segment(0))?)?;
        Ok(client)
    }

    /// A segment that acknowledges the server's SYN-ACK, so many bytes into the client's stream.
    pub(crate) fn segment(&self, at: u32) -> Segment {
        Segment::new(self.address, self.vip, self.isn.wrapping_add(1 + at))
            .ack(self.server_isn.wrapping_add(1))
    }

    /// Says something, from the first byte of the stream on.
    pub(crate) fn say(&self, bytes: &[u8]) -> Result<()> {
        self.tap.send(&from_clients(&self.segment(0).payload(bytes))?)
    }
}

/// The sequence number of a SYN-ACK to a port.
fn syn_ack(frame: &[u8], port: u16) -> Option<u32> {
    let Some(TransportSlice::Tcp(tcp)) = SlicedPacket::from_ethernet(frame).ok()?.transport else {
        return None;
    };
    (tcp.syn() && tcp.ack() && tcp.destination_port() == port).then(|| tcp.sequence_number())
}
