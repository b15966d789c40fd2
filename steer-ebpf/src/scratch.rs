//! What the programs work on: the packet at hand, what is known of it, and the buffers of this CPU.

use aya_ebpf::{
    bindings::bpf_fib_lookup, btf_maps::PerCpuArray, helpers::bpf_jiffies64, macros::btf_map,
};
use steer_common::{
    flow::{Direction, State},
    shared::{
        Address, Endpoint, Event, Flow, FlowKey, FragmentKey, FragmentRoute, Hop, JournalEntry,
        KeyName, Pending, SessionKey, Translation, Vip, Watched,
    },
    wire::{
        ip::Ip,
        tcp::{Edits, Offer, Segment, Walker},
        tls::{
            client_hello::{Framing, Hello},
            server_flight::RESYNC_BYTES,
        },
    },
};

use crate::{change::Change, maps::now, port::Port};

/// Working memory of the packet at hand.
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Three buffers of each CPU: for a `Pending` being made, a hello of one packet or bytes being
/// summed, for a hello joined from its records, and for a stream without what a proxy put in front
/// of it.
#[btf_map(name = "spare")]
static SPARE: PerCpuArray<Pending, 3> = PerCpuArray::new();

/// What is known of the packet at hand; handed to the global functions, which take five arguments
/// at most.
#[repr(C)]
pub(crate) struct Scratch {
    /// The timer tick in which `seconds` was asked for.
    pub(crate) tick: u64,
    /// Seconds of CLOCK_MONOTONIC; kept from packet to packet.
    pub(crate) seconds: u32,
    /// The packet at hand, and its TCP header; as it is now where it was made into another one.
    pub(crate) ip: Ip,
    pub(crate) segment: Segment,
    /// The port of a bridge that the packet came in by.
    pub(crate) port: Port,
    pub(crate) direction: Direction,
    pub(crate) way: Way,
    /// What the flow's slot in `fast` says.
    pub(crate) lent: Facts,
    pub(crate) sum: Sum,
    /// When the client's data came, nanoseconds of CLOCK_MONOTONIC; only where it is held.
    pub(crate) now: u64,
    pub(crate) quote: Quote,
    pub(crate) endpoint: Endpoint,
    pub(crate) key: FlowKey,
    /// Backend that sent the packet.
    pub(crate) backend: u32,
    /// The client's initial sequence number of the flow that is locked for the packet.
    pub(crate) held: u32,
    /// Interface that the slow path wants the packet redirected to.
    pub(crate) redirect: u32,
    /// Backend of a packet of which nothing but the addresses is changed.
    pub(crate) plain: u32,
    /// VLAN whose tag a packet that is redirected from port to port of a bridge is to have.
    pub(crate) vlan: u32,
    /// Action that the slow path wants returned.
    pub(crate) action: u32,
    /// 1: the flow was made, or made anew, since it was looked up.
    pub(crate) fresh: u32,
    /// The client's port at the first backend where the packet is of a handshake and that leg is
    /// taken, else 0.
    pub(crate) first_port: [u8; 2],
    /// The entrance that the client came by: of its own packet the one that it dialled, of a
    /// backend's what vouches for it says, [`steer_common::shared::NO_ENTRANCE`] until then.
    pub(crate) entrance: u8,
    pub(crate) zero: u8,
    /// Where the client's data at hand lies in its stream and in the packet, for the stages that
    /// deal with it.
    pub(crate) range: StreamRange,
    /// The reset to be sent.
    pub(crate) reset: Reset,
    pub(crate) vip: Vip,
    pub(crate) fragment: FragmentKey,
    /// 1: the packet is the first fragment of that datagram, whose later ones wait to see what
    /// becomes of it.
    pub(crate) begun: u32,
    pub(crate) route: FragmentRoute,
    pub(crate) change: Change,
    pub(crate) hop: Hop,
    pub(crate) make: Make,
    pub(crate) emitting: Emitting,
    pub(crate) walker: Walker,
    pub(crate) offer: Offer,
    pub(crate) edits: Edits,
    pub(crate) session: SessionKey,
    /// A key name being made.
    pub(crate) name: KeyName,
    /// First bytes of a backend's segment.
    pub(crate) resync: [u8; RESYNC_BYTES],
    pub(crate) flow: Flow,
    pub(crate) event: Event,
    /// What a watcher is told.
    pub(crate) watched: Watched,
    /// What other gateways are told.
    pub(crate) changed: JournalEntry,
    pub(crate) framing: Framing,
    pub(crate) hello: Hello,
    /// Contiguous bytes of the client's stream without which the next look at its hello finds
    /// nothing new.
    pub(crate) needed: u32,
    /// 1: the hello in `hello` lies in `joined`, not where the stream is.
    pub(crate) in_joined: u32,
    /// 1: its session ID was looked up already, in vain.
    pub(crate) id_unknown: u32,
    /// Length of what a proxy put in front of the hello that is decided on, bytes.
    pub(crate) preamble: u32,
    pub(crate) fib: bpf_fib_lookup,
}

