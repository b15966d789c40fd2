//! Makes a state of layout v3 (commit 36ead6f) of one of today's, byte for byte as that version had
//! it: its maps with what today's hold, and the links with the programs that run. Written by what
//! that layout was, not by the agent's own types.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
};
use steer_common::{
    counters::Counter,
    maps::entries,
    shared::{
        Address, Backend, BackendPath, Configured, Endpoint, Flow, FlowKey, KeyName,
        LAYOUT_VERSION, Session, SessionKey, Vip,
    },
    wire::tls::server_flight::Follow,
};
use steer_tests::agent::Agent;
use steer_user::plane::{PinDir, Plane};

/// Counters that it had.
const COUNTERS: u32 = 102;
/// The index of `learned` among them.
pub(crate) const LEARNED: u32 = 76;

/// What the older version's gateway is to hold besides what is there.
#[derive(Default)]
pub(crate) struct More {
    /// Searches for the owner of a key name.
    pub(crate) searches: u32,
    /// Flows of a state that no version knows.
    pub(crate) unknown_flows: u32,
}

/// Bytes in the order in which they stand.
#[derive(Default)]
struct Image(Vec<u8>);

impl Image {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8s(self, numbers: &[u8]) -> Self {
        self.bytes(numbers)
    }

    fn u16s(self, numbers: &[u16]) -> Self {
        numbers.iter().fold(self, |image, number| image.bytes(&number.to_ne_bytes()))
    }

    fn u32s(self, numbers: &[u32]) -> Self {
        numbers.iter().fold(self, |image, number| image.bytes(&number.to_ne_bytes()))
    }

    fn u64s(self, numbers: &[u64]) -> Self {
        numbers.iter().fold(self, |image, number| image.bytes(&number.to_ne_bytes()))
    }

    fn address(self, address: &Address) -> Self {
        self.bytes(&address.octets())
    }

    fn endpoint(self, at: &Endpoint) -> Self {
        self.address(&at.address).bytes(&at.port).u8s(&[at.protocol, 0])
    }

    fn take<const N: usize>(self) -> Result<[u8; N]> {
        let len = self.0.len();
        self.0.try_into().ok().with_context(|| format!("an image has {len} bytes, not {N}"))
    }
}

fn session_key(key: &SessionKey) -> Result<[u8; 36]> {
    Image::default().u16s(&[key.vip]).u8s(&[key.kind, key.len]).bytes(&key.bytes).take()
}

fn flow_key(key: &FlowKey) -> Result<[u8; 20]> {
    Image::default().address(&key.client).bytes(&key.client_port).u16s(&[key.service]).take()
}

fn session(session: &Session) -> Result<[u8; 16]> {
    let Session { owner, flags, first_seen, last_seen, uses } = *session;
    Image::default().u16s(&[owner, flags]).u32s(&[first_seen, last_seen, uses]).take()
}

fn key_name(name: &KeyName) -> Result<[u8; 32]> {
    // Two of its flags are younger.
    let image = Image::default().u16s(&[name.owner, name.flags & 3]);
    image
        .u32s(&[name.first_seen, name.last_seen, name.hits, name.accepted])
        .u16s(&[u16::MAX; 6])
        .take()
}

fn backend(backend: &Backend, path: &BackendPath) -> Result<[u8; 76]> {
    let Backend { endpoint, vip, vip_id, flags, weight, drain_until, .. } = backend;
    let image = Image::default().endpoint(endpoint).endpoint(vip);
    image.u16s(&[*vip_id, *flags, *weight, path.mss]).u32s(&[*drain_until]).bytes(&[0; 24]).take()
}

fn vip(vip: &Vip) -> Result<[u8; 36]> {
    let image = Image::default().u16s(&[vip.id, vip.flags]);
    let image =
        image.u32s(&[vip.lookup_base, vip.session_timeout, vip.session_limit, vip.flow_timeout]);
    let image =
        image.u16s(&[vip.mss, vip.owner_tries]).u8s(&[vip.name_at, vip.name_len]).u16s(&[0]);
    image.u32s(&[vip.name_timeout, vip.sessions_per_source]).take()
}

