//! Segments made by hand, with right checksums, and a judge that recomputes every checksum in full.
//!
//! `etherparse` makes and judges them: nothing here shares code with steer's own parser and
//! checksums.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice,
    SlicedPacket, TcpHeader, TransportSlice,
};

/// A TCP segment in an IP packet; public fields are what tests vary.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver, of the same family.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN bits.
    pub traffic_class: u8,
    /// IPv4 options, a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// The TCP header; its checksum is computed when the packet is made.
    pub tcp: TcpHeader,
    /// What follows the TCP header.
    pub payload: Vec<u8>,
}

impl Segment {
    /// A segment without flags, options or payload.
    pub fn new(source: SocketAddr, destination: SocketAddr, seq: u32) -> Self {
        let tcp = TcpHeader::new(source.port(), destination.port(), seq, 64240);
        let (ip_options, payload) = (Vec::new(), Vec::new());
        Self { source, destination, hop_limit: 64, traffic_class: 0, ip_options, tcp, payload }
    }

    /// A SYN.
    #[must_use]
    pub fn syn(mut self) -> Self {
        self.tcp.syn = true;
        self
    }

    /// A reset.
    #[must_use]
    pub fn rst(mut self) -> Self {
        self.tcp.rst = true;
        self
    }

    /// A FIN.
    #[must_use]
    pub fn fin(mut self) -> Self {
        self.tcp.fin = true;
        self
    }

    /// An acknowledgement.
    #[must_use]
    pub fn ack(mut self, ack: u32) -> Self {
        self.tcp.ack = true;
        self.tcp.acknowledgment_number = ack;
        self
    }

    /// TCP options as they stand on the wire; padded to a multiple of four bytes.
    ///
    /// # Panics
    /// When they are longer than 40 bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.tcp.set_options_raw(options).expect("at most 40 bytes of TCP options");
        self
    }

    /// A payload, pushed.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self.tcp.psh = true;
        self
    }

    /// The IP packet.
    ///
    /// # Errors
    /// When the families differ or something does not fit its header.
    pub fn packet(&self) -> Result<Vec<u8>> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.packet_v4(from.octets(), to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.packet_v6(from.octets(), to.octets()),
            _ => bail!("a segment from {} to {}", self.source, self.destination),
        }
    }

    /// The packet in an Ethernet frame, behind VLAN tags (outermost first).
    ///
    /// # Errors
    /// As [`Segment::packet`].
    pub fn frame(&self, source: [u8; 6], destination: [u8; 6], vlans: &[u16]) -> Result<Vec<u8>> {
        let kind = if self.source.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let tag = |index: usize| {
            if index + 1 < vlans.len() {
                EtherType::PROVIDER_BRIDGING
            } else {
                EtherType::VLAN_TAGGED_FRAME
            }
        };
        let outer = if vlans.is_empty() { kind } else { tag(0) };
        let mut frame =
            Ethernet2Header { source, destination, ether_type: outer }.to_bytes().to_vec();
        for (index, vlan) in vlans.iter().enumerate() {
            let inner = if index + 1 < vlans.len() { tag(index + 1) } else { kind };
            frame.extend_from_slice(&vlan.to_be_bytes());
            frame.extend_from_slice(&inner.0.to_be_bytes());
        }
        frame.extend_from_slice(&self.packet()?);
        Ok(frame)
    }

    fn packet_v4(&self, from: [u8; 4], to: [u8; 4]) -> Result<Vec<u8>> {
        let len = u16::try_from(self.tcp.header_len() + self.payload.len())
            .context("a payload too long for IPv4")?;
        let mut ip = Ipv4Header::new(len, self.hop_limit, IpNumber::TCP, from, to)?;
        ip.options = self.ip_options.as_slice().try_into().context("IPv4 options")?;
        ip.dont_fragment = true;
        ip.dscp = (self.traffic_class >> 2).try_into()?;
        ip.ecn = (self.traffic_class & 0b11).try_into()?;
        ip.header_checksum = ip.calc_header_checksum();
        let mut tcp = self.tcp.clone();
        tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload)?;
        Ok([&ip.to_bytes(), &tcp.to_bytes(), self.payload.as_slice()].concat())
    }

    fn packet_v6(&self, source: [u8; 16], destination: [u8; 16]) -> Result<Vec<u8>> {
        ensure!(self.ip_options.is_empty(), "IPv6 has extension headers, no options");
        let ip = Ipv6Header {
            traffic_class: self.traffic_class,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: u16::try_from(self.tcp.header_len() + self.payload.len())
                .context("a payload too long for IPv6")?,
            next_header: IpNumber::TCP,
            hop_limit: self.hop_limit,
            source,
            destination,
        };
        let mut tcp = self.tcp.clone();
        tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload)?;
        Ok([ip.to_bytes().as_slice(), &tcp.to_bytes(), &self.payload].concat())
    }
}

/// Recomputes every checksum of a frame in full.
///
/// # Errors
/// When one is wrong, or when the frame is no TCP segment in IP.
pub fn judge_checksums(frame: &[u8]) -> Result<()> {
    let sliced = SlicedPacket::from_ethernet(frame).context("parse the frame")?;
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        bail!("the frame holds no TCP segment")
    };
    let (stands, right) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            let right = header.calc_header_checksum();
            ensure!(
                header.header_checksum == right,
                "IPv4 checksum {:#06x}, not {right:#06x}",
                header.header_checksum
            );
            (
                tcp.checksum(),
                tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())?,
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            (tcp.checksum(), tcp.to_header().calc_checksum_ipv6(&header, tcp.payload())?)
        }
        Some(NetSlice::Arp(_)) | None => bail!("the frame holds no IP packet"),
    };
    ensure!(stands == right, "TCP checksum {stands:#06x}, not {right:#06x}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn segments() -> [Segment; 2] {
        [("10.0.0.1:5000", "10.0.0.2:443"), ("[fd00::1]:5000", "[fd00::2]:443")].map(
            |(from, to)| {
                let (from, to) =
                    (from.parse().expect("an address"), to.parse().expect("an address"));
                Segment::new(from, to, 7)
                    .ack(9)
                    .options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
                    .payload(b"odd")
            },
        )
    }

    #[test]
    fn checksums_of_made_segments_are_right_behind_any_number_of_tags() -> Result<()> {
        for segment in segments() {
            for vlans in [&[][..], &[5], &[5, 6]] {
                judge_checksums(&segment.frame(MAC, MAC, vlans)?)?;
            }
        }
        Ok(())
    }

    #[test]
    fn one_changed_bit_is_noticed() -> Result<()> {
        for segment in segments() {
            let mut frame = segment.frame(MAC, MAC, &[])?;
            *frame.last_mut().expect("a payload") ^= 1;
            assert!(judge_checksums(&frame).is_err());
        }
        Ok(())
    }
}
