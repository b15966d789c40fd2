//! VIPs, their backends, what those did, and settings.

use zerocopy::transmute;

use super::{Address, ENTRANCE_AT, Endpoint, SERVICE_POOL};

/// A next hop on Ethernet: where a packet leaves and between which stations.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hop {
    /// Egress interface; 0: not known.
    pub ifindex: u32,
    /// Destination and source MAC address, as they start a frame.
    pub ethernet: [u8; 12],
    /// Largest IP packet that this hop takes, bytes; 0: not known.
    pub mtu: u16,
    /// Any of `HOP_*`, and from bit [`HOP_VLAN_AT`] on the number of the VLAN whose tag a frame to
    /// this hop has; 0: no tag.
    pub flags: u16,
    /// When the forwarding table was asked last, seconds of CLOCK_MONOTONIC.
    pub asked: u32,
}

/// Seconds for which what is known of a next hop is used without asking again.
pub const HOP_SECONDS: u32 = 1;
/// XDP may redirect to the interface: the kernel says that it takes such frames.
pub const HOP_TAKES_XDP: u16 = 1;
/// Where a VLAN's number stands in [`Hop::flags`].
pub const HOP_VLAN_AT: u16 = 4;

impl Hop {
    /// The start of a frame to this hop, as three words in memory order.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 3] {
        transmute!(self.ethernet)
    }

    /// Enters the start of a frame to this hop, three words in memory order.
    #[inline(always)]
    pub const fn set_words(&mut self, words: [u32; 3]) {
        self.ethernet = transmute!(words);
    }

    /// The VLAN whose tag (IEEE 802.1Q) a frame to this hop has; 0: none.
    #[inline(always)]
    pub const fn vlan(&self) -> u16 {
        self.flags >> HOP_VLAN_AT
    }

    /// Enters what the hop's interface takes, any of `HOP_*`; its VLAN stays.
    #[inline(always)]
    pub const fn set_takes(&mut self, takes: u16) {
        self.flags = self.vlan() << HOP_VLAN_AT | takes;
    }

    /// The start of a frame between two stations: what [`Hop::ethernet`] holds.
    #[inline(always)]
    pub const fn mac_addresses(destination: [u8; 6], source: [u8; 6]) -> [u8; 12] {
        transmute!([destination, source])
    }
}

/// The start of an answer to a frame that starts with these three words: the stations change
/// places.
#[inline(always)]
pub const fn swapped(ethernet: [u32; 3]) -> [u32; 3] {
    let halves: [u16; 6] = transmute!(ethernet);
    transmute!([halves[3], halves[4], halves[5], halves[0], halves[1], halves[2]])
}

/// One server behind a VIP: value of `backends`, whose index is the `BackendId`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    /// Its address, port and protocol.
    pub endpoint: Endpoint,
    /// The VIP it belongs to: what its answers carry as source after translation. Of an inline
    /// pool's backend the pool's name ([`Endpoint::of_pool`]).
    pub vip: Endpoint,
    /// `VipId` of that VIP or pool.
    pub vip_id: u16,
    /// Any of `BACKEND_*`.
    pub flags: u16,
    /// Relative share of new flows, 1..=65535; 0 takes none.
    pub weight: u16,
    /// The VLAN that it stands in, where frames at a bridge of other VLANs may name its address,
    /// too; 0: whichever.
    pub vlan: u16,
    /// A draining owner is honoured until then, seconds of CLOCK_MONOTONIC; 0: without end.
    pub drain_until: u32,
}

/// What the programs know of the way to one backend: value of `backend_paths`, whose index is the
/// `BackendId`. Nobody else writes it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendPath {
    /// Next hop towards it.
    pub hop: Hop,
    /// Largest MSS of its SYN-ACKs since `mss_since`, bytes; 0: none was seen. A smaller one tells
    /// of the path to its client.
    pub mss: u16,
    /// The same of the window before.
    pub mss_before: u16,
    /// When `mss` was begun, seconds of CLOCK_MONOTONIC.
    pub mss_since: u32,
    /// Any of `PATH_*`.
    pub flags: u32,
}

/// Whether moves to one backend rest: value of `rests`, whose index is the `BackendId`. Nobody but
/// the programs writes it ([`crate::rest`]).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rest {
    /// They rest until then, seconds of CLOCK_MONOTONIC; 0: they do not.
    pub until: u32,
    /// Moves in a row that it did not answer.
    pub silent: u16,
    /// Whom and when the last one: eight bits of a hash of the client's address, and eight of the
    /// second.
    pub last: u16,
}

