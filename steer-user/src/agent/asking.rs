//! Asks clients once more for the acknowledgement that the programs dropped (`swallow`). Where no
//! hello followed it within a moment the client waits for something, or for its server to speak
//! first: so its server's SYN-ACK is repeated in the VIP's name, as the server itself would a
//! second later if it keeps anything of the handshake. What the client answers goes through.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Error},
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};
use steer_common::{
    flow::{State, StateWord},
    shared::{
        Address, Endpoint, FLOW_ACK_SWALLOWED, FLOW_MADE, Flow, FlowKey, SWITCH_ASKING, options,
    },
    wire::tcp::flags,
};

use crate::{clock, plane::Plane};

/// When a client is asked, from its acknowledgement on: a hello nearly always follows sooner. A
/// client answers no more than one such segment in half a second
/// (`net.ipv4.tcp_invalid_ratelimit`), and the server's own repetition comes after a second.
const TIMES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(700), Duration::from_millis(1700)];

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

/// Who may have to be asked.
pub(super) struct Asking {
    voice: Voice,
    plane: Plane,
    vips: HashMap<u16, Endpoint>,
    /// For each of [`TIMES`], in the order of the acknowledgements: when it came, nanoseconds, and
    /// of whom.
    waiting: [VecDeque<(u64, FlowKey)>; TIMES.len()],
    /// Until then, seconds, the programs know that clients are asked.
    announced: u32,
}

/// For how long, seconds, the programs go on to swallow where nothing is heard of the agent.
const ANNOUNCED: u32 = 2;

impl Asking {
    pub(super) fn new(voice: Voice, plane: Plane) -> Self {
        Self { voice, plane, vips: HashMap::new(), waiting: Default::default(), announced: 0 }
    }

    /// A client's acknowledgement was dropped.
    pub(super) fn note(&mut self, at: u64, of: FlowKey) {
        self.waiting[0].push_back((at, of));
    }

    /// Tells the programs that clients are asked, for the next seconds, and asks whose time has
    /// come.
    ///
    /// # Errors
    /// When a map cannot be read or written, or a frame cannot be sent.
    pub(super) fn ask(&mut self) -> Result<()> {
        let until = clock::seconds() + ANNOUNCED;
        if until != self.announced {
            self.plane.set_switch_number(SWITCH_ASKING, until)?;
            self.announced = until;
        }
        let now = clock::nanoseconds();
        for (number, after) in TIMES.iter().enumerate() {
            let due = now.saturating_sub(after.as_nanos() as u64);
            while let Some(&(at, key)) = self.waiting[number].front().filter(|(at, _)| *at <= due) {
                self.waiting[number].pop_front();
                let Some(flow) = self.plane.handshakes.find(&key)?.filter(is_unheard) else {
                    continue;
                };
                let Some(dialled) = self.dialled(&key, &flow)? else { continue };
                let frame = syn_ack(&key, &dialled, &flow);
                if let Err(error) = self.voice.send(flow.client_hop.ifindex, &frame) {
                    log::debug!(
                        "repeat a SYN-ACK by interface {}: {error}",
                        flow.client_hop.ifindex
                    );
                }
                if let Some(next) = self.waiting.get_mut(number + 1) {
                    next.push_back((at, key));
                }
            }
        }
        Ok(())
    }

    /// What a client dialled: a VIP, or a backend of an inline pool.
    fn dialled(&mut self, key: &FlowKey, flow: &Flow) -> Result<Option<Endpoint>> {
        match (key.dialled(), flow.entrance()) {
            (Some(id), _) => Ok(self.plane.backend(id.into())?.map(|backend| backend.endpoint)),
            (None, 0) => self.vip(key.pool()),
            (None, number) => {
                let entrances = self.plane.entrances()?.into_iter();
                let mut its = entrances.filter(|(other, _)| *other == u32::from(number));
                Ok(its.next().map(|(_, entrance)| entrance.endpoint))
            }
        }
    }

    fn vip(&mut self, id: u16) -> Result<Option<Endpoint>> {
        if !self.vips.contains_key(&id) {
            let vips = self.plane.vips().context("find the VIP of a handshake")?;
            self.vips = vips.into_iter().map(|(endpoint, vip)| (vip.id, endpoint)).collect();
        }
        Ok(self.vips.get(&id).copied())
    }
}

/// Whether the client has acknowledged its server, and its server does not know.
fn is_unheard(flow: &Flow) -> bool {
    flow.flags & (FLOW_ACK_SWALLOWED | FLOW_MADE) == FLOW_ACK_SWALLOWED
        && StateWord(flow.word).state() == State::SynAck
}

/// The server's SYN-ACK as the client got it.
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

    let mut frame = flow.client_hop.ethernet.to_vec();
    if vip.address.is_v4() {
        frame.extend([8, 0]);
        let mut ip = vec![0x45, 0, 0, (20 + tcp.len()) as u8, 0, 0, 0x40, 0, 64, 6, 0, 0];
        ip.extend(v4(&vip.address));
        ip.extend(v4(&key.client));
        let sum = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&sum);
        frame.extend(ip);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64]);
        frame.extend(vip.address.octets());
        frame.extend(key.client.octets());
    }
    let pseudo = [0, 6, 0, tcp.len() as u8];
    // The prefix of mapped addresses would be summed, too.
    let sum = if vip.address.is_v4() {
        checksum(&[&v4(&vip.address), &v4(&key.client), &pseudo, &tcp])
    } else {
        checksum(&[&vip.address.octets(), &key.client.octets(), &pseudo, &tcp])
    };
    tcp[16..18].copy_from_slice(&sum);
    frame.extend(tcp);
    frame
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

    use etherparse::{NetHeaders, PacketHeaders, TcpOptionElement as Said, TransportHeader};
    use steer_common::shared::Hop;

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
                let hop = Hop {
                    ifindex: 1,
                    ethernet: Hop::mac_addresses([2; 6], [4; 6]),
                    ..Hop::default()
                };
                let flow = Flow {
                    word: StateWord::new(State::SynAck, u32::MAX).0,
                    first_isn: 0x0102_0304,
                    first_window: 65160,
                    first_ts: 7,
                    client_ts: 9,
                    first_scale: 8,
                    advertised_mss: 1400,
                    client_hop: hop,
                    agreed,
                    ..Flow::default()
                };
                let frame = syn_ack(&key, &address::endpoint(vip), &flow);
                assert_eq!(frame[..12], [[2; 6], [4; 6]].concat());
                let packet = PacketHeaders::from_ethernet_slice(&frame)?;
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
