//! Flows, what is held of them, and what is told of them.

use super::{Address, Hop, PENDING_MAX, PENDING_SLACK, SessionKey};
use crate::wire::tls::server_flight::Follow;

/// One TCP flow as the gateway sees it: who the client is and which VIP it dialled.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    /// The client's address.
    pub client: Address,
    /// The client's TCP port, big-endian.
    pub client_port: [u8; 2],
    /// Index of what was dialled: the `VipId` of the VIP's pool ([`SERVICE_BESIDE`] of a second
    /// flow); with [`SERVICE_BACKEND`] set, the `BackendId` of a backend that the client (or a
    /// balancer in front) dialled itself (the inline shape).
    pub service: u16,
}

/// Bit of [`FlowKey::service`]: the number is a `BackendId`, not a `VipId`.
pub const SERVICE_BACKEND: u16 = 0x8000;
/// Bits of [`FlowKey::service`] that are the `VipId` of the pool, where no backend was dialled.
pub const SERVICE_POOL: u16 = 0x3f;
/// Where the number of an entrance begins in a service that has one.
pub const ENTRANCE_AT: u32 = 6;
/// Bit of [`FlowKey::service`]: the client has another flow from the same port to another VIP of the
/// pool, so that the key tells the entrance, too. At its backends such a flow has other ports than
/// its client's own ([`Leg`]), always.
pub const SERVICE_BESIDE: u16 = 0x1000;
/// The number of no entrance: it is not known by which VIP the client came.
pub const NO_ENTRANCE: u8 = u8::MAX;

impl FlowKey {
    /// The `BackendId` of the backend that was dialled; `None` where that was a VIP.
    #[inline(always)]
    pub const fn dialled(&self) -> Option<u16> {
        if self.service & SERVICE_BACKEND != 0 {
            Some(self.service & !SERVICE_BACKEND)
        } else {
            None
        }
    }

    /// The `VipId` of the pool, where a VIP was dialled.
    #[inline(always)]
    pub const fn pool(&self) -> u16 {
        self.service & SERVICE_POOL
    }

    /// The service of the flow that came by an entrance while another one has this key.
    #[inline(always)]
    pub const fn service_beside(&self, entrance: u8) -> u16 {
        self.pool() | (entrance as u16) << ENTRANCE_AT | SERVICE_BESIDE
    }

    /// Whether another flow has the usual key ([`SERVICE_BESIDE`]).
    #[inline(always)]
    pub const fn is_beside(&self) -> bool {
        self.service & (SERVICE_BACKEND | SERVICE_BESIDE) == SERVICE_BESIDE
    }

    /// The flow's service as a leg has it: with its entrance.
    #[inline(always)]
    pub const fn service_of_leg(&self, entrance: u8) -> u16 {
        if self.service & SERVICE_BACKEND != 0 {
            self.service
        } else {
            self.service | (entrance as u16) << ENTRANCE_AT
        }
    }
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
    /// Those that a first backend and an owner have to agree to alike, with their names.
    pub const WORDS: [(u8, &str); 4] =
        [(SACK, "sack"), (TIMESTAMPS, "timestamps"), (WINDOW_SCALE, "window-scale"), (ECN, "ecn")];
    /// An option that must not be touched (TCP-AO RFC 5925, MD5 RFC 2385): the flow is never
    /// re-homed.
    pub const SIGNED: u8 = 0x10;
}

