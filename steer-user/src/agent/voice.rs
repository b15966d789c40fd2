//! What is said to clients in the name of their servers.

use std::{
    io::{self, Error},
    mem::size_of,
    net::SocketAddr,
    num::NonZeroU32,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use rustix::net::{self, AddressFamily, Protocol, SendFlags, SocketFlags, SocketType};
use steer_common::{
    flow::StateWord,
    shared::{Address, Endpoint, Flow, FlowKey, options},
    wire::tcp::flags,
};

/// A packet socket that sends and never receives.
#[derive(Debug)]
pub(super) struct Voice(OwnedFd);

impl Voice {
    /// Opens it; later this process lacks the right.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub(super) fn open() -> io::Result<Self> {
        // Protocol 0: nothing is received.
        // SAFETY: no pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            )
        };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: a descriptor that nobody else has.
        let voice = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        voice.deafen()?;
        Ok(voice)
    }

    /// Whoever takes this process over hears nothing by it, to whatever he binds it: a filter that
    /// takes no packet, for good.
    fn deafen(&self) -> io::Result<()> {
        const RETURN_0: libc::sock_filter = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
        let mut filter = [RETURN_0];
        let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
        self.set(libc::SO_ATTACH_FILTER, &program)?;
        self.set(libc::SO_LOCK_FILTER, &1_i32)
    }

    fn set<T>(&self, option: i32, value: &T) -> io::Result<()> {
        let length = size_of::<T>() as libc::socklen_t;
        // SAFETY: a whole value that outlives the call.
        let failed = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const *value).cast(),
                length,
            )
        };
        if failed == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    /// Repeats a backend's SYN-ACK in the name of what the client `dialled`, by the way that the
    /// flow's record has.
    ///
    /// # Errors
    /// Where the record has no way, or the frame cannot be sent by it.
    pub(super) fn repeat_syn_ack(
        &self,
        key: &FlowKey,
        dialled: &Endpoint,
        flow: &Flow,
    ) -> io::Result<()> {
        let hop = &flow.client_hop;
        let mut frame = hop.ethernet.to_vec();
        if hop.vlan() != 0 {
            frame.extend([0x81, 0]);
            frame.extend(hop.vlan().to_be_bytes());
        }
        frame.extend(if dialled.address.is_v4() { [8, 0] } else { [0x86, 0xdd] });
        frame.extend(syn_ack(key, dialled, flow));
        self.send(hop.ifindex, &frame)
    }

    fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all of its fields may be zero.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex as i32;
        to.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: buffers and their lengths.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                length,
            )
        };
        if sent < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }
}

/// A raw socket of each family, for packets that the kernel routes.
#[derive(Debug)]
pub(super) struct Routed {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Routed {
    /// Opens them.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub(super) fn open() -> io::Result<Self> {
        // Its packets come with their IP headers (raw(7), ipv6(7)), and it receives none.
        let raw = Protocol::from_raw(NonZeroU32::new(libc::IPPROTO_RAW as u32).expect("not 0"));
        let open =
            |family| net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(raw));
        Ok(Self { v4: open(AddressFamily::INET)?, v6: open(AddressFamily::INET6)? })
    }

    /// As [`Voice::repeat_syn_ack`], by the kernel's routes.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn repeat_syn_ack(
        &self,
        key: &FlowKey,
        dialled: &Endpoint,
        flow: &Flow,
    ) -> io::Result<()> {
        let packet = syn_ack(key, dialled, flow);
        let (socket, to) = if dialled.address.is_v4() {
            (&self.v4, SocketAddr::from((v4(&key.client), 0)))
        } else {
            (&self.v6, SocketAddr::from((key.client.octets(), 0)))
        };
        net::sendto(socket, &packet, SendFlags::empty(), &to).map(drop).map_err(Into::into)
    }
}