fn follow(image: Image, follow: &Follow) -> Image {
    let image = image.u32s(&[follow.next, follow.skip, follow.message_left]);
    let image = image.u16s(&[follow.record_left, follow.version, follow.selected]);
    let Follow { field, want, have, header_have, content, seen, .. } = *follow;
    let image = image.u8s(&[field, want, have, header_have, content, seen]).bytes(&follow.lesson);
    image.bytes(&follow.header).bytes(&follow.bytes).u8s(&[
        follow.lesson_kind,
        follow.lesson_len,
        0,
        0,
    ])
}

fn flow(flow: &Flow) -> Result<[u8; 224]> {
    let image = Image::default().u64s(&[flow.word, u64::from(flow.owner_syn_at) * 1_000_000]);
    let image = image.u32s(&[flow.first_isn, flow.owner_isn, flow.delta, flow.ts_delta]);
    let image = image.u32s(&[flow.client_ts, flow.first_ts, flow.hello_ts, flow.seen]);
    let image = image
        .u32s(&[flow.client_next, flow.server_next])
        .bytes(&flow.ip_word)
        .u32s(&[flow.hello_len]);
    let image = image.u16s(&[
        flow.first,
        flow.owner,
        flow.syn_window,
        flow.hello_window,
        flow.first_window,
    ]);
    // Flags from 0x400 on are younger.
    let image = image.u16s(&[flow.client_mss, flow.advertised_mss, flow.flags as u16 & 0x3ff]);
    let image = image.u8s(&[
        flow.offered,
        flow.agreed,
        flow.client_scale,
        flow.first_scale,
        flow.owner_scale,
    ]);
    let image = image.u8s(&[flow.owner_tries, flow.offered_kind, flow.offered_len]);
    let index = if flow.offered_index == u8::MAX { u16::MAX } else { flow.offered_index.into() };
    let image = image.u16s(&[index]).u8s(&[flow.answer, 0]).bytes(&flow.offered_bytes);
    let hop = &flow.client_hop;
    let image = follow(image, &flow.follow).u32s(&[hop.ifindex]).bytes(&hop.ethernet);
    image.u32s(&[hop.mtu.into(), hop.asked]).take()
}

/// A map of these entries, pinned there.
fn hash<K: Pod, V: Pod>(directory: &Path, name: &str, size: u32, entries: &[(K, V)]) -> Result<()> {
    let mut map: HashMap<MapData, K, V> = HashMap::create(size, 0)?;
    entries.iter().try_for_each(|(key, value)| map.insert(key, value, 0))?;
    map.pin(directory.join(name)).with_context(|| format!("pin {name}"))
}

fn array<V: Pod>(directory: &Path, name: &str, slots: &[V]) -> Result<()> {
    let mut map: Array<MapData, V> = Array::create(slots.len() as u32, 0)?;
    (0..).zip(slots).try_for_each(|(index, slot)| map.set(index, slot, 0))?;
    map.pin(directory.join(name)).with_context(|| format!("pin {name}"))
}