/// One TCP flow: value of `handshakes`, `flows` and `splices`. Sequence numbers are host-endian.
/// What every packet of a settled flow needs stands first, so that it touches as few lines of
/// memory as may be.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// State, lock and the client's initial sequence number; see [`crate::flow::StateWord`].
    /// Changed by compare-and-swap.
    pub word: u64,
    /// Any of `FLOW_*`. Changed by an atomic or, for both directions may do so at once.
    pub flags: u32,
    /// Last packet either way, seconds of CLOCK_MONOTONIC.
    pub seen: u32,
    /// Next sequence number the client is expected to use.
    pub client_next: u32,
    /// Next sequence number (its own) the holding backend is expected to use.
    pub server_next: u32,
    /// `first_isn - owner_isn`: added to what the owner sends, taken from what the client
    /// acknowledges.
    pub delta: u32,
    /// Timestamp offset: added to the owner's TSval, taken from the client's TSecr.
    pub ts_delta: u32,
    /// `BackendId` of the first backend.
    pub first: u16,
    /// `BackendId` of the owner; the first backend's while nothing moved.
    pub owner: u16,
    /// The client's port at the first backend, big-endian, where that leg is taken; 0: its own
    /// ([`Leg`]).
    pub first_port: [u8; 2],
    /// The client's port at the owner, big-endian, where that leg is taken; 0: its own ([`Leg`]).
    pub owner_port: [u8; 2],
    /// Window scale of the first backend, which the client goes by.
    pub first_scale: u8,
    /// Window scale of the owner.
    pub owner_scale: u8,
    /// Window scale of the client.
    pub client_scale: u8,
    /// SYNs sent to the owner.
    pub owner_tries: u8,
    /// The hop the client's packets come from.
    pub client_hop: Hop,
    /// The first backend's initial sequence number.
    pub first_isn: u32,
    /// The owner's initial sequence number.
    pub owner_isn: u32,
    /// When the SYN to the owner was sent last, milliseconds of CLOCK_MONOTONIC, wrapping.
    pub owner_syn_at: u32,
    /// TSval of the client's SYN.
    pub client_ts: u32,
    /// TSval of the first backend that the client saw last (TSecr of its hello).
    pub first_ts: u32,
    /// TSval of the client's hello.
    pub hello_ts: u32,
    /// First four bytes of the IP header of the client's hello: DSCP, ECN and flow label for
    /// packets made in its name.
    pub ip_word: [u8; 4],
    /// Length of the client's hello with its record headers and what stands in front of it, bytes;
    /// 0: not known.
    pub hello_len: u32,
    /// Window of the client's SYN, unscaled as on the wire.
    pub syn_window: u16,
    /// Window of the client's hello, as on the wire.
    pub hello_window: u16,
    /// Window of the first backend's SYN-ACK, bytes: what the client may send before it hears more.
    pub first_window: u16,
    /// MSS that the client announced.
    pub client_mss: u16,
    /// MSS that the client was told.
    pub advertised_mss: u16,
    /// Options the client offered ([`options`]).
    pub offered: u8,
    /// Options agreed with the first backend ([`options`]).
    pub agreed: u8,
    /// Kind of the identifier in `offered_bytes` ([`crate::session::Kind`]), 0: none.
    pub offered_kind: u8,
    /// Its length, bytes.
    pub offered_len: u8,
    /// Which of the client's PSK identities it is, or [`NO_PSK`].
    pub offered_index: u8,
    /// What the client answered where a certificate may have been asked for
    /// ([`crate::wire::tls::client_certificate::Answer`]).
    pub answer: u8,
    /// How far the holding backend's stream was read. Not the last field: what is copied into it is
    /// checked against the record's end by the verifier, which knows less of it than we do.
    pub follow: Follow,
    /// The identifier that decided, or else the first that the client offered; zero behind its end.
    pub offered_bytes: [u8; 32],
}

/// [`Flow::offered_index`] of what is no PSK identity.
pub const NO_PSK: u8 = u8::MAX;

/// The client's first bare ACK was swallowed.
pub const FLOW_ACK_SWALLOWED: u32 = 1;
/// Nothing more is to be learned: XDP may take the flow.
pub const FLOW_LEARNED: u32 = 2;
/// The client sent a FIN.
pub const FLOW_CLIENT_FIN: u32 = 4;
/// The server sent a FIN.
pub const FLOW_SERVER_FIN: u32 = 8;
/// Either side sent a reset.
pub const FLOW_RESET: u32 = 0x10;
/// The client offered a session that was known.
pub const FLOW_HIT: u32 = 0x20;
/// The client offered a session, known or not.
pub const FLOW_OFFERED: u32 = 0x40;
/// The client's hello was read: what its backend answers tells an outcome.
pub const FLOW_HELLO: u32 = 0x80;
/// A key name led the hello to its owner.
pub const FLOW_NAMED: u32 = 0x200;
/// The hello carries ECH: what it offers may be grease.
pub const FLOW_ECH: u32 = 0x100;
/// Both sides ended the flow, or one of them reset it: its ports are free.
pub const FLOW_CLOSED: u32 = 0x400;
/// The backend asked for a second hello (HelloRetryRequest, RFC 8446 4.1.4): what that one offers
/// counts.
pub const FLOW_RETRIED: u32 = 0x800;

