//! Where fixtures run: a namespace with one interface, the loaded programs, their maps as a fixture
//! wants them.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use steer_common::{
    counters::Counter,
    fast,
    session::Kind,
    shared::{
        BACKEND_DIALLED, BACKEND_PRESENT, BACKEND_UP, Backend, BackendPath, FastSlot, Flow,
        FlowKey, HOP_TAKES_XDP, Hop, HopSlot, INTERFACE_TAKES_XDP, LOOKUP_HALVES, LOOKUP_SLOTS,
        Leg, NO_BACKEND, Pending, Range, SWITCH_LEGS, Session, SessionKey, Settings, TraceLine,
        VIP_INLINE, Vip,
    },
    trace,
};
pub(crate) use steer_tests::ends::{
    BACKEND_MAC, CLIENT_ISN, CLIENT_MAC, Ends, FIRST_ISN, GATE_MAC, INNER_MAC, OWNER_ISN, TS_DELTA,
    families, shapes,
};
use steer_tests::{
    ends::endpoint,
    netns::NetNs,
    packets::{Segment, judge_checksums},
    programs::{Loaded, Program, Ran},
};
use steer_user::{clock, config::Sizes};

/// Actions of the two programs.
pub(crate) const TC_NEXT: i32 = -1;
pub(crate) const TC_DROP: i32 = 2;
pub(crate) const TC_REDIRECT: i32 = 7;
pub(crate) const XDP_DROP: i32 = 1;
pub(crate) const XDP_PASS: i32 = 2;
pub(crate) const XDP_REDIRECT: i32 = 4;

/// NOP, NOP, timestamps, as agreed on.
pub(crate) const STAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0x20, 1, 0, 0, 0x30, 1];

/// Where XDP runs in a test.
const LOOPBACK: u32 = 1;

/// What the maps hold besides one VIP a family and its two backends.
#[derive(Clone, Default)]
pub(crate) struct Given {
    pub(crate) flow: Option<Flow>,
    pub(crate) handshake: Option<Flow>,
    /// Session ID of a session that the owner holds.
    pub(crate) session: Option<Vec<u8>>,
    /// The client's data that is buffered.
    pub(crate) pending: Option<Vec<u8>>,
    /// No lookup slot names a backend.
    pub(crate) empty_pool: bool,
    /// `VIP_*`.
    pub(crate) vip_flags: u16,
    /// Smallest MSS of the pool.
    pub(crate) vip_mss: u16,
    /// MTU towards backends and clients instead of 1500.
    pub(crate) mtu: Option<u32>,
    /// When the way to the client was last asked for.
    pub(crate) way_asked: Asked,
}

/// When something was last asked for.
#[derive(Clone, Copy, Default)]
pub(crate) enum Asked {
    #[default]
    Now,
    /// Seconds ago.
    Ago(u32),
    Never,
}

impl Given {
    pub(crate) fn nothing() -> Self {
        Self::default()
    }

    pub(crate) fn flow(flow: Flow) -> Self {
        Self { flow: Some(flow), ..Self::default() }
    }

    pub(crate) fn handshake(flow: Flow) -> Self {
        Self { handshake: Some(flow), ..Self::default() }
    }
}

/// What shall become of a packet.
#[derive(Clone, Debug)]
pub(crate) enum Out {
    /// Passed on as it came.
    Untouched,
    Dropped,
    /// Redirected as this frame.
    Sent(Vec<u8>),
}

/// One fixture.
pub(crate) struct Case {
    pub(crate) what: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) given: Given,
    pub(crate) tc: Out,
    pub(crate) xdp: Out,
    /// What TC counts, once.
    pub(crate) counts: Option<Counter>,
}