/// Makes of the state of an agent that has ended one of layout v3; the programs run on with maps
/// that nobody knows any more.
pub(crate) fn downgrade(steer: &Agent<'_>, more: &More) -> Result<()> {
    let root = steer.pin_dir();
    let (new, old) = (root.join(format!("v{LAYOUT_VERSION}")), root.join("v3"));
    let plane = Plane::open(&PinDir::new(root))?;
    DirBuilder::new().mode(0o700).create(&old)?;
    let size = entries("sessions");
    let (mut sessions, mut names) = (Vec::new(), Vec::new());
    for (key, value) in plane.sessions.entries()? {
        sessions.push((session_key(&key)?, session(&value)?));
    }
    hash(&old, "sessions", size, &sessions)?;
    for (key, value) in plane.key_names.entries()? {
        names.push((session_key(&key)?, key_name(&value)?));
    }
    hash(&old, "key_names", 16_384, &names)?;
    let searches = (0..more.searches).map(|number| {
        let mut key = [0; 36];
        key[..4].copy_from_slice(&number.to_ne_bytes());
        (key, [0; 32])
    });
    hash(&old, "key_name_tries", 1024, &searches.collect::<Vec<_>>())?;
    hash::<[u8; 20], [u8; 8]>(&old, "sources", 16_384, &[])?;
    for (name, table) in
        [("flows", &plane.flows), ("splices", &plane.splices), ("handshakes", &plane.handshakes)]
    {
        let mut flows = Vec::new();
        for (key, value) in table.entries()? {
            flows.push((flow_key(&key)?, flow(&value)?));
        }
        if name == "flows" {
            for number in 0..more.unknown_flows {
                let key = Image::default().bytes(&[9; 16]).u16s(&[number as u16, 0]).take()?;
                flows.push((key, Image::default().u64s(&[99]).bytes(&[0; 216]).take()?));
            }
        }
        hash(&old, name, 65_536, &flows)?;
    }
    hash::<[u8; 20], [u8; 16_432]>(&old, "pending", 64, &[])?;
    hash::<[u8; 36], [u8; 44]>(&old, "fragments", 1024, &[])?;
    let mut backends = vec![[0; 76]; entries("backends") as usize];
    for (id, value) in plane.backends()? {
        backends[id as usize] = backend(&value, &plane.backend_path(id)?)?;
    }
    array(&old, "backends", &backends)?;
    let mut vips = Vec::new();
    for (at, value) in plane.vips()? {
        vips.push((Image::default().endpoint(&at).take::<20>()?, vip(&value)?));
    }
    hash(&old, "vips", 64, &vips)?;
    let mut configured = Vec::new();
    for (at, Configured { vip, weight }) in plane.configured.entries()? {
        let says = Image::default().endpoint(&vip).u32s(&[weight]).take::<24>()?;
        configured.push((Image::default().endpoint(&at).take::<20>()?, says));
    }
    hash(&old, "configured", 1024, &configured)?;
    array(&old, "lookup", &plane.lookup.all()?)?;
    array(&old, "settings", &[Image::default().u32s(&[0, 1]).take::<8>()?])?;
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let mut counters: PerCpuArray<MapData, u64> = PerCpuArray::create(COUNTERS, 0)?;
    let mut learned = vec![0; cpus];
    learned[0] = plane.counter(Counter::Learned)?;
    counters.set(LEARNED, PerCpuValues::try_from(learned)?, 0)?;
    counters.pin(old.join("counters"))?;
    let mut stats: PerCpuArray<MapData, [u8; 96]> = PerCpuArray::create(1024, 0)?;
    for (id, _) in plane.backends()? {
        let did = plane.backend_stats(id)?;
        let image = Image::default().u64s(&[did.flows, did.rehomed, did.learned, did.hits]);
        let outcomes = [did.tls12, did.tls13];
        let image = outcomes.iter().fold(image, |image, came| {
            image.u64s(&[came.accepted, came.rejected, came.not_offered])
        });
        let mut per_cpu = vec![[0; 96]; cpus];
        per_cpu[0] = image.u64s(&[did.packets, did.bytes]).take()?;
        stats.set(id, PerCpuValues::try_from(per_cpu)?, 0)?;
    }
    stats.pin(old.join("backend_stats"))?;
    for entry in fs::read_dir(&new)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["link_", "clsact_", "qdisc_"].iter().any(|prefix| name.starts_with(prefix)) {
            fs::rename(entry.path(), old.join(name))?;
        }
    }
    fs::remove_dir_all(&new).with_context(|| format!("remove {}", new.display()))
}
