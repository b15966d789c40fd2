//! Every map: what it holds, who writes it, who reads it. docs/maps.md says the same to operators.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::btf_map,
};
use steer_common::{
    counters::Counter,
    directory, fast,
    maps::{MMAPABLE, entries},
    shared::{
        Address, Answers, BACKEND_DIALLED, Backend, BackendPath, BackendStats, BridgePath,
        Endpoint, EndpointEntry, Entrance, Event, FastSlot, Flow, FlowKey, Foreign, FragmentKey,
        FragmentRoute, Held, HeldKey, HopSlot, JournalEntry, KeyName, LOOKUP_ENTRIES, Leg,
        MAX_BACKENDS, MAX_BRIDGES, MAX_ENTRANCES, MAX_EXEMPT, MAX_INTERFACES, MAX_VIPS, Pending,
        ROLE_BRIDGED, ROLE_MEMBER, ROLE_VIP, Refusals, Rest, Rotation, SERVICE_BACKEND,
        SWITCH_ASKING, SWITCH_RESIZING, SWITCHES, Session, SessionKey, Settings, Source, SourceKey,
        TraceLine, VLAN_WORDS, Vip, Watched,
    },
    trace,
};

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
/// Whether moves to backends rest, by their number. Written here only, and emptied by the agent.
#[btf_map(name = "rests")]
static RESTS: Array<Rest, { MAX_BACKENDS as usize }> = Array::new();
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
/// Settled flows as most of their packets need them, as [`fast`] says. Written here only. The
/// array's start is that of a page, so that a slot is a line.
#[btf_map(name = "fast")]
pub(crate) static FAST: Array<FastSlot, { entries("fast") as usize }, { MMAPABLE as usize }> =
    Array::new();
/// How many slots that are; 0: none is used. The loader writes it.
#[unsafe(no_mangle)]
pub(crate) static FAST_SLOTS: u32 = 0;
/// The hops of the clients of those flows. Written here only.
#[btf_map(name = "hops")]
pub(crate) static HOP_SLOTS: Array<HopSlot, { fast::HOPS as usize }> = Array::new();
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
/// What frames at the ports of a bridge say of the ways to backends, by their number. Written here
/// only, and emptied by the agent.
#[btf_map(name = "bridge_paths")]
static BRIDGE_PATHS: Array<BridgePath, { MAX_BACKENDS as usize }> = Array::new();
/// Address of a backend to its number. Written by the agent.
#[btf_map(name = "backend_ids")]
pub(crate) static BACKEND_IDS: HashMap<Endpoint, u32, { MAX_BACKENDS as usize }> = HashMap::new();
/// Who stands at an endpoint, as [`directory`] says. Written by the agent.
#[btf_map(name = "directory")]
static DIRECTORY: Array<EndpointEntry, { directory::ENTRIES as usize }> = Array::new();
/// VIPs and inline pools. Written by the agent; the programs find their records in the directory.
#[btf_map(name = "vips")]
pub(crate) static VIPS: HashMap<Endpoint, Vip, { MAX_VIPS as usize }> = HashMap::new();
/// VIPs that share the pool of another one, by their number. Written by the agent.
#[btf_map(name = "entrances")]
static ENTRANCES: Array<Entrance, { MAX_ENTRANCES as usize }> = Array::new();
/// Clients of inline pools that are none of steer's ([`ExemptKey`]). Written by the agent.
#[btf_map(name = "exempt")]
static EXEMPT: LpmTrie<[u8; 20], u32, { MAX_EXEMPT as usize }> = LpmTrie::new();
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
/// Which VLANs' frames are looked at ([`VLAN_WORDS`] words a bridge). Written by the agent.
#[btf_map(name = "vlans")]
static VLANS: Array<u32, { (MAX_BRIDGES * VLAN_WORDS) as usize }> = Array::new();
/// Counters, by [`Counter`].
#[btf_map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::COUNT }> = PerCpuArray::new();
/// What each backend did.
#[btf_map(name = "backend_stats")]
pub(crate) static BACKEND_STATS: PerCpuArray<BackendStats, { MAX_BACKENDS as usize }> =
    PerCpuArray::new();
/// Whether each backend answers at all.
#[btf_map(name = "answers")]
static ANSWERS: PerCpuArray<Answers, { MAX_BACKENDS as usize }> = PerCpuArray::new();
/// Whether an event wakes the agent: never. That is an interrupt to this CPU and a switch to
/// another process, more than all else that a re-home costs; the agent looks by itself.
pub(crate) const WAKE: u64 = BPF_RB_NO_WAKEUP as u64;
/// Events for the agent.
#[btf_map(name = "events")]
pub(crate) static EVENTS: RingBuf<Event, { entries("events") as usize }> = RingBuf::new();

/// Until when, seconds of CLOCK_MONOTONIC, somebody watches; 0: nobody does. Written by the CLI.
#[btf_map(name = "watch")]
pub(crate) static WATCH: Array<u32, 1> = Array::new();
/// What watchers are told.
#[btf_map(name = "watched")]
pub(crate) static WATCHED: RingBuf<Watched, { entries("watched") as usize }> = RingBuf::new();

