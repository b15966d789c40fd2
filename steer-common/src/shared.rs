//! The layouts of every pinned map, shared by the kernel programs, the agent and the offline tools.
//!
//! Every type here is `repr(C)`, has no padding (checked at compile time below) and keeps what came off the wire as
//! big-endian byte arrays, so that neither side can get a byte order wrong and `bpftool map dump` prints the bytes
//! as they stood in the packet. Numbers that never were on the wire are native-endian integers.

use crate::wire::tls::server_flight::Follow;

/// Version of the map layouts; names the pin directory (`PIN_DIR/v2`). Any change to a type in this file raises it.
pub const LAYOUT_VERSION: u32 = 2;

/// Most backends of one gateway, over all VIPs; `BackendId` is an index below it.
pub const MAX_BACKENDS: u32 = 1024;
/// Most VIPs of one gateway; `VipId` is an index below it.
pub const MAX_VIPS: u32 = 64;
/// Slots of one lookup table (a prime, as Maglev wants it: Eisenbud et al., NSDI 2016, section 3.4).
pub const LOOKUP_SLOTS: u32 = 16381;
/// Tables per VIP in the `lookup` map: one in use, one being filled.
pub const LOOKUP_HALVES: u32 = 2;
/// Entries of the `lookup` map.
pub const LOOKUP_ENTRIES: u32 = MAX_VIPS * LOOKUP_HALVES * LOOKUP_SLOTS;
/// A lookup slot that names no backend.
pub const NO_BACKEND: u16 = u16::MAX;
/// Bytes of a client's first flight that the gateway can buffer while it decides and while the owner is opened.
pub const PENDING_MAX: usize = 12 * 1024;
/// Room behind `PENDING_MAX`, so that one segment may be stored before its end is judged.
pub const PENDING_SLACK: usize = 4 * 1024;

/// An IP address: IPv6 as it is, IPv4 mapped into `::ffff:0:0/96` (RFC 4291 2.5.5.2). Big-endian.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Address {
    bytes: [u8; 16],
}

impl Address {
    /// Makes an address from its 16 bytes in network order.
    pub const fn from_v6(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// Maps an IPv4 address, four bytes in network order.
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]] }
    }

    /// The 16 bytes in network order.
    pub const fn octets(&self) -> [u8; 16] {
        self.bytes
    }

    /// The four 32-bit words as they lie in memory (network order bytes), for hashing and checksums.
    pub const fn words(&self) -> [u32; 4] {
        let b = &self.bytes;
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ]
    }

    /// Makes an address of four 32-bit words as they lie in memory.
    pub const fn from_words(w: [u32; 4]) -> Self {
        let (a, b, c, d) = (w[0].to_ne_bytes(), w[1].to_ne_bytes(), w[2].to_ne_bytes(), w[3].to_ne_bytes());
        Self { bytes: [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]] }
    }

    /// Whether this is a mapped IPv4 address.
    pub const fn is_v4(&self) -> bool {
        let w = self.words();
        w[0] == 0 && w[1] == 0 && w[2] == 0x0000_ffff_u32.to_be()
    }
}

/// A transport endpoint: address, port and IP protocol; the key of `vips` and `backend_ids`.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Endpoint {
    /// IP address.
    pub address: Address,
    /// TCP port, big-endian.
    pub port: [u8; 2],
    /// IP protocol number (6 for TCP).
    pub protocol: u8,
    /// Always zero.
    pub zero: u8,
}

/// IP protocol number of TCP (RFC 9293).
pub const PROTOCOL_TCP: u8 = 6;

impl Endpoint {
    /// A TCP endpoint; `port` in host order.
    pub const fn tcp(address: Address, port: u16) -> Self {
        Self { address, port: port.to_be_bytes(), protocol: PROTOCOL_TCP, zero: 0 }
    }

