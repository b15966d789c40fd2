//! The frames: bare acknowledgements with timestamps, all of one length.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use steer_common::shared::Address;

use crate::{
    packets::Segment,
    topology::{Family, backend, mac, source, vip},
};

/// Initial sequence numbers of the client and of the backend that it first had.
pub(super) const CLIENT_ISN: u32 = 0x1000_0000;
pub(super) const SERVER_ISN: u32 = 0xffff_fff0;

/// NOP, NOP, timestamps (RFC 7323 appendix A).
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0x10, 1, 0, 0, 0x20, 2];

/// A connection.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    family: Family,
    /// The backend that holds it.
    holder: usize,
}

/// The flow that stays with backend 0.
pub(super) fn stays(family: Family) -> Ends {
    Ends { client: SocketAddr::new(source(family, 0), 40_001), family, holder: 0 }
}

/// The flow that was re-homed to backend 1.
pub(super) fn moved(family: Family) -> Ends {
    Ends { client: SocketAddr::new(source(family, 0), 40_002), family, holder: 1 }
}

impl Ends {
    /// A frame of the client to the VIP, at the gateway.
    pub(super) fn up(&self) -> Result<Vec<u8>> {
        self.up_to(vip(self.family))
    }

    /// A frame of the client to some other address, at the gateway.
    pub(super) fn up_to(&self, to: SocketAddr) -> Result<Vec<u8>> {
        let segment = Segment::new(self.client, to, CLIENT_ISN.wrapping_add(1))
            .ack(SERVER_ISN.wrapping_add(1));
        segment.options(&TIMESTAMPS).frame(mac(0, 2), mac(0, 1), &[])
    }

    /// The Ethernet head that a frame of the client leaves with, and what follows it.
    pub(super) fn leaves(&self) -> Result<Vec<u8>> {
        let mut frame = self.up()?;
        let head = [mac(self.holder + 1, 2), mac(self.holder + 1, 1)].concat();
        frame[..head.len()].copy_from_slice(&head);
        Ok(frame)
    }

    /// A frame of the backend that holds the flow, at the gateway.
    pub(super) fn down(&self) -> Result<Vec<u8>> {
        let from = backend(self.family, self.holder);
        let segment = Segment::new(from, self.client, SERVER_ISN.wrapping_add(1))
            .ack(CLIENT_ISN.wrapping_add(1));
        segment.options(&TIMESTAMPS).frame(mac(self.holder + 1, 2), mac(self.holder + 1, 1), &[])
    }

    pub(super) fn syn(&self) -> Result<Vec<u8>> {
        let segment = Segment::new(self.client, vip(self.family), CLIENT_ISN).syn();
        segment.options(&TIMESTAMPS).frame(mac(0, 2), mac(0, 1), &[])
    }

    pub(super) fn syn_ack(&self, from: SocketAddr) -> Result<Vec<u8>> {
        let segment =
            Segment::new(from, self.client, SERVER_ISN).syn().ack(CLIENT_ISN.wrapping_add(1));
        segment.options(&TIMESTAMPS).frame(mac(1, 2), mac(1, 1), &[])
    }
}

/// An address as the maps have it.
pub(in crate::bench) fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::from_v4(ip.octets()),
        IpAddr::V6(ip) => Address::from_v6(ip.octets()),
    }
}