/// A packet of a steered flow came back from it: the return path leads through this gateway.
pub const PATH_RETURN_SEEN: u32 = 1;
/// It spoke before its client did: it waits for nobody's hello, and hears of every acknowledgement
/// at once.
pub const PATH_SPEAKS_FIRST: u32 = 2;

impl BackendPath {
    /// The largest segment that the backend is known to take, bytes; 0: not known.
    #[inline(always)]
    pub const fn largest_mss(&self) -> u16 {
        if self.mss > self.mss_before { self.mss } else { self.mss_before }
    }
}

/// The slot holds a backend.
pub const BACKEND_PRESENT: u16 = 1;
/// Health checks say it answers (or are off).
pub const BACKEND_UP: u16 = 2;
/// No new sessions; those it owns persist.
pub const BACKEND_DRAINING: u16 = 4;
/// Its clients, or a balancer in front of the gateway, dial it itself (the inline shape).
pub const BACKEND_DIALLED: u16 = 8;

/// It is dialled itself, and its packets pass a bridge of this machine (the bridge shape); set with
/// [`BACKEND_DIALLED`].
pub const BACKEND_BRIDGED: u16 = 0x10;
/// An operator disabled it: it drains, and its deadline is over. The agent's own, as the following;
/// programs go by [`BACKEND_DRAINING`] and [`BACKEND_UP`].
pub const BACKEND_DISABLED: u16 = 0x20;
/// An operator forced it off: [`BACKEND_UP`] is withheld, whatever health checks say.
pub const BACKEND_OFF: u16 = 0x40;
/// Of one that is forced off: health checks say it answers.
pub const BACKEND_ANSWERS: u16 = 0x80;
/// It gets new flows only while no other one of its pool takes any. The agent's own, too.
pub const BACKEND_BACKUP: u16 = 0x100;

/// What frames at the ports of a bridge say of the way to one backend: value of `bridge_paths`,
/// whose index is the `BackendId`. Nobody else writes it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BridgePath {
    /// The stations of the last frame to it that came in outside, as they start it.
    pub ethernet: [u8; 12],
    /// When that was, seconds of CLOCK_MONOTONIC; 0: never.
    pub sent: u32,
    /// The port of the bridge that its last frame came in by, inside.
    pub ifindex: u32,
    /// When that was, seconds of CLOCK_MONOTONIC; 0: never.
    pub heard: u32,
    /// When frames to it came with the tags of two VLANs, seconds of CLOCK_MONOTONIC; 0: never.
    pub mixed: u32,
    /// The VLAN of the last frame to it; 0: it had no tag.
    pub vlan: u16,
    /// Always zero.
    pub zero: u16,
}

/// For how long what a frame said of the way to a backend is good enough to open a connection by
/// it, seconds: as long as a bridge remembers a station (IEEE 802.1D 7.9.2).
pub const BRIDGE_PATH_LIFE: u32 = 300;

impl BridgePath {
    /// The start of a frame to it, three words in memory order.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 3] {
        transmute!(self.ethernet)
    }

    /// Enters the start of a frame to it.
    #[inline(always)]
    pub const fn set_words(&mut self, words: [u32; 3]) {
        self.ethernet = transmute!(words);
    }

    /// Whether a connection may be opened to the backend at `now`, seconds: both sides were heard
    /// of lately, and frames to it have one VLAN.
    #[inline(always)]
    pub const fn is_known(&self, now: u32) -> bool {
        self.was_sent_to(now) && self.was_heard(now) && !self.is_mixed(now)
    }

    /// Whether a frame to it came in lately.
    #[inline(always)]
    pub const fn was_sent_to(&self, now: u32) -> bool {
        was_lately(self.sent, now)
    }

    /// Whether a frame of it came in lately.
    #[inline(always)]
    pub const fn was_heard(&self, now: u32) -> bool {
        was_lately(self.heard, now)
    }

    /// Whether frames to it came with the tags of two VLANs lately: which of them is meant, nobody
    /// can say.
    #[inline(always)]
    pub const fn is_mixed(&self, now: u32) -> bool {
        was_lately(self.mixed, now)
    }
}

#[inline(always)]
const fn was_lately(then: u32, now: u32) -> bool {
    // Another CPU may be a second ahead.
    then != 0 && now.wrapping_sub(then).wrapping_add(1) <= BRIDGE_PATH_LIFE + 1
}

/// Settings of one VIP and its pool, or of an inline pool: value of `vips`.
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
    /// Smallest MSS of the pool's backends, bytes: what clients are told. Written by the agent.
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
    /// When the gateway began to take new connections of this VIP, seconds of CLOCK_MONOTONIC:
    /// older ones are not ours. 0: so long ago that none of them lives.
    pub since: u32,
}

