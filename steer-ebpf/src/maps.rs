//! Every map: what it holds, who writes it, who reads it. docs/maps.md says the same to operators.

use aya_ebpf::{
    bindings::{BPF_RB_NO_WAKEUP, bpf_fib_lookup},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::btf_map,
};
use steer_common::{
    counters::Counter,
    directory,
    flow::{Direction, State},
    maps::entries,
    shared::{
        Address, Backend, BackendPath, BackendStats, Endpoint, EndpointEntry, Event, Flow, FlowKey,
        Foreign, FragmentKey, FragmentRoute, Held, HeldKey, Hop, KeyName, LOOKUP_ENTRIES, Leg,
        MAX_BACKENDS, MAX_INTERFACES, MAX_VIPS, Pending, ROLE_VIP, Refusals, Rotation,
        SWITCH_ASKING, SWITCH_RESIZING, SWITCHES, Session, SessionKey, Settings, Source, SourceKey,
        TraceLine, Vip,
    },
    trace,
    wire::{
        ip::Ip,
        tcp::{Edits, Offer, Segment, Walker},
        tls::{
            client_hello::{Framing, Hello},
            server_flight::RESYNC_BYTES,
        },
    },
};

use crate::{emit::Emitting, forward::Change};

/// Session key to its owner. Written by `learn`; the agent ages it.
#[btf_map(name = "sessions")]
pub(crate) static SESSIONS: LruHashMap<SessionKey, Session, { entries("sessions") as usize }> =
    LruHashMap::new();
/// Names of ticket keys to the backend that has the key. Written by `learn` and, where configured,
/// by the agent, which ages it.
#[btf_map(name = "key_names")]
pub(crate) static KEY_NAMES: LruHashMap<SessionKey, KeyName, { entries("key_names") as usize }> =
    LruHashMap::new();
/// Key names whose owner is not known, and who rejected their tickets. Written here only.
#[btf_map(name = "key_name_tries")]
pub(crate) static KEY_NAME_TRIES: LruHashMap<
    SessionKey,
    KeyName,
    { entries("key_name_tries") as usize },
> = LruHashMap::new();
/// What backends made of the offers that they were held to own, by their number. Written here only,
/// and emptied by the agent.
#[btf_map(name = "refusals")]
static REFUSALS: Array<Refusals, { MAX_BACKENDS as usize }> = Array::new();
/// In which order the backends of each VIP came to their newest key names. Written here; the agent
/// takes out who is gone.
#[btf_map(name = "rotations")]
static ROTATIONS: Array<Rotation, { MAX_VIPS as usize }> = Array::new();
/// Sessions learned of each source, where a VIP limits them. Written here only; the agent ages it.
#[btf_map(name = "sources")]
pub(crate) static SOURCES: LruHashMap<SourceKey, Source, { entries("sources") as usize }> =
    LruHashMap::new();
/// Flows whose client acknowledged the first backend. Written here only.
#[btf_map(name = "flows")]
pub(crate) static FLOWS: LruHashMap<FlowKey, Flow, { entries("flows") as usize }> =
    LruHashMap::new();
/// Re-homed flows, never evicted: what `flows` forgets is restored from here.
#[btf_map(name = "splices")]
pub(crate) static SPLICES: HashMap<FlowKey, Flow, { entries("splices") as usize }> = HashMap::new();
/// SYNs and SYN-ACKs seen; attackers may churn it.
#[btf_map(name = "handshakes")]
pub(crate) static HANDSHAKES: LruHashMap<FlowKey, Flow, { entries("handshakes") as usize }> =
    LruHashMap::new();
/// Client data that no backend has seen yet.
#[btf_map(name = "pending")]
pub(crate) static PENDING: LruHashMap<FlowKey, Pending, { entries("pending") as usize }> =
    LruHashMap::new();
/// Datagrams whose first fragment was seen, and where it went. Written here only.
#[btf_map(name = "fragments")]
pub(crate) static FRAGMENTS: LruHashMap<
    FragmentKey,
    FragmentRoute,
    { entries("fragments") as usize },
> = LruHashMap::new();
/// Later fragments that overtook the first one of their datagram. Written here only.
#[btf_map(name = "held_fragments")]
pub(crate) static HELD: LruHashMap<HeldKey, Held, { entries("held_fragments") as usize }> =
    LruHashMap::new();
