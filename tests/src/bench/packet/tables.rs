//! The measured programs and their tables.

use std::num::NonZero;

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray},
    programs::{Program, SchedClassifier, Xdp, XdpMode},
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use steer_common::{
    counters::Counter,
    directory, fast,
    flow::{State as FlowState, StateWord},
    shared::{
        Address, BACKEND_BRIDGED, BACKEND_DIALLED, BACKEND_PRESENT, BACKEND_UP, Backend,
        BackendPath, Bench, BridgePath, Endpoint, EndpointEntry, FastSlot, Flow, FlowKey,
        HOP_TAKES_XDP, Hop, HopSlot, INTERFACE_INSIDE, INTERFACE_OUTSIDE, INTERFACE_TAKES_XDP,
        LOOKUP_HALVES, LOOKUP_SLOTS, Leg, PATH_RETURN_SEEN, SWITCH_LEGS, Session, SessionKey,
        Settings, VIP_BRIDGED, VIP_INLINE, Vip,
    },
};
use steer_user::{clock, plane::half};

use super::{
    Hook,
    cases::{Case, known_session},
};
use crate::{
    ends::{BACKEND_MAC, CLIENT_MAC, Ends, GATE_MAC, INNER_MAC, OWNER_ISN, endpoint, shapes},
    netns::NetNs,
};

/// Whose packets come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// One client's, over and over.
    Hot,
    /// Random clients', with a million entries in `flows`, `sessions` and `handshakes`.
    Random1m,
}

/// Entries of a filled table.
const MILLION: u32 = 1 << 20;

impl State {
    pub(super) fn runs(self) -> u32 {
        if self == State::Hot { 100_000 } else { 40_000 }
    }