/// A VIP that shares the pool of another one: value of `entrances`, whose index is its number.
/// Entry 0 is nobody's. The record of the VIP that a pool is known by stands in `vips`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entrance {
    /// What clients dial; all zero: the number is free.
    pub endpoint: Endpoint,
    /// `VipId` of the pool.
    pub pool: u16,
    /// Always zero.
    pub zero: u16,
    /// As [`Vip::since`].
    pub since: u32,
}

/// Who stands at an endpoint: value of `directory` ([`crate::directory`]).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointEntry {
    /// Where.
    pub endpoint: Endpoint,
    /// Any of `ROLE_*`.
    pub role: u16,
    /// `BackendId`; of a VIP the `VipId` of its pool and, from bit [`ENTRANCE_AT`] on, its number
    /// among [`Entrance`]s.
    pub id: u16,
    /// In the first entry, the head: bit 0 is the half that is in use, the others are the seed of
    /// its places. Else zero.
    pub head: u32,
    /// The VIP's record, or that of a member's pool; else all zero.
    pub vip: Vip,
}

/// An empty slot.
pub const ROLE_NONE: u16 = 0;
/// A VIP.
pub const ROLE_VIP: u16 = 1;
/// A backend.
pub const ROLE_BACKEND: u16 = 2;
/// An address (with port 0) that VIPs or backends stand at; [`EndpointEntry::id`] says which, any
/// of `ADDRESS_*`.
pub const ROLE_ADDRESS: u16 = 3;
/// A backend that its clients dial themselves: a member of an inline pool.
pub const ROLE_MEMBER: u16 = 4;
/// As [`ROLE_MEMBER`], of a pool whose packets pass a bridge of this machine.
pub const ROLE_BRIDGED: u16 = 5;
/// Bit of an address: a VIP stands at it.
pub const ADDRESS_OF_VIP: u16 = 1;
/// Bit of an address: a backend stands at it.
pub const ADDRESS_OF_BACKEND: u16 = 2;
/// Bit of an address: a backend of an inline pool stands at it.
pub const ADDRESS_OF_MEMBER: u16 = 4;

impl EndpointEntry {
    /// Whether it is this endpoint's entry.
    #[inline(always)]
    pub const fn matches(&self, address: &Address, port: [u8; 2]) -> bool {
        let (a, b) = (self.endpoint.address.words(), address.words());
        let differ = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
        differ == 0 && u16::from_ne_bytes(self.endpoint.port) == u16::from_ne_bytes(port)
    }
}

impl EndpointEntry {
    /// Of a VIP: the `VipId` of its pool, and its number among the entrances of pools, or 0.
    #[inline(always)]
    pub const fn pool_and_entrance(&self) -> (u16, u8) {
        (self.id & SERVICE_POOL, (self.id >> ENTRANCE_AT) as u8)
    }
}

/// Learn and decide, forward untouched.
pub const VIP_OBSERVE: u16 = 1;
/// Without a session, choose by the flow's 4-tuple instead of the source address.
pub const VIP_FALLBACK_FLOW: u16 = 2;
/// Drop the client's first bare ACK, so that a re-homed flow never enters the first backend's
/// accept queue, and tell the agent, which asks for another one where no hello follows.
pub const VIP_SWALLOW: u16 = 4;
/// Ask the forwarding table for the way back to the client instead of using the hop it came from.
pub const VIP_RETURN_BY_ROUTE: u16 = 8;
/// Tell the agent every ticket that a backend issued or accepted, so that it finds out where their
/// key names stand.
pub const VIP_TELL_TICKETS: u16 = 0x10;

/// The agent found out where key names stand (`ticket_key_name = "auto"`): the next one adopts it.
pub const VIP_NAME_FOUND: u16 = 0x20;

/// Learn also what a backend issues to a client that it asked for a certificate and that gave none.
pub const VIP_LEARN_WITHOUT_CERTIFICATE: u16 = 0x40;

/// Choose by the flow's 4-tuple because one source makes most flows (`fallback = "auto"`); set with
/// [`VIP_FALLBACK_FLOW`].
pub const VIP_FALLBACK_FOUND: u16 = 0x80;

/// An inline pool: its clients, or a balancer in front of the gateway, dial the backends themselves.
/// A flow's first backend is the one that it dialled, and what the gateway does not move it leaves
/// as it is.
pub const VIP_INLINE: u16 = 0x100;

/// An inline pool whose packets pass a bridge of this machine (the bridge shape); set with
/// [`VIP_INLINE`].
pub const VIP_BRIDGED: u16 = 0x200;

/// Several VIPs share the pool ([`Entrance`]).
pub const VIP_SHARED: u16 = 0x400;