/// A packet of the client tells the way back to it: the record was made without one.
pub const FLOW_HOP_WANTED: u32 = 0x1000;
/// The first backend answered for another connection with this client's port: the flow's SYN goes
/// elsewhere.
pub const FLOW_COLLIDED: u32 = 0x2000;

/// A flow was made of this handshake.
pub const FLOW_MADE: u32 = 0x4000;

/// The client's second hello was seen, read or not.
pub const FLOW_SECOND_HELLO: u32 = 0x8000;

/// The first backend answered another SYN of the same addresses, too: what it says may be of the
/// connection that this opened.
pub const FLOW_ANSWERED_TWICE: u32 = 0x1_0000;
/// Another backend than the flow's answered a SYN on its addresses: where the client acknowledges
/// that, the flow is over.
pub const FLOW_RIVALLED: u32 = 0x4_0000;
/// Of the numbers only one packet of the client told, and nobody vouched for it: no end of the
/// client's counts.
pub const FLOW_UNCONFIRMED: u32 = 0x2_0000;

/// The first backend is held to own what the client offered.
pub const FLOW_AT_OWNER: u32 = 0x8_0000;
/// What the client offered is no longer than what is kept of it: it is a key itself, and carries no
/// key's name.
pub const FLOW_NAMELESS: u32 = 0x10_0000;
/// The client acknowledged the backend's FIN, after both were seen.
pub const FLOW_CLIENT_DONE: u32 = 0x20_0000;
/// The backend acknowledged the client's FIN, after both were seen.
pub const FLOW_SERVER_DONE: u32 = 0x40_0000;

/// Bits of [`Flow::flags`] that are the number of the entrance that the client came by; 0 is the VIP
/// that the pool is known by.
pub const FLOW_ENTRANCE: u32 = 0x3f00_0000;
/// Where it begins.
const FLOW_ENTRANCE_AT: u32 = 24;

/// An entrance's number as [`Flow::flags`] have it.
#[inline(always)]
pub const fn flow_entrance(entrance: u8) -> u32 {
    (entrance as u32) << FLOW_ENTRANCE_AT & FLOW_ENTRANCE
}

impl Flow {
    /// The number of the entrance that the client came by.
    #[inline(always)]
    pub const fn entrance(&self) -> u8 {
        ((self.flags & FLOW_ENTRANCE) >> FLOW_ENTRANCE_AT) as u8
    }
}

/// A connection that is not steer's, known by a packet of its client: value of `foreign`. Its key
/// is that of a flow; the service is the VIP whose address it dials (the kernel's own, older than
/// the gateway) or, with [`SERVICE_BACKEND`], the backend that it dials itself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Foreign {
    /// Its client's last packet that was looked at, seconds of CLOCK_MONOTONIC.
    pub seen: u32,
    /// Always zero.
    pub zero: u32,
}

/// Bit of [`FlowKey::service`] in `legs`: the way there, from the client's own port to the one at
/// the backend.
pub const SERVICE_WAY_THERE: u16 = 0x4000;

/// Bit of [`Leg::service`]: the client of a connection to a backend itself sent a FIN or a reset.
pub const LEG_CLIENT_ENDED: u16 = 0x1000;
/// Bit of [`Leg::service`]: the backend sent a FIN. A reset of the backend sets both.
pub const LEG_BACKEND_ENDED: u16 = 0x2000;
/// Both ends of a connection to a backend itself ended it.
pub const LEG_ENDED: u16 = LEG_CLIENT_ENDED | LEG_BACKEND_ENDED;

/// A client's connection at a backend under another port than the client's own, because another
/// live connection has that one there: value of `legs`. The key is (client, port at the backend,
/// backend); for a connection that the client dials to the backend itself there is a second entry
/// with [`SERVICE_WAY_THERE`] and the client's own port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leg {
    /// Last packet, seconds of CLOCK_MONOTONIC.
    pub seen: u32,
    /// The client's own port (in the entry of the way there: the port at the backend), big-endian.
    pub port: [u8; 2],
    /// What the client dialled, as in [`FlowKey::service`]; of a backend with [`LEG_ENDED`] as far
    /// as it ended, of a VIP with its entrance.
    pub service: u16,
}

