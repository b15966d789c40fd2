//! The state word of a flow, and who a flow's parties are.

use crate::shared::{Flow, FlowKey, Translation};

/// Where a packet goes.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From a client to a backend.
    ToBackend = 0,
    /// From a backend to a client.
    ToClient = 1,
}

/// Where a flow stands. Values 1, 2 and 8 live in `handshakes`, the others in `flows`.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum State {
    /// A SYN went to the first backend.
    Syn = 1,
    /// The first backend answered.
    SynAck = 2,
    /// The client acknowledged the answer; its first data decides.
    Established = 3,
    /// The client's first data is buffered: too little to decide on.
    Gather = 4,
    /// A SYN went to the owner; the client's data is buffered.
    Wait = 5,
    /// The owner holds the flow; everything is translated.
    Spliced = 6,
    /// The first backend holds the flow for good; addresses are translated.
    First = 7,
    /// A client's packet to the VIP of a flow that nothing is known of: it went to the backend that
    /// is its first here.
    Adopted = 8,
}

impl State {
    /// The state with this number.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(State::Syn),
            2 => Some(State::SynAck),
            3 => Some(State::Established),
            4 => Some(State::Gather),
            5 => Some(State::Wait),
            6 => Some(State::Spliced),
            7 => Some(State::First),
            8 => Some(State::Adopted),
            _ => None,
        }
    }

    /// The word used in CLI and events.
    pub const fn word(self) -> &'static str {
        match self {
            State::Syn => "syn",
            State::SynAck => "syn-ack",
            State::Established => "established",
            State::Gather => "gather",
            State::Wait => "wait",
            State::Spliced => "spliced",
            State::First => "first",
            State::Adopted => "adopted",
        }
    }
}

/// [`Flow::word`]: state in bits 0..8, lock in bit 8, the client's initial sequence number in bits
/// 32..64.
///
/// The sequence number stands in the word because an LRU slot may be reused for another flow
/// between a look-up and a compare-and-swap: the swap then fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateWord(pub u64);

impl StateWord {
    /// The bit that one CPU holds while it changes the flow.
    pub const LOCK: u64 = 0x100;

    /// An unlocked word.
    #[inline(always)]
    pub const fn new(state: State, isn: u32) -> Self {
        Self(state as u64 | (isn as u64) << 32)
    }

    /// The state's number.
    #[inline(always)]
    pub const fn state_number(self) -> u8 {
        self.0 as u8
    }

    /// The state; an unknown number reads as [`State::First`], the harmless one.
    #[inline(always)]
    pub const fn state(self) -> State {
        match State::from_number(self.0 as u8) {
            Some(state) => state,
            None => State::First,
        }
    }

    /// Whether this is the state: as comparing [`StateWord::state`], without finding out which
    /// other one it is.
    #[inline(always)]
    pub const fn is(self, state: State) -> bool {
        self.0 as u8 == state as u8
    }

    /// Whether the flow has a backend for good and no CPU is changing it.
    #[inline(always)]
    pub const fn is_settled(self) -> bool {
        const { assert!(State::Spliced as u8 | 1 == State::First as u8) };
        self.0 & (Self::LOCK | 0xfe) == State::Spliced as u64
    }

    /// The client's initial sequence number.
    #[inline(always)]
    pub const fn isn(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether a CPU is changing the flow.
    #[inline(always)]
    pub const fn locked(self) -> bool {
        self.0 & Self::LOCK != 0
    }

    /// The same word, locked.
    #[inline(always)]
    pub const fn lock(self) -> Self {
        Self(self.0 | Self::LOCK)
    }
}

impl Flow {
    /// The backend that holds the flow now.
    #[inline(always)]
    pub const fn holder(&self) -> u16 {
        if StateWord(self.word).is(State::Spliced) { self.owner } else { self.first }
    }

    /// The backend that holds the flow now, and the client's port there as [`Flow::port_at_holder`]
    /// has it.
    #[inline(always)]
    pub const fn holding(&self) -> (u16, [u8; 2]) {
        if StateWord(self.word).is(State::Spliced) {
            (self.owner, self.owner_port)
        } else {
            (self.first, self.first_port)
        }
    }

    /// The client's port at the backend that holds the flow, big-endian; 0: its own.
    #[inline(always)]
    pub const fn port_at_holder(&self) -> [u8; 2] {
        if StateWord(self.word).is(State::Spliced) { self.owner_port } else { self.first_port }
    }

    /// The client's port, big-endian, by which a backend of this flow knows it (0: its own); `None`
    /// of any other backend.
    #[inline(always)]
    pub const fn port_at(&self, backend: u16) -> Option<[u8; 2]> {
        if backend == self.owner && self.owner != self.first {
            Some(self.owner_port)
        } else if backend == self.first {
            Some(self.first_port)
        } else {
            None
        }
    }

    /// What its splice translates; nothing of a flow that is not [`State::Spliced`].
    #[inline(always)]
    pub fn translation(&self) -> Translation {
        if !StateWord(self.word).is(State::Spliced) {
            return Translation { entrance: self.entrance(), ..Translation::default() };
        }
        Translation {
            delta: self.delta,
            ts_delta: self.ts_delta,
            first_scale: self.first_scale,
            owner_scale: self.owner_scale,
            spliced: 1,
            entrance: self.entrance(),
        }
    }

    /// Whether both sides ended the flow.
    #[inline(always)]
    pub const fn closing(&self) -> bool {
        use crate::shared::{FLOW_CLIENT_FIN, FLOW_CLOSED, FLOW_RESET, FLOW_SERVER_FIN};
        let both = FLOW_CLIENT_FIN | FLOW_SERVER_FIN;
        self.flags & both == both || self.flags & (FLOW_RESET | FLOW_CLOSED) != 0
    }
}

impl FlowKey {
    /// The flow of a client that dialled a VIP; port in network order.
    #[inline(always)]
    pub const fn of_vip(client: crate::shared::Address, client_port: [u8; 2], vip: u16) -> Self {
        Self { client, client_port, service: vip }
    }
}
