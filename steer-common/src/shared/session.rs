//! Who can resume what.

use super::Address;

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

/// Who holds a ticket key: value of `key_names` and of `key_name_tries`, whose keys are of
/// [`crate::session::Kind::KeyName`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyName {
    /// `BackendId` of the owner; in `key_name_tries` [`NO_BACKEND`](super::NO_BACKEND).
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
    /// In `key_names` the last two of the 32 bytes of the first ticket of it that was accepted:
    /// another one has others.
    pub tail: u16,
    /// Always zero.
    pub zero: u16,
    /// In `key_name_tries` the backends that rejected a ticket of it ([`backend_bit`]).
    pub tried: u64,
}

/// Backends after whose refusals a search for the owner of a key name ends.
pub const KEY_NAME_TRIES: u32 = 24;

/// The bit of a backend in [`KeyName::tried`], and its place in [`Rotation`]. Of a pool of up to 64
/// backends that have consecutive numbers each has its own; two that share one count as one in a
/// search.
#[inline(always)]
pub const fn backend_bit(backend: u16) -> u64 {
    1 << backend_place(backend)
}

/// The place of a backend among the [`ROTATION_BACKENDS`] of [`Rotation`].
#[inline(always)]
pub const fn backend_place(backend: u16) -> usize {
    backend as usize % ROTATION_BACKENDS
}

/// The operator named its owner.
pub const KEY_NAME_CONFIGURED: u16 = 1;
/// More than one backend issued or accepted tickets of it: it does not steer.
pub const KEY_NAME_SHARED: u16 = 2;
/// Its owner accepted tickets with different longer names than this while the layout was not known:
/// this may be the name.
pub const KEY_NAME_PROVEN: u16 = 4;
/// Its owner accepted two tickets of it.
pub const KEY_NAME_OPENED_TWO: u16 = 8;

/// Kinds of offers that are told apart in [`Refusals`].
pub const OFFER_KINDS: usize = 3;

/// What a backend made of the offers that it was held to own: value of `refusals`, whose index is
/// the `BackendId`. By [`crate::refusals::Offer`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refusals {
    /// When it accepted one, to a minute, seconds of CLOCK_MONOTONIC; 0: never.
    pub accepted: [u32; OFFER_KINDS],
    /// How many it refused since it last accepted one; saturates.
    pub in_a_row: [u16; OFFER_KINDS],
    /// How many were not sent to it because of that, wrapping.
    pub held_back: [u16; OFFER_KINDS],
}

/// Backends of a pool whose key names are followed.
pub const ROTATION_BACKENDS: usize = 64;

/// When the backends of a pool came to their newest ticket keys: value of `rotations`, whose index
/// is the `VipId` ([`crate::rotation`]).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rotation {
    /// By [`backend_place`].
    pub backends: [Rotating; ROTATION_BACKENDS],
    /// 1: some backend's keys are known to change.
    pub changes: u32,
}

/// One backend's keys.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rotating {
    /// `BackendId` and 1; 0: an empty entry.
    pub backend: u16,
    /// Key names of it that opened two tickets; saturates.
    pub n_names: u8,
    /// Tickets that it was given on a guess and refused since its newest name was learned;
    /// saturates.
    pub missed: u8,
    /// When its newest name was learned, or when it answered first where none was, seconds of
    /// CLOCK_MONOTONIC.
    pub since: u32,
    /// When it answered a hello of TLS 1.3 last, seconds of CLOCK_MONOTONIC: it issued tickets
    /// then.
    pub active: u32,
}

/// Whose sessions are counted together: key of `sources`.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SourceKey {
    /// The client's address; of IPv6 the first 64 bits, the rest zero: one host has a whole /64
    /// (RFC 4291 2.5.1).
    pub address: Address,
    /// The VIP.
    pub vip: u16,
    /// Always zero.
    pub zero: u16,
}

impl SourceKey {
    /// The source that a client counts to.
    #[inline(always)]
    pub const fn new(vip: u16, client: &Address) -> Self {
        let [a, b, c, d] = client.words();
        let address = if client.is_v4() {
            Address::from_words([a, b, c, d])
        } else {
            Address::from_words([a, b, 0, 0])
        };
        Self { address, vip, zero: 0 }
    }
}

/// Sessions learned of one source: value of `sources`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Source {
    /// When its window began, seconds of CLOCK_MONOTONIC.
    pub since: u32,
    /// Sessions learned since then.
    pub n_sessions: u32,
}