    /// The port in host order.
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

/// One TCP flow as the gateway sees it: who the client is and which VIP it dialled.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    /// The client's address.
    pub client: Address,
    /// The client's TCP port, big-endian.
    pub client_port: [u8; 2],
    /// Index of what was dialled: a `VipId`; with [`SERVICE_BACKEND`] set, the `BackendId` of a backend that the
    /// client (or a balancer in front) dialled itself (the inline shape).
    pub service: u16,
}

/// Bit of [`FlowKey::service`]: the number is a `BackendId`, not a `VipId`.
pub const SERVICE_BACKEND: u16 = 0x8000;

/// What a session is found by.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionKey {
    /// The VIP whose pool issued it: sessions of one pool mean nothing to another.
    pub vip: u16,
    /// One of [`crate::session::Kind`], as its number.
    pub kind: u8,
    /// How many of `bytes` count, 1..=32; the rest are zero.
    pub len: u8,
    /// The identifier as it stood on the wire.
    pub bytes: [u8; 32],
}

/// Who holds a session.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Session {
    /// `BackendId` of the owner.
    pub owner: u16,
    /// Reserved for flags; zero.
    pub flags: u16,
    /// When it was learned, seconds of CLOCK_MONOTONIC.
    pub first_seen: u32,
    /// When the owner last issued or accepted it, seconds of CLOCK_MONOTONIC.
    pub last_seen: u32,
    /// How often the owner accepted it.
    pub uses: u32,
}

/// Who holds a ticket key: value of `key_names` and of `key_name_tries`, whose keys are of [`crate::session::Kind::KeyName`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyName {
    /// `BackendId` of the owner; in `key_name_tries` [`NO_BACKEND`].
    pub owner: u16,
    /// Any of `KEY_NAME_*`.
    pub flags: u16,
    /// When it was learned or configured, seconds of CLOCK_MONOTONIC.
    pub first_seen: u32,
    /// When a backend last issued or accepted a ticket of it, seconds of CLOCK_MONOTONIC.
    pub last_seen: u32,
    /// Hellos that it led to its owner.
    pub hits: u32,
    /// Tickets of it that its owner issued (TLS 1.2) or accepted.
    pub accepted: u32,
    /// Backends that rejected a ticket of it, [`NO_BACKEND`] in empty places; only in `key_name_tries`.
    pub tried: [u16; KEY_NAME_TRIES],
}

/// Backends that a search for the owner of a key name remembers.
pub const KEY_NAME_TRIES: usize = 6;
/// The operator named its owner.
pub const KEY_NAME_CONFIGURED: u16 = 1;
/// More than one backend issued or accepted tickets of it: it does not steer.
pub const KEY_NAME_SHARED: u16 = 2;

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

/// Settings of the whole gateway: the one value of `settings`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// 1: steering is off, every flow stays on its first backend; spliced flows go on.
    pub bypass: u32,
    /// 1: XDP programs forward; 0: they pass everything to TC.
    pub xdp: u32,
}

/// Offered or agreed TCP options, as bits of [`Flow::offered`] and [`Flow::agreed`].
pub mod options {
    /// Selective acknowledgement (RFC 2018).
    pub const SACK: u8 = 1;
    /// Timestamps (RFC 7323 3).
    pub const TIMESTAMPS: u8 = 2;
    /// Window scale (RFC 7323 2).
    pub const WINDOW_SCALE: u8 = 4;
    /// Explicit congestion notification (RFC 3168).
    pub const ECN: u8 = 8;
    /// An option that must not be touched (TCP-AO RFC 5925, MD5 RFC 2385): the flow is never re-homed.
    pub const SIGNED: u8 = 0x10;
}