/// Connections that are not steer's and known by a packet of their client. Written here only; the
/// agent ages it.
#[btf_map(name = "foreign")]
pub(crate) static FOREIGN: LruHashMap<FlowKey, Foreign, { entries("foreign") as usize }> =
    LruHashMap::new();
/// Connections that have another port at their backend than their client's own. Written here only;
/// the agent ages it.
#[btf_map(name = "legs")]
pub(crate) static LEGS: HashMap<FlowKey, Leg, { entries("legs") as usize }> = HashMap::new();
/// What is left of flows that `flows` forgot, as [`trace`] says. Written here only.
#[btf_map(name = "traces")]
pub(crate) static TRACES: Array<TraceLine, { trace::LINES as usize }> = Array::new();
/// What is left of handshakes that `handshakes` forgot, as [`trace`] says. Written here only, and
/// only while connections may live that are older than the gateway.
#[btf_map(name = "syn_traces")]
pub(crate) static SYN_TRACES: Array<TraceLine, { trace::SYN_LINES as usize }> = Array::new();
/// Backends by their number. Written by the agent.
#[btf_map(name = "backends")]
static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }> = Array::new();
/// The ways to backends, by their number. Written here only, and emptied by the agent.
#[btf_map(name = "backend_paths")]
static BACKEND_PATHS: Array<BackendPath, { MAX_BACKENDS as usize }> = Array::new();
/// Address of a backend to its number. Written by the agent.
#[btf_map(name = "backend_ids")]
pub(crate) static BACKEND_IDS: HashMap<Endpoint, u32, { MAX_BACKENDS as usize }> = HashMap::new();
/// Who stands at an endpoint, as [`directory`] says. Written by the agent.
#[btf_map(name = "directory")]
static DIRECTORY: Array<EndpointEntry, { directory::ENTRIES as usize }> = Array::new();
/// VIPs. Written by the agent.
#[btf_map(name = "vips")]
pub(crate) static VIPS: HashMap<Endpoint, Vip, { MAX_VIPS as usize }> = HashMap::new();
/// Lookup tables, two halves a VIP. Written by the agent.
#[btf_map(name = "lookup")]
pub(crate) static LOOKUP: Array<u16, { LOOKUP_ENTRIES as usize }> = Array::new();
/// Settings of the gateway. Written by the agent.
#[btf_map(name = "settings")]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();
/// Switches of the gateway (`SWITCH_*`). Written by the CLI.
#[btf_map(name = "switches")]
static SWITCH_STATES: Array<u32, { SWITCHES as usize }> = Array::new();
/// What each interface takes (`INTERFACE_*`), by its index. Written by the agent.
#[btf_map(name = "interfaces")]
static INTERFACES: HashMap<u32, u32, { MAX_INTERFACES as usize }> = HashMap::new();
/// Counters, by [`Counter`].
#[btf_map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::COUNT }> = PerCpuArray::new();
/// What each backend did.
#[btf_map(name = "backend_stats")]
pub(crate) static BACKEND_STATS: PerCpuArray<BackendStats, { MAX_BACKENDS as usize }> =
    PerCpuArray::new();
/// Whether an event wakes the agent: never. That is an interrupt to this CPU and a switch to
/// another process, more than all else that a re-home costs; the agent looks by itself.
pub(crate) const WAKE: u64 = BPF_RB_NO_WAKEUP as u64;
/// Events for the agent.
#[btf_map(name = "events")]
pub(crate) static EVENTS: RingBuf<Event, { entries("events") as usize }> = RingBuf::new();
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
    pub(crate) direction: Direction,
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
    /// Action that the slow path wants returned.
    pub(crate) action: u32,
    /// 1: the flow was made, or made anew, since it was looked up.
    pub(crate) fresh: u32,
    /// The client's port at the first backend where the packet is of a handshake and that leg is
    /// taken, else 0.
    pub(crate) first_port: [u8; 2],
    pub(crate) zero: [u8; 2],
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
    /// The verdict on them ([`crate::verdict::code`]).
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

/// Counts one.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    count_index(counter as u32);
}

/// Counts one by index.
#[inline(always)]
pub(crate) fn count_index(index: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: per-CPU memory.
        unsafe { *value += 1 };
    }
}