/// How the packet goes on: what the delivery needs to know of its flow. (Memory of the map, not of
/// the stack: what stands here the verifier takes for anything, and does not walk each value.)
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// Backend it goes to or comes from.
    pub(crate) id: u32,
    /// Now, seconds.
    pub(crate) seconds: u32,
    /// How the flow is translated.
    pub(crate) translation: Translation,
    /// The client's port on the other side of the gateway, big-endian; 0: the same.
    pub(crate) client_port: [u8; 2],
    pub(crate) direction: Direction,
    /// The client gets it from the VIP; else from the backend itself, which it dialled.
    pub(crate) from_vip: bool,
    /// What it says was not said before, as far as is known.
    pub(crate) new: bool,
    /// The forwarding table is asked for the way to the client, whose hop is in `scratch.hop`.
    pub(crate) probe: bool,
    /// The flow may be entered into `fast`.
    pub(crate) enters: bool,
    pub(crate) zero: u8,
}

/// What a slot of `fast` says of its flow, as it was read.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) translation: Translation,
    /// What the client dialled, as in the flow's key.
    pub(crate) service: u16,
    pub(crate) holder: u16,
    pub(crate) port: [u8; 2],
}

impl Way {
    /// Of a packet of which nothing is known yet but that it came now, in seconds.
    #[inline(always)]
    pub(crate) fn at(seconds: u32) -> Self {
        Self {
            id: 0,
            seconds,
            translation: Translation {
                delta: 0,
                ts_delta: 0,
                first_scale: 0,
                owner_scale: 0,
                spliced: 0,
                entrance: 0,
            },
            client_port: [0; 2],
            direction: Direction::ToBackend,
            from_vip: false,
            new: true,
            probe: false,
            enters: false,
            zero: 0,
        }
    }
}

/// The payload's one's complement sum, and whether the packet's checksum is right.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    /// Of the payload as the packet is now.
    pub(crate) payload: u32,
    /// 1: the packet's checksum is right.
    pub(crate) good: u8,
    /// 1: the payload was summed; else the other two say nothing.
    pub(crate) known: u8,
}

impl Scratch {
    /// Offset of the TCP header, bytes from the start of the frame.
    #[inline(always)]
    pub(crate) fn l4(&self) -> u32 {
        self.ip.l4 as u32
    }

    /// Length of the TCP header with its options, bytes.
    #[inline(always)]
    pub(crate) fn header_len(&self) -> u32 {
        self.segment.header_len as u32
    }

    /// Length of the payload, bytes.
    #[inline(always)]
    pub(crate) fn payload_len(&self) -> u32 {
        self.segment.payload_len as u32
    }

    /// Offset of the payload, bytes from the start of the frame.
    #[inline(always)]
    pub(crate) fn payload_at(&self) -> u32 {
        self.l4() + self.header_len()
    }
}

/// An ICMP error and what it quotes, as words in memory order.
#[repr(C)]
pub(crate) struct Quote {
    /// The packet's own IP header.
    pub(crate) outer: [u32; 10],
    /// The ICMP message from its first byte: its header (2 words), the quoted IP header (5 or 10)
    /// and the first 8 bytes of the quoted TCP header.
    pub(crate) message: [u32; 18],
}