/// One TCP flow: value of `handshakes`, `flows` and `splices`. Sequence numbers are host-endian.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// State, lock and the client's initial sequence number; see [`crate::flow::Word`]. Changed by compare-and-swap.
    pub word: u64,
    /// When the SYN to the owner was sent last, nanoseconds of CLOCK_MONOTONIC.
    pub owner_syn_at: u64,
    /// The first backend's initial sequence number.
    pub first_isn: u32,
    /// The owner's initial sequence number.
    pub owner_isn: u32,
    /// `first_isn - owner_isn`: added to what the owner sends, taken from what the client acknowledges.
    pub delta: u32,
    /// Timestamp offset: added to the owner's TSval, taken from the client's TSecr.
    pub ts_delta: u32,
    /// TSval of the client's SYN.
    pub client_ts: u32,
    /// TSval of the first backend that the client saw last (TSecr of its hello).
    pub first_ts: u32,
    /// TSval of the client's hello.
    pub hello_ts: u32,
    /// Last packet either way, seconds of CLOCK_MONOTONIC.
    pub seen: u32,
    /// Next sequence number the client is expected to use.
    pub client_next: u32,
    /// Next sequence number (its own) the holding backend is expected to use.
    pub server_next: u32,
    /// First four bytes of the IP header of the client's hello: DSCP, ECN and flow label for packets made in its name.
    pub ip_word: [u8; 4],
    /// Always zero.
    pub reserved: u32,
    /// `BackendId` of the first backend.
    pub first: u16,
    /// `BackendId` of the owner; the first backend's while nothing moved.
    pub owner: u16,
    /// Window of the client's SYN, unscaled as on the wire.
    pub syn_window: u16,
    /// Window of the client's hello, as on the wire.
    pub hello_window: u16,
    /// Window of the first backend's SYN-ACK, bytes: what the client may send before it hears more.
    pub first_window: u16,
    /// MSS that the client announced.
    pub client_mss: u16,
    /// MSS that the client was told.
    pub told_mss: u16,
    /// Any of `FLOW_*`.
    pub flags: u16,
    /// Options the client offered ([`options`]).
    pub offered: u8,
    /// Options agreed with the first backend ([`options`]).
    pub agreed: u8,
    /// Window scale of the client.
    pub client_scale: u8,
    /// Window scale of the first backend, which the client goes by.
    pub first_scale: u8,
    /// Window scale of the owner.
    pub owner_scale: u8,
    /// SYNs sent to the owner.
    pub owner_tries: u8,
    /// Kind of the identifier in `offered_bytes` ([`crate::session::Kind`]), 0: none.
    pub offered_kind: u8,
    /// Its length, bytes.
    pub offered_len: u8,
    /// Which of the client's PSK identities it is, or [`NO_PSK`].
    pub offered_index: u16,
    /// Always zero.
    pub zero: u16,
    /// The identifier that decided, or else the first that the client offered; zero behind its end.
    pub offered_bytes: [u8; 32],
    /// How far the holding backend's stream was read.
    pub follow: Follow,
    /// The hop the client's packets come from.
    pub client_hop: Hop,
}

/// [`Flow::offered_index`] of what is no PSK identity.
pub const NO_PSK: u16 = u16::MAX;

/// The client's first bare ACK was swallowed.
pub const FLOW_ACK_SWALLOWED: u16 = 1;
/// Nothing more is to be learned: XDP may take the flow.
pub const FLOW_LEARNED: u16 = 2;
/// The client sent a FIN.
pub const FLOW_CLIENT_FIN: u16 = 4;
/// The server sent a FIN.
pub const FLOW_SERVER_FIN: u16 = 8;
/// Either side sent a reset.
pub const FLOW_RESET: u16 = 0x10;
/// The client offered a session that was known.
pub const FLOW_HIT: u16 = 0x20;
/// The client offered a session, known or not.
pub const FLOW_OFFERED: u16 = 0x40;
/// The client's hello was read: what its backend answers tells an outcome.
pub const FLOW_HELLO: u16 = 0x80;
/// A key name led the hello to its owner.
pub const FLOW_NAMED: u16 = 0x200;
/// The hello carries ECH: what it offers may be grease.
pub const FLOW_ECH: u16 = 0x100;

/// Byte ranges that [`Pending`] can tell apart.
pub const PENDING_RANGES: usize = 4;