pub(crate) struct World {
    pub(crate) ns: NetNs,
    pub(crate) loaded: Loaded,
    pub(crate) ifindex: u32,
    pending: HashMap<MapData, FlowKey, Pending>,
    syn_traces: Array<MapData, TraceLine>,
    fast: Array<MapData, FastSlot>,
    hops: Array<MapData, HopSlot>,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        Self::of(&Sizes {
            sessions: 1024,
            flows: 1024,
            fast: 64,
            splices: 1024,
            legs: 4096,
            handshakes: 1024,
            pending: 16,
        })
    }

    /// One whose tables have these sizes.
    pub(crate) fn of(sizes: &Sizes) -> Result<Self> {
        let ns = NetNs::create()?;
        // Of all frames the programs take those for the station that they come in by.
        let station = GATE_MAC.map(|byte| format!("{byte:02x}")).join(":");
        ns.ip(&format!(
            "link add eth0 address {station} type veth peer name far0\nlink set eth0 up\nlink set far0 up\n"
        ))?;
        let ifindex = ns.run(|| Ok(nix::net::if_::if_nametoindex("eth0")?))?;
        let mut loaded = Loaded::load(sizes)?;
        loaded.plane.set_settings(&Settings { xdp: 1, ..Settings::default() })?;
        for index in [LOOPBACK, ifindex] {
            loaded.plane.interfaces.insert(&index, &INTERFACE_TAKES_XDP)?;
        }
        for ends in shapes() {
            let base = lookup_base(&ends, false);
            loaded.plane.lookup.write(base, &[ends.first_id; LOOKUP_SLOTS as usize])?;
            loaded.plane.lookup.write(base + LOOKUP_SLOTS, &[NO_BACKEND; LOOKUP_SLOTS as usize])?;
            for (id, at) in [(ends.first_id, ends.first), (ends.owner_id, ends.owner)] {
                loaded.plane.set_backend_id(&endpoint(at), u32::from(id))?;
            }
        }
        let pending = MapData::from_pin(loaded.pin("pending")).and_then(Map::from_map_data);
        let pending = pending.and_then(HashMap::try_from).context("open the map pending")?;
        let syn_traces = MapData::from_pin(loaded.pin("syn_traces")).and_then(Map::from_map_data);
        let syn_traces = syn_traces.and_then(Array::try_from).context("open the map syn_traces")?;
        let fast = MapData::from_pin(loaded.pin("fast")).and_then(Map::from_map_data);
        let fast = fast.and_then(Array::try_from).context("open the map fast")?;
        let hops = MapData::from_pin(loaded.pin("hops")).and_then(Map::from_map_data);
        let hops = hops.and_then(Array::try_from).context("open the map hops")?;
        Ok(Self { ns, loaded, ifindex, pending, syn_traces, fast, hops })
    }

    /// The slots of the cache of settled flows, with their indices.
    pub(crate) fn slots(&self) -> Result<Vec<(u32, FastSlot)>> {
        (0..self.fast.len()).map(|at| Ok((at, self.fast.get(&at, 0)?))).collect()
    }

    /// The slot that these ends' flow has.
    pub(crate) fn slot(&self, ends: &Ends) -> Result<Option<(u32, FastSlot)>> {
        let is_its = |(_, slot): &(u32, FastSlot)| slot.entered != 0 && slot.key == ends.key();
        Ok(self.slots()?.into_iter().find(is_its))
    }

    /// Writes a slot.
    pub(crate) fn set_slot(&mut self, at: u32, slot: FastSlot) -> Result<()> {
        self.fast.set(at, slot, 0).context("write the map fast")
    }

    /// A hop of the clients in the cache.
    pub(crate) fn hop(&self, at: u16) -> Result<HopSlot> {
        self.hops.get(&u32::from(at), 0).context("read the map hops")
    }

    /// Writes one.
    pub(crate) fn set_hop(&mut self, at: u16, hop: HopSlot) -> Result<()> {
        self.hops.set(u32::from(at), hop, 0).context("write the map hops")
    }

    /// Forgets what is left of the handshake of these ends.
    pub(crate) fn forget_trace(&mut self, ends: &Ends) -> Result<()> {
        let line = trace::place(&ends.key(), 0).line & (trace::SYN_LINES - 1);
        Ok(self.syn_traces.set(line, TraceLine::default(), 0)?)
    }

    /// Forgets what is left of the flow of these ends, and of its handshake.
    pub(crate) fn forget_flow_trace(&mut self, ends: &Ends) -> Result<()> {
        self.forget_trace_of(&ends.key())?;
        self.forget_trace(ends)
    }

    /// Forgets what is left of the flow with this key, and of those in its line.
    pub(crate) fn forget_trace_of(&mut self, key: &FlowKey) -> Result<()> {
        let line = trace::place(key, 0).line;
        let mut traces = MapData::from_pin(self.loaded.pin("traces"))
            .and_then(Map::from_map_data)
            .and_then(Array::<_, TraceLine>::try_from)
            .context("open the map traces")?;
        traces.set(line, TraceLine::default(), 0).context("forget a trace")
    }

    /// Fills the maps for a run of the TC program.
    pub(crate) fn prepare(&mut self, ends: &Ends, given: &Given) -> Result<()> {
        self.prepare_for(Program::Tc, ends, given)
    }

    /// Fills the maps; all come and go by the interface that the program runs at.
    pub(crate) fn prepare_for(
        &mut self,
        program: Program,
        ends: &Ends,
        given: &Given,
    ) -> Result<()> {
        let ifindex = if program == Program::Xdp { LOOPBACK } else { self.ifindex };
        let (key, now) = (ends.key(), programs_seconds());
        let mtu = given.mtu.unwrap_or(1500) as u16;
        let flags = HOP_TAKES_XDP;
        let hop = |to, from| Hop {
            ifindex,
            ethernet: Hop::mac_addresses(to, from),
            mtu,
            flags,
            asked: now,
        };
        let asked = match given.way_asked {
            Asked::Now => now,
            Asked::Ago(seconds) => now - seconds,
            Asked::Never => 0,
        };
        let client_hop = Hop { asked, ..hop(CLIENT_MAC, GATE_MAC) };
        let live = |flow: &Flow| Flow { seen: now, client_hop, ..*flow };
        let plane = &mut self.loaded.plane;
        let (flows, handshakes) = (&mut plane.flows, &mut plane.handshakes);
        for (table, wanted) in [(flows, &given.flow), (handshakes, &given.handshake)] {
            table.remove(&key)?;
            wanted.as_ref().map_or(Ok(()), |flow| table.insert(&key, &live(flow)))?;
        }
        plane.splices.remove(&key)?;
        plane.legs.remove(&ends.leg().0)?;
        for at in 0..self.fast.len() {
            self.fast.set(at, FastSlot::default(), 0)?;
        }
        for probe in 0..fast::HOP_PROBES {
            let at = (fast::hop_place(&client_hop, 0) + probe) & (fast::HOPS - 1);
            self.hops.set(at, HopSlot::default(), 0)?;
        }
        if given.flow.is_some_and(|flow| flow.owner == ends.owner_id) {
            self.move_leg(ends)?;
        }
        let plane = &mut self.loaded.plane;
        let (inline, dialled) =
            if ends.is_inline() { (VIP_INLINE, BACKEND_DIALLED) } else { (0, 0) };
        for (id, at) in [(ends.first_id, ends.first), (ends.owner_id, ends.owner)] {
            let backend = Backend {
                endpoint: endpoint(at),
                vip: ends.served(),
                vip_id: ends.vip_id,
                flags: BACKEND_PRESENT | BACKEND_UP | dialled,
                weight: 1,
                ..Backend::default()
            };
            plane.set_backend(u32::from(id), &backend)?;
            let path = BackendPath { hop: hop(BACKEND_MAC, INNER_MAC), ..BackendPath::default() };
            plane.set_backend_path(u32::from(id), &path)?;
        }
        let vip = Vip {
            id: ends.vip_id,
            flags: given.vip_flags | inline,
            lookup_base: lookup_base(ends, given.empty_pool),
            session_timeout: 600,
            session_limit: 0,
            flow_timeout: 7860,
            mss: given.vip_mss,
            owner_tries: 3,
            name_len: 16,
            name_timeout: 3600,
            ..Vip::default()
        };
        plane.set_vip(&ends.served(), &vip)?;
        if let Some(id) = &given.session {
            let key = SessionKey::new(ends.vip_id, Kind::SessionId, id).context("a session ID")?;
            let session = Session {
                owner: ends.owner_id,
                first_seen: now,
                last_seen: now,
                ..Session::default()
            };
            plane.sessions.insert(&key, &session)?;
        }
        drop(self.pending.remove(&key));
        given.pending.as_ref().map_or(Ok(()), |data| self.buffer(&key, data))
    }

    /// Leaves the leg of a flow that was moved, where the shape has one.
    pub(crate) fn move_leg(&mut self, ends: &Ends) -> Result<()> {
        if !ends.is_inline() {
            return Ok(());
        }
        let (key, leg) = ends.leg();
        let plane = &mut self.loaded.plane;
        plane.legs.insert(&key, &Leg { seen: programs_seconds(), ..leg })?;
        plane.set_switch(SWITCH_LEGS, true)
    }

    fn buffer(&mut self, key: &FlowKey, data: &[u8]) -> Result<()> {
        // SAFETY: a structure of plain numbers; all-zero is an empty buffer.
        let mut pending: Box<Pending> = unsafe { Box::new(std::mem::zeroed()) };
        pending.ranges[0] = Range { start: 0, end: data.len() as u32 };
        pending.data[..data.len()].copy_from_slice(data);
        self.pending.insert(key, *pending, 0).context("write the map pending")
    }

    /// The client's data that is buffered, as far as it has no hole.
    pub(crate) fn buffered(&self, ends: &Ends) -> Result<Vec<u8>> {
        let pending = self.pending.get(&ends.key(), 0).context("nothing is buffered")?;
        Ok(pending.data[..steer_common::ranges::contiguous(&pending.ranges) as usize].to_vec())
    }

    /// Runs a program on a frame in the namespace.
    pub(crate) fn run(&self, program: Program, frame: &[u8]) -> Result<Ran> {
        self.ns.run(|| self.loaded.run(program, frame, self.ifindex))
    }

    /// The flow's record after a run, with what its slot in the cache knows.
    pub(crate) fn flow(&self, ends: &Ends) -> Result<Flow> {
        self.loaded.plane.flow(&ends.key())?.context("the flow is gone")
    }

    /// The flow's record alone.
    pub(crate) fn record(&self, ends: &Ends) -> Result<Flow> {
        self.loaded.plane.flows.find(&ends.key())?.context("the flow is gone")
    }

    /// Runs every case on every program and fails with all that was wrong.
    #[track_caller]
    pub(crate) fn judge(&mut self, ends: &Ends, cases: &[Case]) -> Result<()> {
        self.judge_on(&[Program::Tc, Program::TcComplete, Program::Xdp], ends, cases)
    }

    /// As [`World::judge`], for packets that are made anew: they lose CHECKSUM_COMPLETE on purpose,
    /// and the kernel would compare the sum that nobody uses any more.
    #[track_caller]
    pub(crate) fn judge_made(&mut self, ends: &Ends, cases: &[Case]) -> Result<()> {
        self.judge_on(&[Program::Tc, Program::Xdp], ends, cases)
    }

    #[track_caller]
    fn judge_on(&mut self, programs: &[Program], ends: &Ends, cases: &[Case]) -> Result<()> {
        let mut wrong = Vec::new();
        for case in cases {
            for &program in programs {
                if let Err(error) = self.judge_one(ends, case, program) {
                    wrong.push(format!("{} ({program:?}, {}): {error:#}", case.what, family(ends)));
                }
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
        Ok(())
    }

    fn judge_one(&mut self, ends: &Ends, case: &Case, program: Program) -> Result<()> {
        self.prepare_for(program, ends, &case.given)?;
        self.forget_trace(ends)?;
        let before = case.counts.map_or(Ok(0), |counter| self.loaded.plane.counter(counter))?;
        let ran = self.run(program, &case.frame)?;
        let wanted = if program == Program::Xdp { &case.xdp } else { &case.tc };
        compare(&ran, wanted, program, &case.frame)?;
        if let (Some(counter), true) = (case.counts, program != Program::Xdp) {
            let grown = self.loaded.plane.counter(counter)? - before;
            anyhow::ensure!(grown == 1, "counter {} grew by {grown}", counter.word());
        }
        Ok(())
    }
}

fn compare(ran: &Ran, wanted: &Out, program: Program, came: &[u8]) -> Result<()> {
    let xdp = program == Program::Xdp;
    let (pass, drop, redirect) =
        if xdp { (XDP_PASS, XDP_DROP, XDP_REDIRECT) } else { (TC_NEXT, TC_DROP, TC_REDIRECT) };
    let (action, frame) = match wanted {
        Out::Untouched => (pass, Some(came)),
        Out::Dropped => (drop, None),
        Out::Sent(frame) => (redirect, Some(frame.as_slice())),
    };
    anyhow::ensure!(
        ran.action == action,
        "action {}, not {action}; left as {}",
        ran.action,
        hex(&ran.frame)
    );
    let Some(frame) = frame else { return Ok(()) };
    anyhow::ensure!(
        ran.frame == frame,
        "\n  came out {}\n  not      {}",
        hex(&ran.frame),
        hex(frame)
    );
    if matches!(wanted, Out::Sent(_)) && carries_tcp(frame) {
        judge_checksums(frame)
    } else {
        Ok(())
    }
}

/// Whether a frame carries TCP, or an extension header before it.
fn carries_tcp(frame: &[u8]) -> bool {
    const ICMP: (u8, u8) = (1, 58);
    if frame[14] >> 4 == 4 { frame[14 + 9] != ICMP.0 } else { frame[14 + 6] != ICMP.1 }
}

/// A frame from the client's side.
pub(crate) fn from_client(segment: &Segment) -> Vec<u8> {
    segment.frame(CLIENT_MAC, GATE_MAC, &[]).expect("a frame")
}

/// A frame from a backend.
pub(crate) fn from_backend(segment: &Segment) -> Vec<u8> {
    segment.frame(BACKEND_MAC, INNER_MAC, &[]).expect("a frame")
}

/// What leaves towards a backend: one hop further, with its address.
pub(crate) fn to_backend(mut segment: Segment, backend: SocketAddr) -> Vec<u8> {
    segment.hop_limit -= 1;
    segment.destination = backend;
    segment.tcp.destination_port = backend.port();
    segment.frame(INNER_MAC, BACKEND_MAC, &[]).expect("a frame")
}

/// What leaves towards the client: one hop further, from the VIP.
pub(crate) fn to_client(mut segment: Segment, vip: SocketAddr) -> Vec<u8> {
    segment.hop_limit -= 1;
    segment.source = vip;
    segment.tcp.source_port = vip.port();
    segment.frame(GATE_MAC, CLIENT_MAC, &[]).expect("a frame")
}

pub(crate) fn family(ends: &Ends) -> &'static str {
    if ends.client.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn lookup_base(ends: &Ends, empty: bool) -> u32 {
    (u32::from(ends.vip_id) * LOOKUP_HALVES + u32::from(empty)) * LOOKUP_SLOTS
}

/// Seconds by the clock of the programs, which lags behind by a timer tick.
pub(crate) fn programs_seconds() -> u32 {
    const TICKS: u64 = 20_000_000;
    ((clock::nanoseconds() - TICKS) / 1_000_000_000) as u32
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The number of the first byte behind a SYN.
pub(crate) fn after(isn: u32) -> u32 {
    isn.wrapping_add(1)
}