/// Clients of an inline pool whose connections are none of its flows, such as the monitors of the
/// balancer in front: key of `exempt`, a table of prefixes. A prefix covers the pool's number and
/// as much of the address as its length says.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ExemptKey {
    /// Bits of what follows that count: 16 of the pool's number, then those of the address.
    pub prefix_len: u32,
    /// `VipId` of the pool, big-endian.
    pub vip: [u8; 2],
    /// The clients' address, its 16 bytes in network order (IPv4 mapped).
    pub client: [u8; 16],
    /// Always zero.
    pub zero: [u8; 2],
}

/// Prefixes that `exempt` can hold.
pub const MAX_EXEMPT: u32 = 1024;

/// What the configuration said about a backend last: the agent's own, so that a new one can tell a
/// change of the file from a change by CLI.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Configured {
    /// The VIP it stood behind.
    pub vip: Endpoint,
    /// Its weight.
    pub weight: u32,
}

/// Settings of the whole gateway: the one value of `settings`, written by the agent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// 1: XDP programs forward; 0: they pass everything to TC.
    pub xdp: u32,
    /// Until then, seconds of CLOCK_MONOTONIC, flows that another gateway had are taken over by the
    /// lookup table; 0: never.
    pub takeover_until: u32,
    /// Random number of this gateway, for the places of `traces`.
    pub secret: u64,
}

/// Index into `switches`: 1 there means that steering is off; every new flow stays on its first
/// backend, re-homed flows go on.
pub const SWITCH_BYPASS: u32 = 0;
/// Index into `switches`: 1 there means that new connections to VIPs pass to the kernel's own
/// rules; flows that are known go on.
pub const SWITCH_LEAVE: u32 = 1;
/// Index into `switches`: 1 there means that `foreign` may hold something. Set by the programs,
/// cleared by the agent.
pub const SWITCH_FOREIGN: u32 = 2;
/// Index into `switches`: 1 there means that `legs` may hold something. Set by the programs,
/// cleared by the agent.
pub const SWITCH_LEGS: u32 = 3;
/// Index into `switches`: 1 there means that some interfaces may have programs with other tables
/// than the rest, for tables get another size or come from another layout: handshakes leave traces
/// meanwhile. A number above 1 says until when, seconds of CLOCK_MONOTONIC, tables are being filled
/// from those of another layout: packets without a settled flow are dropped meanwhile, for their
/// record may come. Written by the agent.
pub const SWITCH_RESIZING: u32 = 4;
/// Index into `switches`: until then, seconds of CLOCK_MONOTONIC, the agent asks silent clients for
/// the acknowledgement that `swallow` dropped; 0: it does not. Written by the agent, every half
/// second.
pub const SWITCH_ASKING: u32 = 5;
/// Entries of `switches`.
pub const SWITCHES: u32 = 6;

/// Bit of an interface in `interfaces`: XDP may redirect to it.
pub const INTERFACE_TAKES_XDP: u32 = 1;
/// Bit of an interface in `interfaces`: it carries IP packets without a link-layer header.
pub const INTERFACE_L3: u32 = 2;
/// Bit of an interface in `interfaces`: a port of a bridge that forwards, on the clients' side.
pub const INTERFACE_OUTSIDE: u32 = 4;
/// Bit of an interface in `interfaces`: a port of a bridge that forwards, on the backends' side.
pub const INTERFACE_INSIDE: u32 = 8;
/// Bit of an interface in `interfaces`: a port of a bridge that does not forward now, or whose bridge
/// is being made anew. What passes there is none of ours, but for flows that were moved: those wait.
pub const INTERFACE_WAITS: u32 = 0x10;
/// Where the number of its bridge stands in an interface's value in `interfaces`.
pub const INTERFACE_BRIDGE_AT: u32 = 8;
/// Bridges that a gateway can stand in.
pub const MAX_BRIDGES: u32 = 16;
/// Words of `vlans` that one bridge has: bit `n % 32` of word `n / 32` says whether frames of VLAN
/// `n` are looked at; VLAN 0 are the frames without a tag.
pub const VLAN_WORDS: u32 = 4096 / 32;
/// Interfaces that `interfaces` can hold.
pub const MAX_INTERFACES: u32 = 4096;

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

/// Whether one backend answers at all: per-CPU value of `answers`, indexed by `BackendId`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answers {
    /// Flows in which it said something, or ended them, after the client's hello.
    pub answered: u64,
    /// Flows that were moved to it before their hello was whole, or whose client reset them before
    /// that.
    pub withdrawn: u64,
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
    /// SYNs of new flows sent to it, repeated ones among them.
    pub syns: u64,
    /// SYN-ACKs of it that answered them.
    pub syn_acks: u64,
}