/// A byte range `[start, end)` of a client's stream, counted from its first byte.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// First byte.
    pub start: u32,
    /// One past the last byte; a range with `end == 0` is empty.
    pub end: u32,
}

/// The client's bytes that no backend has seen yet: value of `pending`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// Contiguous bytes without which the next look at the hello finds nothing new.
    pub needed: u32,
    /// Always zero.
    pub zero: u32,
    /// When anything new was buffered, nanoseconds of CLOCK_MONOTONIC.
    pub grown_at: u64,
    /// What of `data` is there, ascending, disjoint, not touching.
    pub ranges: [Range; PENDING_RANGES],
    /// The bytes at their offset from the first byte of the client's stream.
    pub data: [u8; PENDING_MAX + PENDING_SLACK],
}

/// A datagram whose first fragment was steered: key of `fragments` (RFC 791 3.2, RFC 8200 4.5).
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification.
    pub id: u32,
}

/// Where the later fragments of a datagram go: value of `fragments`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentRoute {
    /// Replaces the source (towards a client) or the destination (towards a backend).
    pub address: Address,
    /// 1: the source is replaced.
    pub source: u32,
    /// Next hop.
    pub hop: Hop,
}

/// What the programs tell the agent: record of the `events` ring.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// When, nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// The flow.
    pub flow: FlowKey,
    /// What: a [`crate::counters::Counter`] as its number.
    pub what: u16,
    /// First backend.
    pub first: u16,
    /// Owner.
    pub owner: u16,
    /// Always zero.
    pub zero: u16,
    /// Always zero.
    pub zero2: u32,
    /// The first bytes of a ticket, for `ticket-told`; else zero.
    pub ticket: [u8; 32],
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

/// Fails to compile when a type has padding: the sum of its fields is not its size.
macro_rules! no_padding {
    ($t:ty, $($size:expr),+) => { const _: () = assert!(size_of::<$t>() == 0 $(+ $size)+); };
}
no_padding!(Address, 16);
no_padding!(Endpoint, 16, 2, 1, 1);
no_padding!(FlowKey, 16, 2, 2);
no_padding!(SessionKey, 2, 1, 1, 32);
no_padding!(Session, 2, 2, 4, 4, 4);
no_padding!(Hop, 4, 6, 6, 4, 4);
no_padding!(Backend, 20, 20, 2, 2, 2, 2, 4, 24);
no_padding!(KeyName, 2, 2, 4, 4, 4, 4, 2 * KEY_NAME_TRIES);
no_padding!(Vip, 2, 2, 4, 4, 4, 4, 2, 2, 1, 1, 2, 4);
no_padding!(Settings, 4, 4);
no_padding!(Follow, 4 * 3, 2 * 3, 6, 32, 8, 8, 4);
no_padding!(Flow, 8, 8, 4 * 12, 2 * 8, 8, 4, 32, 76, 24);
no_padding!(Range, 4, 4);
no_padding!(Pending, 4, 4, 8, 8 * PENDING_RANGES, PENDING_MAX + PENDING_SLACK);
no_padding!(FragmentKey, 16, 16, 4);
no_padding!(FragmentRoute, 16, 4, 24);
no_padding!(Event, 8, 20, 2, 2, 2, 2, 4, 32);
no_padding!(Outcomes, 8 * 3);
no_padding!(BackendStats, 8 * 6, 24, 24);

#[cfg(feature = "user")]
mod pod {
    use super::*;

    /// Declares types safe to copy to and from the kernel as bytes.
    macro_rules! pod {
        ($($t:ty),+) => { $(
            // SAFETY: repr(C), no padding (checked above), every bit pattern valid, no references.
            unsafe impl aya::Pod for $t {}
        )+ };
    }
    pod!(
        Endpoint,
        FlowKey,
        SessionKey,
        Session,
        KeyName,
        Backend,
        Vip,
        Settings,
        Flow,
        Pending,
        FragmentKey,
        FragmentRoute,
        Event,
        BackendStats
    );
}