    /// Entries of the tables; those of flows have room to spare, so that none that is measured is
    /// evicted.
    fn sizes(self) -> [(&'static str, u32); 6] {
        let small = 4096;
        match self {
            State::Hot => [
                ("flows", small),
                ("fast", small),
                ("splices", small),
                ("handshakes", small),
                ("sessions", small),
                ("legs", small),
            ],
            State::Random1m => [
                ("flows", MILLION + MILLION / 4),
                ("fast", 2 * MILLION),
                ("splices", MILLION / 2),
                ("handshakes", MILLION),
                ("sessions", MILLION),
                ("legs", MILLION / 2),
            ],
        }
    }
}

pub(super) struct Tables {
    ebpf: Ebpf,
    /// Slots of the map `fast`.
    fast_slots: u32,
}

impl Tables {
    /// Loads the programs and fills their tables for these cases.
    pub(super) fn new(object: &[u8], ends: &Ends, state: State, cases: &[Case]) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS).map_max_entries("pending", 16);
        let sizes = state.sizes();
        for (table, entries) in sizes {
            loader.map_max_entries(table, entries);
        }
        let fast_slots = sizes[1].1;
        loader.override_global("FAST_SLOTS", &fast_slots, true);
        let mut tables =
            Self { fast_slots, ebpf: loader.load(object).context("load the measured programs")? };
        for name in ["steer_tc", "bench_empty", "bench_shim_tc"] {
            tables
                .program::<SchedClassifier>(name)?
                .load()
                .with_context(|| format!("load {name}"))?;
        }
        for name in ["steer_xdp", "bench_empty_xdp", "bench_shim_xdp"] {
            tables.program::<Xdp>(name)?.load().with_context(|| format!("load {name}"))?;
        }
        // The kernel runs XDP programs on interfaces alone that have one.
        tables
            .program::<Xdp>("bench_empty_xdp")?
            .attach(LINK, XdpMode::Driver)
            .context("attach XDP to the link")?;
        tables.pool(ends, link_index()?)?;
        tables.fill(ends, state, cases)?;
        Ok(tables)
    }

    pub(super) fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P>
    where
        &'a mut P: TryFrom<&'a mut Program, Error: std::error::Error + Send + Sync + 'static>,
    {
        let program = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("the object has no program {name}"))?;
        program.try_into().with_context(|| format!("take the program {name}"))
    }

    /// The shim's next orders, and the program it runs.
    pub(super) fn begin(
        &mut self,
        case: &Case,
        bench: &Bench,
        state: State,
        hook: Hook,
        steer: bool,
    ) -> Result<()> {
        let flow = live(&case.ends, &bench.flow, link_index()?);
        if steer && case.flow.is_some() {
            self.enter(case, state, &flow)?;
        }
        self.array::<Bench>("bench")?
            .set(0, Bench { flow, ..*bench }, 0)
            .context("write the map bench")?;
        let (map, name) = match (hook, steer) {
            (Hook::Tc, true) => ("bench_tc_next", "steer_tc"),
            (Hook::Tc, false) => ("bench_tc_next", "bench_empty"),
            (Hook::Xdp, true) => ("bench_xdp_next", "steer_xdp"),
            (Hook::Xdp, false) => ("bench_xdp_next", "bench_empty_xdp"),
        };
        let program = match hook {
            Hook::Tc => self.program::<SchedClassifier>(name)?.fd()?.try_clone()?,
            Hook::Xdp => self.program::<Xdp>(name)?.fd()?.try_clone()?,
        };
        let mut next = ProgramArray::try_from(self.map(map)?)?;
        next.set(0, &program, 0).with_context(|| format!("enter {name} for {}", case.name))
    }

    /// Enters the case's flows into the cache of settled ones, as their packets a moment ago did.
    fn enter(&mut self, case: &Case, state: State, flow: &Flow) -> Result<()> {
        if !StateWord(flow.word).is_settled() || !fast::may_be_entered(flow) {
            return Ok(());
        }
        let hop = fast::hop_place(&flow.client_hop, 0);
        let listed = HopSlot { hop: flow.client_hop, version: 0, used: clock::seconds() };
        self.array::<HopSlot>("hops")?.set(hop, listed, 0)?;
        let slots = self.fast_slots;
        let aya::maps::Map::Array(map) = self.map("fast")? else {
            return Err(anyhow!("fast is no array"));
        };
        let len = NonZero::new(slots as usize * size_of::<FastSlot>()).context("no slots")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping of the map's own length, which nobody else has.
        let mapped = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, map.fd(), 0) }
            .context("map the map fast")?;
        // SAFETY: that mapping, of a plain type; programs run only when this is done.
        let all = unsafe {
            std::slice::from_raw_parts_mut(mapped.cast::<FastSlot>().as_ptr(), slots as usize)
        };
        let now = clock::seconds();
        for client in case.clients(state) {
            let key = key(&case.ends, client);
            let slot = fast::slot_of(&key, flow, hop as u16, 0, now);
            let first = fast::pair(&key, 0, slots) as usize;
            let ways = || [first, first + 1].into_iter();
            let own = ways().find(|at| fast::is_of(&all[*at], &key));
            if let Some(at) = own.or_else(|| ways().find(|at| !fast::is_used(&all[*at], now))) {
                all[at] = slot;
            }
        }
        // SAFETY: the mapping from above, whose slice is not used any more.
        unsafe { munmap(mapped, len.get()) }.context("unmap the map fast")
    }

    /// What the shim told.
    pub(super) fn told(&mut self) -> Result<Bench> {
        self.array::<Bench>("bench")?.get(&0, 0).context("read the map bench")
    }

    /// What the programs counted.
    pub(super) fn counter(&mut self, counter: Counter) -> Result<u64> {
        let counters: PerCpuArray<&mut MapData, u64> = self.map("counters")?.try_into()?;
        Ok(counters.get(&(counter as u32), 0)?.iter().sum())
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf.map_mut(name).ok_or_else(|| anyhow!("the object has no map {name}"))
    }

    fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        Ok(self.map(name)?.try_into()?)
    }

    fn table<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        Ok(self.map(name)?.try_into()?)
    }

    /// One VIP, its two backends, and a lookup table that names the first.
    fn pool(&mut self, ends: &Ends, ifindex: u32) -> Result<()> {
        self.array::<Settings>("settings")?.set(
            0,
            Settings { xdp: 1, ..Settings::default() },
            0,
        )?;
        let port = if ends.bridged { INTERFACE_OUTSIDE | INTERFACE_INSIDE } else { 0 };
        self.table::<u32, u32>("interfaces")?.insert(ifindex, INTERFACE_TAKES_XDP | port, 0)?;
        self.array::<u32>("vlans")?.set(0, u32::MAX, 0)?;
        let lookup_base = u32::from(ends.vip_id) * LOOKUP_HALVES * LOOKUP_SLOTS;
        let mut lookup = self.array::<u16>("lookup")?;
        for slot in 0..LOOKUP_SLOTS {
            lookup.set(lookup_base + slot, ends.first_id, 0)?;
        }
        let (inline, dialled) = match (ends.is_inline(), ends.bridged) {
            (_, true) => (VIP_INLINE | VIP_BRIDGED, BACKEND_DIALLED | BACKEND_BRIDGED),
            (true, false) => (VIP_INLINE, BACKEND_DIALLED),
            (false, false) => (0, 0),
        };
        let vip = Vip {
            id: ends.vip_id,
            lookup_base,
            session_timeout: 600,
            flow_timeout: 7860,
            flags: inline,
            owner_tries: 3,
            name_len: 16,
            ..Vip::default()
        };
        self.table::<Endpoint, Vip>("vips")?.insert(ends.served(), vip, 0)?;
        let backends = [(ends.first_id, ends.first), (ends.owner_id, ends.owner)];
        let record = |at| Backend {
            endpoint: endpoint(at),
            vip: ends.served(),
            vip_id: ends.vip_id,
            flags: BACKEND_PRESENT | BACKEND_UP | dialled,
            weight: 1,
            ..Backend::default()
        };
        let (listed, seed) = half(
            &[(ends.served(), vip)],
            &[],
            &backends.map(|(id, at)| (u32::from(id), record(at))),
        )?;
        let mut directory = self.array::<EndpointEntry>("directory")?;
        directory.set(
            0,
            EndpointEntry { head: directory::head(0, seed), ..EndpointEntry::default() },
            0,
        )?;
        for (slot, listed) in (directory::half(0)..).zip(listed) {
            directory.set(slot, listed, 0)?;
        }
        for (id, at) in backends {
            self.table::<Endpoint, u32>("backend_ids")?.insert(endpoint(at), u32::from(id), 0)?;
            self.array::<Backend>("backends")?.set(u32::from(id), record(at), 0)?;
            let ethernet = Hop::mac_addresses(BACKEND_MAC, INNER_MAC);
            let hop = Hop { ifindex, ethernet, mtu: 1500, flags: HOP_TAKES_XDP, asked: 0 };
            let path = BackendPath { hop, flags: PATH_RETURN_SEEN, ..BackendPath::default() };
            self.array::<BackendPath>("backend_paths")?.set(u32::from(id), path, 0)?;
            let now = clock::seconds();
            let ethernet = Hop::mac_addresses(BACKEND_MAC, CLIENT_MAC);
            let seen =
                BridgePath { ethernet, sent: now, ifindex, heard: now, ..BridgePath::default() };
            self.array::<BridgePath>("bridge_paths")?.set(u32::from(id), seen, 0)?;
        }
        Ok(())
    }

    fn fill(&mut self, ends: &Ends, state: State, cases: &[Case]) -> Result<()> {
        if state == State::Random1m {
            self.fill_strangers(ends)?;
        }
        for case in cases {
            let Some(flow) = case.flow else { continue };
            let spliced = StateWord(flow.word).state() == FlowState::Spliced;
            self.fill_flows("flows", case, live(ends, &flow, link_index()?), state)?;
            if spliced {
                self.fill_flows("splices", case, live(ends, &flow, link_index()?), state)?;
                self.fill_legs(case, state)?;
            }
        }
        let session = Session {
            owner: ends.first_id,
            first_seen: clock::seconds(),
            last_seen: clock::seconds(),
            ..Session::default()
        };
        let n_sessions = if state == State::Hot { 1 } else { 1 << 18 };
        let mut sessions = self.table::<SessionKey, Session>("sessions")?;
        for number in 0..n_sessions {
            sessions.insert(known_session(ends.vip_id, number), session, 0)?;
        }
        Ok(())
    }

    /// A record for each client of a case, each with a lesson of its own.
    fn fill_flows(&mut self, table: &str, case: &Case, mut flow: Flow, state: State) -> Result<()> {
        let mut flows = self.table::<FlowKey, Flow>(table)?;
        for client in case.clients(state) {
            flow.follow.lesson[28..].copy_from_slice(&client.to_be_bytes());
            flows
                .insert(key(&case.ends, client), flow, 0)
                .with_context(|| format!("fill {table}"))?;
        }
        Ok(())
    }

    /// The leg of each client of a case, where the shape has legs.
    fn fill_legs(&mut self, case: &Case, state: State) -> Result<()> {
        if !case.ends.is_inline() {
            return Ok(());
        }
        self.array::<u32>("switches")?.set(SWITCH_LEGS, 1, 0)?;
        let (at, leg) = case.ends.leg();
        let leg = Leg { seen: clock::seconds(), ..leg };
        let mut legs = self.table::<FlowKey, Leg>("legs")?;
        for client in case.clients(state) {
            let client = key(&case.ends, client).client;
            legs.insert(FlowKey { client, ..at }, leg, 0).context("fill legs")?;
        }
        Ok(())
    }

    /// Sessions that nobody offers, oldest first in line for eviction, and handshakes that nobody
    /// ends.
    fn fill_strangers(&mut self, ends: &Ends) -> Result<()> {
        let mut sessions = self.table::<SessionKey, Session>("sessions")?;
        for number in (1 << 18)..MILLION {
            sessions.insert(known_session(ends.vip_id, number), Session::default(), 0)?;
        }
        let mut handshakes = self.table::<FlowKey, Flow>("handshakes")?;
        let handshake =
            Flow { word: StateWord::new(FlowState::Syn, OWNER_ISN).0, ..ends.handshake() };
        for client in 0..MILLION {
            handshakes.insert(key(ends, client), handshake, 0)?;
        }
        Ok(())
    }
}