/// Changes what is counted of a backend.
#[inline(always)]
pub(crate) fn count_backend(backend: u32, change: impl FnOnce(&mut BackendStats)) {
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend) {
        // SAFETY: per-CPU memory.
        change(unsafe { &mut *stats });
    }
}

/// The head of the directory, which [`listed`] wants.
#[inline(always)]
pub(crate) fn directory_head() -> Option<u32> {
    // SAFETY: an array's element; one word.
    DIRECTORY.get_ptr(0).map(|first| unsafe { (*first).head })
}

/// Who stands at an endpoint.
#[inline(always)]
pub(crate) fn listed(
    head: u32,
    address: &Address,
    port: [u8; 2],
) -> Option<&'static EndpointEntry> {
    // SAFETY: array elements live as long as the program; the agent writes only those that no
    // packet is told to read.
    let entry = |index| DIRECTORY.get_ptr(index).map(|listed| unsafe { &*listed });
    directory::find(head, address, port, entry)
}

/// The record of the VIP that a backend serves.
#[inline(always)]
pub(crate) fn vip_of(backend: &Backend) -> Option<*const Vip> {
    let at = listed(directory_head()?, &backend.vip.address, backend.vip.port)?;
    (at.role == ROLE_VIP).then_some(&raw const at.vip)
}

/// The record of a backend.
#[inline(always)]
pub(crate) fn backend(id: u32) -> Option<&'static Backend> {
    // SAFETY: array elements live as long as the program; the agent may write fields at the same
    // time, each of which is a machine word or does not change while a packet can name the backend.
    BACKENDS.get_ptr(id).map(|p| unsafe { &*p })
}

/// What is known of the way to a backend.
#[inline(always)]
pub(crate) fn backend_path(id: u32) -> Option<&'static mut BackendPath> {
    // SAFETY: as above; other CPUs may write fields at the same time, a cache whose tearing costs
    // one packet.
    BACKEND_PATHS.get_ptr_mut(id).map(|p| unsafe { &mut *p })
}

/// What a backend made of the offers that it was held to own.
#[inline(always)]
pub(crate) fn refusals(id: u32) -> Option<&'static mut Refusals> {
    // SAFETY: as above; a lost race costs one number.
    REFUSALS.get_ptr_mut(id).map(|p| unsafe { &mut *p })
}

/// When the backends of a VIP came to new key names.
#[inline(always)]
pub(crate) fn rotation(vip: u16) -> Option<&'static mut Rotation> {
    // SAFETY: as above; a lost race costs the order of two backends.
    ROTATIONS.get_ptr_mut(vip as u32).map(|p| unsafe { &mut *p })
}

/// Whether a switch is on.
#[inline(always)]
pub(crate) fn switch(index: u32) -> bool {
    SWITCH_STATES.get(index).is_some_and(|on| *on != 0)
}

/// Whether the agent asks clients for what is swallowed now.
#[inline(always)]
pub(crate) fn agent_asks(seconds: u32) -> bool {
    SWITCH_STATES.get(SWITCH_ASKING).is_some_and(|until| *until > seconds)
}

/// Whether tables are being filled from those of an older layout: who has no record here may have
/// one there.
#[inline(always)]
pub(crate) fn is_filling(seconds: u32) -> bool {
    let until = SWITCH_STATES.get(SWITCH_RESIZING).copied().unwrap_or(0);
    until > 1 && (until.wrapping_sub(seconds) as i32) > 0
}

/// Turns a switch on that is nearly always on already.
#[inline(always)]
pub(crate) fn set_switch(index: u32) {
    if let Some(on) = SWITCH_STATES.get_ptr_mut(index) {
        // SAFETY: an array's element, one word.
        unsafe {
            if *on == 0 {
                *on = 1;
            }
        }
    }
}

/// What an interface takes, any of `INTERFACE_*`.
#[inline(always)]
pub(crate) fn interface(ifindex: u32) -> u32 {
    // SAFETY: one number, copied at once.
    unsafe { INTERFACES.get(&ifindex) }.copied().unwrap_or(0)
}

/// Nanoseconds of CLOCK_MONOTONIC, in steps of a timer tick.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper call without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
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