/// Part of a client's stream in the packet at hand, and how far the decision on it is. Lengths and
/// offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct StreamRange {
    /// When the buffered data grew last, nanoseconds of CLOCK_MONOTONIC.
    pub(crate) grown_at: u64,
    /// From the first byte of the stream.
    pub(crate) offset: u32,
    /// From the start of the frame.
    pub(crate) from: u32,
    pub(crate) len: u32,
    /// The flow's state, as its number, before the packet came.
    pub(crate) state: u32,
    /// The bytes that are decided on ([`Input`]).
    pub(crate) input: u32,
    /// How many they are.
    pub(crate) have: u32,
    /// The verdict on them ([`crate::decide::verdict::code`]).
    pub(crate) verdict: i32,
    /// 1: the buffered data grew by this piece.
    pub(crate) grown: u32,
    /// Why gathering ends, a counter's index.
    pub(crate) reason: u32,
}

impl StreamRange {
    /// The flow's state before the packet came.
    #[inline(always)]
    pub(crate) fn state(&self) -> State {
        State::from_number(self.state as u8).unwrap_or(State::First)
    }
}

/// The bytes that a decision is made on.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// The packet's, copied to [`spare`].
    Packet,
    /// What is buffered of the stream.
    Buffer,
    /// As [`Input::Buffer`], and there will be no more.
    Last,
}

/// A reset in the client's name.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Reset {
    /// Backend that gets it.
    pub(crate) backend: u32,
    pub(crate) seq: u32,
}

/// A packet being made out of another one.
#[repr(C)]
pub(crate) struct Make {
    /// Addresses of the new packet.
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// TCP headers, zero behind their end.
    pub(crate) old_tcp: [u32; 16],
    pub(crate) new_tcp: [u32; 16],
    pub(crate) old_ip: [u32; 10],
    pub(crate) new_ip: [u32; 10],
    /// First four bytes of the new IP header (for IPv4 only the first two count).
    pub(crate) ip_word: [u8; 4],
    pub(crate) header_len: u32,
    pub(crate) payload_len: u32,
}

/// The working memory; `None` never happens but the verifier wants the check.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: per-CPU memory that only the running program uses; entry functions hand it down by
    // looking it up again.
    SCRATCH.get_ptr_mut(0).map(|p| unsafe { &mut *p })
}

/// A `Pending` of this CPU.
#[inline(always)]
pub(crate) fn spare() -> Option<*mut Pending> {
    SPARE.get_ptr_mut(0)
}

/// Another one: a hello without record headers.
#[inline(always)]
pub(crate) fn joined() -> Option<*mut Pending> {
    SPARE.get_ptr_mut(1)
}

/// Another one: a client's stream without what a proxy put in front of it.
#[inline(always)]
pub(crate) fn shifted() -> Option<*mut Pending> {
    SPARE.get_ptr_mut(2)
}

/// Whole seconds of [`now`], which steps once a timer tick: asked for once a tick and CPU.
#[inline(always)]
pub(crate) fn seconds(scratch: &mut Scratch) -> u32 {
    // SAFETY: a helper call without arguments, which the kernel replaces by a load.
    let tick = unsafe { bpf_jiffies64() };
    if scratch.tick != tick {
        scratch.tick = tick;
        scratch.seconds = (now() / 1_000_000_000) as u32;
    }
    scratch.seconds
}

/// Segments of the buffered data that are being sent: host-endian numbers, lengths in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Emitting {
    pub(crate) backend: u32,
    /// 1: the backend is the owner.
    pub(crate) to_owner: u32,
    /// The data's length.
    pub(crate) have: u32,
    /// Longest payload of a segment.
    pub(crate) chunk: u32,
    /// How much was sent.
    pub(crate) offset: u32,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) ts: u32,
    pub(crate) ts_echo: u32,
    pub(crate) header_len: u32,
    pub(crate) window: u32,
    pub(crate) ip_word: [u8; 4],
}