/// The server's SYN-ACK as the client got it, from the IP header on.
fn syn_ack(key: &FlowKey, vip: &Endpoint, flow: &Flow) -> Vec<u8> {
    let isn = StateWord(flow.word).isn();
    let ecn = if flow.agreed & options::ECN != 0 { flags::ECE } else { 0 };
    let agreed = agreed(flow);
    let mut tcp = Vec::with_capacity(60);
    tcp.extend(vip.port);
    tcp.extend(key.client_port);
    tcp.extend(flow.first_isn.to_be_bytes());
    tcp.extend(isn.wrapping_add(1).to_be_bytes());
    tcp.extend([(((20 + agreed.len()) / 4) << 4) as u8, flags::SYN | flags::ACK | ecn]);
    tcp.extend(flow.first_window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(agreed);

    let mut packet = Vec::with_capacity(40 + tcp.len());
    if vip.address.is_v4() {
        packet.extend([0x45, 0, 0, (20 + tcp.len()) as u8, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        packet.extend(v4(&vip.address));
        packet.extend(v4(&key.client));
        let sum = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum);
    } else {
        packet.extend([0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64]);
        packet.extend(vip.address.octets());
        packet.extend(key.client.octets());
    }
    let pseudo = [0, 6, 0, tcp.len() as u8];
    // The prefix of mapped addresses would be summed, too.
    let sum = if vip.address.is_v4() {
        checksum(&[&v4(&vip.address), &v4(&key.client), &pseudo, &tcp])
    } else {
        checksum(&[&vip.address.octets(), &key.client.octets(), &pseudo, &tcp])
    };
    tcp[16..18].copy_from_slice(&sum);
    packet.extend(tcp);
    packet
}

/// What client and server agreed to.
fn agreed(flow: &Flow) -> Vec<u8> {
    const NOP: u8 = 1;
    let has = |option: u8| flow.agreed & option != 0;
    let mut bytes = Vec::new();
    if flow.advertised_mss != 0 {
        bytes.extend([2, 4]);
        bytes.extend(flow.advertised_mss.to_be_bytes());
    }
    if has(options::SACK) {
        bytes.extend([NOP, NOP, 4, 2]);
    }
    if has(options::TIMESTAMPS) {
        bytes.extend([NOP, NOP, 8, 10]);
        bytes.extend(flow.first_ts.to_be_bytes());
        bytes.extend(flow.client_ts.to_be_bytes());
    }
    if has(options::WINDOW_SCALE) {
        bytes.extend([NOP, 3, 3, flow.first_scale]);
    }
    bytes
}

fn v4(address: &Address) -> [u8; 4] {
    let [.., a, b, c, d] = address.octets();
    [a, b, c, d]
}

/// The Internet checksum (RFC 1071) of parts, each of an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use anyhow::{Context as _, Result};
    use etherparse::{NetHeaders, PacketHeaders, TcpOptionElement as Said, TransportHeader};
    use steer_common::flow::State;

    use super::*;
    use crate::address;

    /// A client whose acknowledgement was dropped: what it is told must be what it was told first.
    #[test]
    fn a_repeated_syn_ack_says_what_the_first_one_said() -> Result<()> {
        let all = options::SACK | options::TIMESTAMPS | options::WINDOW_SCALE;
        for (client, vip) in
            [("192.0.2.7", "198.51.100.10:443"), ("2001:db8::7", "[2001:db8::10]:443")]
        {
            for agreed in [0, all, all | options::ECN] {
                let (client, vip): (IpAddr, SocketAddr) = (client.parse()?, vip.parse()?);
                let key = FlowKey {
                    client: address::address(client),
                    client_port: 40001_u16.to_be_bytes(),
                    service: 0,
                };
                let flow = Flow {
                    word: StateWord::new(State::SynAck, u32::MAX).0,
                    first_isn: 0x0102_0304,
                    first_window: 65160,
                    first_ts: 7,
                    client_ts: 9,
                    first_scale: 8,
                    advertised_mss: 1400,
                    agreed,
                    ..Flow::default()
                };
                let packet = syn_ack(&key, &address::endpoint(vip), &flow);
                let packet = PacketHeaders::from_ip_slice(&packet)?;
                let Some(TransportHeader::Tcp(tcp)) = packet.transport else {
                    anyhow::bail!("no TCP: {packet:?}")
                };
                let sum = match packet.net.context("no IP")? {
                    NetHeaders::Ipv4(ip, _) => {
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                        assert_eq!(
                            (IpAddr::from(ip.source), IpAddr::from(ip.destination)),
                            (vip.ip(), client)
                        );
                        tcp.calc_checksum_ipv4(&ip, &[])?
                    }
                    NetHeaders::Ipv6(ip, _) => {
                        assert_eq!(
                            (IpAddr::from(ip.source), IpAddr::from(ip.destination)),
                            (vip.ip(), client)
                        );
                        tcp.calc_checksum_ipv6(&ip, &[])?
                    }
                    NetHeaders::Arp(_) => anyhow::bail!("ARP"),
                };
                assert_eq!(tcp.checksum, sum);
                assert_eq!((tcp.source_port, tcp.destination_port), (443, 40001));
                assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (0x0102_0304, 0));
                assert!(tcp.syn && tcp.ack && !tcp.rst && !tcp.fin && tcp.window_size == 65160);
                assert_eq!(tcp.ece, agreed & options::ECN != 0);
                let said: Vec<_> = tcp
                    .options_iterator()
                    .filter_map(Result::ok)
                    .filter(|o| *o != Said::Noop)
                    .collect();
                let mss = [Said::MaximumSegmentSize(1400)];
                let more = [
                    Said::SelectiveAcknowledgementPermitted,
                    Said::Timestamp(7, 9),
                    Said::WindowScale(8),
                ];
                assert_eq!(
                    said,
                    if agreed == 0 { mss.to_vec() } else { [&mss[..], &more].concat() }
                );
            }
        }
        Ok(())
    }
}