impl Leg {
    /// The service in the key of its flow; of a connection to a backend itself what stands here.
    #[inline(always)]
    pub const fn flow_service(&self) -> u16 {
        if self.service & (SERVICE_BACKEND | SERVICE_BESIDE) != 0 {
            self.service
        } else {
            self.service & SERVICE_POOL
        }
    }

    /// The entrance that its client came by.
    #[inline(always)]
    pub const fn entrance(&self) -> u8 {
        if self.service & SERVICE_BACKEND != 0 {
            0
        } else {
            (self.service >> ENTRANCE_AT) as u8 & SERVICE_POOL as u8
        }
    }
}

/// Flows of one [`TraceLine`].
pub const TRACE_WAYS: usize = 8;

/// What is left of flows that `flows` forgot: value of `traces`, one line of memory. See
/// [`crate::trace`].
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TraceLine {
    /// One flow each; 0: none.
    pub slots: [u64; TRACE_WAYS],
}

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

/// A datagram whose first fragment was seen: key of `fragments` (RFC 791 3.2, RFC 8200 4.5).
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

/// A later fragment that overtook the first one of its datagram: key of `held_fragments`.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeldKey {
    /// Its datagram.
    pub datagram: FragmentKey,
    /// How many of the datagram were held before it, below [`HELD_FRAGMENTS`].
    pub number: u32,
}

/// Later fragments of one datagram that are held at most.
pub const HELD_FRAGMENTS: u32 = 8;
/// Longest frame that is held, bytes.
pub const HELD_MAX: usize = 2048;

/// Such a fragment, as it came: value of `held_fragments`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// When it came, seconds of CLOCK_MONOTONIC.
    pub seen: u32,
    /// The interface that it came by.
    pub ifindex: u32,
    /// Length of the frame, bytes.
    pub len: u32,
    /// The frame.
    pub frame: [u8; HELD_MAX],
}

/// Where the later fragments of a datagram go: value of `fragments`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentRoute {
    /// Replaces the source (towards a client) or the destination (towards a backend).
    pub address: Address,
    /// Any of `FRAGMENTS_*`.
    pub flags: u32,
    /// Next hop, where the first fragment was sent on.
    pub hop: Hop,
    /// When the first fragment went, seconds of CLOCK_MONOTONIC.
    pub seen: u32,
}

/// The source address is replaced.
pub const FRAGMENTS_FROM_BACKEND: u32 = 1;
/// The first fragment passed, and so do the others.
pub const FRAGMENTS_PASS: u32 = 2;
/// The first fragment came, and what becomes of it is not known yet: the others wait.
pub const FRAGMENTS_WAIT: u32 = 4;

/// What the programs tell who watches: record of the `watched` ring.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watched {
    /// When, nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// The flow.
    pub key: FlowKey,
    /// What became of it: a [`crate::counters::Counter`] as its number.
    pub what: u16,
    /// `BackendId` of the backend that the verdict names: where the flow goes, or would have gone.
    pub backend: u16,
    /// Its record at that moment.
    pub flow: Flow,
}

/// What changed in a table that other gateways are to know: record of the `journal` ring. It says
/// where; what stands there now its reader looks up.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalEntry {
    /// Which table it is in, one of `JOURNAL_*`.
    pub table: u32,
    /// The key, for `sessions` and `key_names`.
    pub session: SessionKey,
    /// The key, for `splices`.
    pub flow: FlowKey,
}

/// [`JournalEntry::table`]: `sessions`.
pub const JOURNAL_SESSIONS: u32 = 1;
/// [`JournalEntry::table`]: `key_names`.
pub const JOURNAL_KEY_NAMES: u32 = 2;
/// [`JournalEntry::table`]: `splices`.
pub const JOURNAL_SPLICES: u32 = 3;

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
    /// Bytes of its hello, with the header of the record, where it was read; else 0.
    pub hello_len: u32,
    /// The first bytes of a ticket, for `ticket-told`; else zero.
    pub ticket: [u8; 32],
}