/// The flow's key with another last word of the client's address.
fn key(ends: &Ends, client: u32) -> FlowKey {
    let key = ends.key();
    let [a, b, c, _] = key.client.words();
    FlowKey { client: Address::from_words([a, b, c, client.to_be()]), ..key }
}

/// A record as a packet a moment ago left it.
fn live(ends: &Ends, flow: &Flow, ifindex: u32) -> Flow {
    let station = if ends.bridged { BACKEND_MAC } else { GATE_MAC };
    let ethernet = Hop::mac_addresses(CLIENT_MAC, station);
    let hop = Hop { ifindex, ethernet, mtu: 1500, flags: HOP_TAKES_XDP, asked: clock::seconds() };
    Flow { seen: clock::seconds(), client_hop: hop, ..*flow }
}

const LINK: &str = "eth0";

pub(super) fn link_index() -> Result<u32> {
    nix::net::if_::if_nametoindex(LINK).context("look up the link")
}

/// A link with routes and neighbours for all backends, whose next hops the programs ask for once a
/// second.
pub(super) fn lay_link(ns: &NetNs) -> Result<()> {
    let [mac, own] =
        [BACKEND_MAC, GATE_MAC].map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    let neighbours = shapes().iter().flat_map(|ends| [ends.first, ends.owner]).fold(String::new(), |all, at| {
        let (address, bits) = (at.ip(), if at.is_ipv4() { 32 } else { 128 });
        format!(
            "{all}route add {address}/{bits} dev {LINK}\nneigh add {address} lladdr {mac} nud permanent dev {LINK}\n"
        )
    });
    ns.ip(&format!(
        "link add {LINK} address {own} type veth peer name far0\nlink set {LINK} up\nlink set far0 up\nlink set lo up\n{neighbours}"
    ))?;
    ns.sysctl("ipv4/ip_forward", "1")?;
    ns.sysctl("ipv6/conf/all/forwarding", "1")
}
