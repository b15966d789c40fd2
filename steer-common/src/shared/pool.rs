//! VIPs, their backends, what those did, and settings.

use super::Endpoint;

/// A next hop on Ethernet: where a packet leaves and between which stations.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hop {
    /// Egress interface; 0: not known.
    pub ifindex: u32,
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// Largest IP packet that this hop takes, bytes; 0: not known.
    pub mtu: u32,
    /// When the forwarding table was asked last, seconds of CLOCK_MONOTONIC.
    pub asked: u32,
}

impl Hop {
    /// The two MAC addresses as they start a frame, as three words in memory order.
    #[inline(always)]
    pub const fn ethernet(&self) -> [u32; 3] {
        let (d, s) = (&self.destination, &self.source);
        [
            u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
            u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
            u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
        ]
    }

    /// The hop that a frame starting with these three words came from.
    #[inline(always)]
    pub const fn back(ethernet: [u32; 3]) -> ([u8; 6], [u8; 6]) {
        let (a, b, c) = (ethernet[0].to_ne_bytes(), ethernet[1].to_ne_bytes(), ethernet[2].to_ne_bytes());
        ([b[2], b[3], c[0], c[1], c[2], c[3]], [a[0], a[1], a[2], a[3], b[0], b[1]])
    }
}

/// One server behind a VIP: value of `backends`, whose index is the `BackendId`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    /// Its address, port and protocol.
    pub endpoint: Endpoint,
    /// The VIP it belongs to: what its answers carry as source after translation.
    pub vip: Endpoint,
    /// `VipId` of that VIP.
    pub vip_id: u16,
    /// Any of `BACKEND_*`.
    pub flags: u16,
    /// Relative share of new flows, 1..=65535; 0 takes none.
    pub weight: u16,
    /// MSS of its last SYN-ACK, bytes; 0 until one was seen.
    pub mss: u16,
    /// A draining owner is honoured until then, seconds of CLOCK_MONOTONIC; 0: without end.
    pub drain_until: u32,
    /// Next hop towards it, kept by the programs.
    pub hop: Hop,
}

/// The slot holds a backend.
pub const BACKEND_PRESENT: u16 = 1;
/// Health checks say it answers (or are off).
pub const BACKEND_UP: u16 = 2;
/// No new sessions; those it owns persist.
pub const BACKEND_DRAINING: u16 = 4;
/// A packet of a steered flow came back from it: the return path leads through this gateway.
pub const BACKEND_RETURN_SEEN: u16 = 8;

/// Settings of one VIP and its pool: value of `vips`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vip {
    /// Its `VipId`.
    pub id: u16,
    /// Any of `VIP_*`.
    pub flags: u16,
    /// First index of its lookup table in `lookup`.
    pub lookup_base: u32,
    /// A session not used for so long is forgotten, seconds.
    pub session_timeout: u32,
    /// A session is forgotten so long after it was learned, seconds; 0: no limit.
    pub session_limit: u32,
    /// A re-homed flow without a packet for so long is forgotten, seconds.
    pub flow_timeout: u32,
    /// Smallest MSS of the pool, bytes: what clients are told.
    pub mss: u16,
    /// SYNs tried at an owner before the first backend gets the hello.
    pub owner_tries: u16,
    /// Where the name of the ticket key starts in a ticket of its backends, bytes.
    pub name_at: u8,
    /// Length of that name, bytes, at most 32; 0: tickets carry none, or it is not known yet.
    pub name_len: u8,
    /// Always zero.
    pub zero: u16,
    /// A learned key name of which no ticket was seen for so long is forgotten, seconds.
    pub name_timeout: u32,
    /// Sessions that are learned of one source in [`Vip::session_timeout`]; 0: no limit.
    pub sessions_per_source: u32,
}

/// Learn and decide, forward untouched.
pub const VIP_OBSERVE: u16 = 1;
/// Without a session, choose by the flow's 4-tuple instead of the source address.
pub const VIP_FALLBACK_FLOW: u16 = 2;
/// Drop the client's first bare ACK, so that a re-homed flow never enters the first backend's accept queue.
pub const VIP_SWALLOW: u16 = 4;
/// Ask the forwarding table for the way back to the client instead of using the hop it came from.
pub const VIP_RETURN_BY_ROUTE: u16 = 8;
/// Tell the agent every ticket that a backend issued or accepted, so that it finds out where their key names stand.
pub const VIP_TELL_TICKETS: u16 = 0x10;

/// The agent found out where key names stand (`ticket_key_name = "auto"`): the next one adopts it.
pub const VIP_NAME_FOUND: u16 = 0x20;

/// Learn also what a backend issues to a client that it asked for a certificate and that gave none.
pub const VIP_LEARN_WITHOUT_CERTIFICATE: u16 = 0x40;

/// Settings of the whole gateway: the one value of `settings`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// 1: steering is off, every flow stays on its first backend; spliced flows go on.
    pub bypass: u32,
    /// 1: XDP programs forward; 0: they pass everything to TC.
    pub xdp: u32,
}

/// How resumptions that were offered to one backend came out.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcomes {
    /// Sessions that it resumed.
    pub accepted: u64,
    /// Sessions that it refused: a full handshake followed.
    pub rejected: u64,
    /// Full handshakes whose client offered none.
    pub not_offered: u64,
}

/// What one backend did: per-CPU value of `backend_stats`, indexed by `BackendId`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendStats {
    /// Flows whose first backend it was.
    pub flows: u64,
    /// Flows re-homed to it.
    pub rehomed: u64,
    /// Sessions learned from it.
    pub learned: u64,
    /// Hellos whose session it owned.
    pub hits: u64,
    /// Resumptions of TLS 1.2 and below.
    pub tls12: Outcomes,
    /// Resumptions of TLS 1.3.
    pub tls13: Outcomes,
    /// Packets to it and from it.
    pub packets: u64,
    /// Bytes of those packets, from the IP header on.
    pub bytes: u64,
}