/// Until when, seconds of CLOCK_MONOTONIC, the agent tells other gateways what changes; 0: it does
/// not. Written by the agent.
#[btf_map(name = "journaling")]
pub(crate) static JOURNALING: Array<u32, 1> = Array::new();
/// What changed, for other gateways.
#[btf_map(name = "journal")]
pub(crate) static JOURNAL: RingBuf<JournalEntry, { entries("journal") as usize }> = RingBuf::new();

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

/// Notes whether a backend answers.
#[inline(always)]
pub(crate) fn count_answer(backend: u32, change: impl FnOnce(&mut Answers)) {
    if let Some(answers) = ANSWERS.get_ptr_mut(backend) {
        // SAFETY: per-CPU memory.
        change(unsafe { &mut *answers });
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

/// The record of the VIP, or of the inline pool, that a backend serves.
#[inline(always)]
pub(crate) fn vip_of(backend: &Backend) -> Option<*const Vip> {
    let dialled = backend.flags & BACKEND_DIALLED != 0;
    let at = if dialled { &backend.endpoint } else { &backend.vip };
    let at = listed(directory_head()?, &at.address, at.port)?;
    let is_its = if dialled { is_member(at) } else { at.role == ROLE_VIP };
    is_its.then_some(&raw const at.vip)
}

/// Whether a backend stands there that its clients dial themselves.
#[inline(always)]
pub(crate) fn is_member(at: &EndpointEntry) -> bool {
    at.role == ROLE_MEMBER || at.role == ROLE_BRIDGED
}

/// What a client that is answered by a backend dialled, as [`FlowKey::service`] has it, where its
/// flow was not moved.
#[inline(always)]
pub(crate) fn service_of(backend: &Backend, id: u32) -> u16 {
    if backend.flags & BACKEND_DIALLED != 0 { SERVICE_BACKEND | id as u16 } else { backend.vip_id }
}

/// What a client dialled, and so is answered by: the VIP of a backend that has its flow, another one
/// that shares the pool (`entrance`), or the backend that it dialled itself.
#[inline(always)]
pub(crate) fn shown(key: &FlowKey, holder: &'static Backend, entrance: u8) -> &'static Endpoint {
    match key.dialled() {
        Some(id) => backend(id as u32).map_or(&holder.endpoint, |dialled| &dialled.endpoint),
        None if entrance == 0 => &holder.vip,
        None => {
            // SAFETY: array elements live as long as the program; the agent gives a number to
            // another VIP when no connection names it.
            let at = |entrance: *const Entrance| unsafe { &(*entrance).endpoint };
            ENTRANCES.get_ptr(entrance as u32).map_or(&holder.vip, at)
        }
    }
}

/// Whether a client of an inline pool is none whose connections are looked at.
#[inline(always)]
pub(crate) fn is_exempt(vip: &Vip, client: &Address) -> bool {
    let mut key = Key::new(8 * (2 + 16), [0u8; 20]);
    let id = vip.id.to_be_bytes();
    (key.data[0], key.data[1]) = (id[0], id[1]);
    key.data[2..18].copy_from_slice(&client.octets());
    EXEMPT.get(&key).is_some()
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

/// What frames at a bridge say of the way to a backend.
#[inline(always)]
pub(crate) fn bridge_path(id: u32) -> Option<&'static mut BridgePath> {
    // SAFETY: as above.
    BRIDGE_PATHS.get_ptr_mut(id).map(|p| unsafe { &mut *p })
}

/// What a backend made of the offers that it was held to own.
#[inline(always)]
pub(crate) fn refusals(id: u32) -> Option<&'static mut Refusals> {
    // SAFETY: as above; a lost race costs one number.
    REFUSALS.get_ptr_mut(id).map(|p| unsafe { &mut *p })
}

/// Whether moves to a backend rest.
#[inline(always)]
pub(crate) fn rest(id: u32) -> Option<&'static mut Rest> {
    // SAFETY: as above; a lost race costs one number.
    RESTS.get_ptr_mut(id).map(|p| unsafe { &mut *p })
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

/// Whether tables are being filled from those of another size or an older layout: who has no record
/// here may have one there.
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

/// Whether frames of a VLAN, 0 for those without a tag, are looked at in a bridge.
#[inline(always)]
pub(crate) fn takes_vlan(bridge: u32, vlan: u16) -> bool {
    let word = VLANS.get(bridge * VLAN_WORDS + vlan as u32 / 32);
    word.is_some_and(|word| word >> (vlan % 32) & 1 != 0)
}

/// Nanoseconds of CLOCK_MONOTONIC, which takes longer to find out than [`now`].
#[inline(always)]
pub(crate) fn exact_now() -> u64 {
    // SAFETY: a helper call without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Nanoseconds of CLOCK_MONOTONIC, in steps of a timer tick.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper call without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
