//! A frame with a TCP segment, and its fields changed as a balancer changes them.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::packets::Segment;

/// Bytes of `struct virtio_net_hdr` (linux/virtio_net.h) in front of each frame.
pub(super) const HEADER: usize = 10;
/// Its flag: the checksum covers the addresses only, the sender's hardware does the rest.
const NEEDS_CSUM: u8 = 1;

/// Offsets in the frame: of the IP header, and in the TCP header.
const IP: usize = 14;
const SEQ: usize = 4;
const ACK: usize = 8;
const FLAGS: usize = 13;
const WINDOW: usize = 14;
const SUM: usize = 16;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACKS: u8 = 16;

/// A frame behind its header.
#[derive(Clone)]
pub(super) struct Packet(Vec<u8>);

impl Packet {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// A segment made by hand; whose stations are the port's that it leaves by.
    pub(super) fn made(segment: &Segment) -> Result<Self> {
        let frame = segment.frame([0; 6], [0; 6], &[])?;
        Ok(Self([&[0; HEADER][..], &frame].concat()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn set_stations(&mut self, to: [u8; 6], from: [u8; 6]) {
        self.0[HEADER..][..6].copy_from_slice(&to);
        self.0[HEADER + 6..][..6].copy_from_slice(&from);
    }

    /// Whether it is a TCP segment, whole and without options of IP.
    pub(super) fn is_tcp(&self) -> bool {
        let frame = self.frame();
        match (&frame[12..14], frame.get(IP)) {
            ([0x08, 0x00], Some(0x45)) => frame.len() >= 54 && frame[IP + 9] == 6,
            ([0x86, 0xdd], Some(_)) => frame.len() >= 74 && frame[IP + 6] == 6,
            _ => false,
        }
    }

    pub(super) fn source(&self) -> SocketAddr {
        self.end(0)
    }

    pub(super) fn destination(&self) -> SocketAddr {
        self.end(1)
    }

    /// The number of its first byte.
    pub(super) fn seq(&self) -> u32 {
        self.number(SEQ)
    }

    /// What it acknowledges.
    pub(super) fn ack(&self) -> u32 {
        self.number(ACK)
    }

    pub(super) fn any(&self, flags: u8) -> bool {
        self.frame()[self.tcp() + FLAGS] & flags != 0
    }

    pub(super) fn window(&self) -> u16 {
        let at = self.tcp() + WINDOW;
        u16::from_be_bytes([self.frame()[at], self.frame()[at + 1]])
    }

    /// Bytes behind the TCP header.
    pub(super) fn payload_len(&self) -> usize {
        let frame = self.frame();
        let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let end = if self.v6() { IP + 40 + word(IP + 4) } else { IP + word(IP + 2) };
        let header = usize::from(frame[self.tcp() + 12] >> 4) * 4;
        end.saturating_sub(self.tcp() + header)
    }

    /// The number behind all that it carries.
    pub(super) fn end_seq(&self) -> u32 {
        let ends = u32::from(self.any(SYN)) + u32::from(self.any(FIN));
        self.seq().wrapping_add(self.payload_len() as u32).wrapping_add(ends)
    }

    pub(super) fn set_source(&mut self, end: SocketAddr) {
        self.set_end(0, end);
    }

    pub(super) fn set_destination(&mut self, end: SocketAddr) {
        self.set_end(1, end);
    }

    pub(super) fn add_to_seq(&mut self, delta: u32) {
        let seq = self.seq().wrapping_add(delta);
        self.put_tcp(SEQ, &seq.to_be_bytes());
    }

    pub(super) fn add_to_ack(&mut self, delta: u32) {
        let ack = self.ack().wrapping_add(delta);
        self.put_tcp(ACK, &ack.to_be_bytes());
    }

    fn frame(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    fn v6(&self) -> bool {
        self.frame()[12] == 0x86
    }

    fn tcp(&self) -> usize {
        IP + if self.v6() { 40 } else { 20 }
    }

    fn number(&self, field: usize) -> u32 {
        let at = self.tcp() + field;
        self.frame()[at..at + 4].try_into().map_or(0, u32::from_be_bytes)
    }

    /// The sender is end 0, the receiver end 1.
    fn end(&self, end: usize) -> SocketAddr {
        let frame = self.frame();
        let at = self.address_at(end);
        let address: IpAddr = if self.v6() {
            <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap_or_default().into()
        } else {
            <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap_or_default().into()
        };
        let port = self.tcp() + 2 * end;
        SocketAddr::new(address, u16::from_be_bytes([frame[port], frame[port + 1]]))
    }

    fn address_at(&self, end: usize) -> usize {
        if self.v6() { IP + 8 + 16 * end } else { IP + 12 + 4 * end }
    }

    fn set_end(&mut self, end: usize, to: SocketAddr) {
        let (at, sum) = (self.address_at(end), self.tcp() + SUM);
        let octets = match to.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        if !self.v6() {
            self.follow(IP + 10, at, &octets, false);
        }
        self.follow(sum, at, &octets, self.is_unfinished());
        self.put(at, &octets);
        self.put_tcp(2 * end, &to.port().to_be_bytes());
    }

    /// Changes a field of the TCP header, which an unfinished checksum does not cover.
    fn put_tcp(&mut self, field: usize, new: &[u8]) {
        let (at, sum) = (self.tcp() + field, self.tcp() + SUM);
        if !self.is_unfinished() {
            self.follow(sum, at, new, false);
        }
        self.put(at, new);
    }

    fn put(&mut self, at: usize, new: &[u8]) {
        self.0[HEADER + at..][..new.len()].copy_from_slice(new);
    }

    fn is_unfinished(&self) -> bool {
        self.0[0] & NEEDS_CSUM != 0
    }

    /// Has the checksum at `sum` follow a field that is about to be changed (RFC 1624). An
    /// unfinished one is the sum itself, not its complement.
    fn follow(&mut self, sum: usize, at: usize, new: &[u8], unfinished: bool) {
        let word = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let flip = if unfinished { 0 } else { 0xffff };
        let mut total = word(&self.frame()[sum..]) ^ flip;
        for (old, new) in self.frame()[at..].chunks(2).zip(new.chunks(2)) {
            total += (word(old) ^ 0xffff) + word(new);
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        self.put(sum, &((total ^ flip) as u16).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets::judge_checksums;

    #[test]
    fn checksums_follow_every_change() -> Result<()> {
        for (from, to, new) in [
            ("10.0.0.1:5000", "10.0.0.2:443", "192.0.2.77:1"),
            ("[fd00::1]:5000", "[fd00::2]:443", "[2001:db8::ffff]:65535"),
        ] {
            let segment = Segment::new(from.parse()?, to.parse()?, u32::MAX).ack(9).payload(b"odd");
            let mut packet = Packet::made(&segment)?;
            packet.set_source(new.parse()?);
            packet.set_destination(from.parse()?);
            packet.add_to_seq(0x1234_5678);
            packet.add_to_ack(u32::MAX);
            judge_checksums(packet.frame())?;
            assert_eq!((packet.source(), packet.destination()), (new.parse()?, from.parse()?));
            assert_eq!((packet.seq(), packet.ack()), (0x1234_5677, 8));
            assert_eq!((packet.payload_len(), packet.end_seq()), (3, 0x1234_567a));
        }
        Ok(())
    }
}
