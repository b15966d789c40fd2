//! VIPs, pools and backends by address: the tables that say so, and the directory that the programs
//! read. An inline pool has its name for an address (`Endpoint::of_pool`) and stands in no
//! directory, but its backends do, each with the pool's record.
//!
//! The tables are written first, the directory follows them; what a crash leaves undone the next
//! agent does.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result};
use steer_common::{
    directory::{self, PROBES, SLOTS},
    shared::{
        ADDRESS_OF_BACKEND, ADDRESS_OF_MEMBER, ADDRESS_OF_VIP, Address, BACKEND_BRIDGED,
        BACKEND_DIALLED, Backend, ENTRANCE_AT, Endpoint, EndpointEntry, Entrance, ROLE_ADDRESS,
        ROLE_BACKEND, ROLE_BRIDGED, ROLE_MEMBER, ROLE_VIP, Vip,
    },
};

use super::Plane;

impl Plane {
    /// The VIP at an address.
    pub fn vip(&self, at: &Endpoint) -> Result<Option<Vip>> {
        self.vips.find(at)
    }

    /// Every VIP, by number.
    pub fn vips(&self) -> Result<Vec<(Endpoint, Vip)>> {
        let mut vips = self.vips.entries()?;
        vips.sort_by_key(|(_, vip)| vip.id);
        Ok(vips)
    }

    /// Writes a VIP, and lists it with every backend that has a number.
    pub fn set_vip(&mut self, at: &Endpoint, vip: &Vip) -> Result<()> {
        self.vips.insert(at, vip)?;
        self.list()
    }

    /// Writes several VIPs, and lists them at once.
    pub fn set_vips(&mut self, vips: &[(Endpoint, Vip)]) -> Result<()> {
        vips.iter().try_for_each(|(at, vip)| self.vips.insert(at, vip))?;
        self.list()
    }

    /// Removes a VIP.
    pub fn remove_vip(&mut self, at: &Endpoint) -> Result<()> {
        self.vips.remove(at)?;
        self.list()
    }

    /// Notes a backend's number. It is listed when its VIP is written next.
    pub fn set_backend_id(&mut self, at: &Endpoint, id: u32) -> Result<()> {
        self.backend_ids.insert(at, &id)
    }

    /// Takes a backend's number from it.
    pub fn remove_backend_id(&mut self, at: &Endpoint) -> Result<()> {
        self.backend_ids.remove(at)?;
        self.list()
    }

    /// Has exactly these VIPs and backends, and lists them: those that are there and not among them
    /// go.
    pub(crate) fn set_endpoints(
        &mut self,
        vips: &[(Endpoint, Vip)],
        backends: &[(Endpoint, u32)],
    ) -> Result<()> {
        for (at, _) in self.vips.entries()? {
            if !vips.iter().any(|(kept, _)| *kept == at) {
                self.vips.remove(&at)?;
            }
        }
        self.set_backend_ids(backends)?;
        self.set_vips(vips)
    }

    /// Has exactly these backends with these numbers. They are listed when a VIP is written next.
    pub(crate) fn set_backend_ids(&mut self, backends: &[(Endpoint, u32)]) -> Result<()> {
        let wanted = backends.iter().copied().collect::<HashMap<_, _>>();
        let written = self.backend_ids.entries()?.into_iter().collect::<HashMap<_, _>>();
        for at in written.keys().filter(|at| !wanted.contains_key(at)) {
            self.backend_ids.remove(at)?;
        }
        for (at, id) in wanted.iter().filter(|(at, id)| written.get(at) != Some(id)) {
            self.backend_ids.insert(at, id)?;
        }
        Ok(())
    }

    /// Fills the half of the directory that is not in use, then turns the programs to it.
    pub(crate) fn list(&mut self) -> Result<()> {
        let records = self.backends.all()?;
        let numbered = self.backend_ids.entries()?.into_iter().map(|(endpoint, id)| {
            let record = records.get(id as usize).filter(|record| record.endpoint == endpoint);
            (id, record.map_or(Backend { endpoint, ..Backend::default() }, |record| *record))
        });
        let (vips, entrances) = (self.vips.entries()?, self.entrances()?);
        let (listed, seed) = half(&vips, &entrances, &numbered.collect::<Vec<_>>())?;
        let head = directory::head(self.directory.read(0)?.head ^ 1, seed);
        self.directory.write(directory::half(head), &listed)?;
        self.directory.write(0, &[EndpointEntry { head, ..EndpointEntry::default() }])
    }
}

/// Seeds that are tried for a directory. Of full directories one in ten fits under any one seed at
/// the worst.
const SEEDS: u32 = 1000;

/// One half of a directory, and the seed of its places: the first one under which every endpoint
/// has a place. The same endpoints make the same half, in whatever order they come.
///
/// # Errors
/// When there is none.
pub fn half(
    vips: &[(Endpoint, Vip)],
    entrances: &[(u32, Entrance)],
    backends: &[(u32, Backend)],
) -> Result<(Vec<EndpointEntry>, u32)> {
    let mut all = listed(vips, entrances, backends);
    all.sort_by_key(|listed| (listed.endpoint.address.octets(), listed.endpoint.port));
    (0..SEEDS).find_map(|seed| place(&all, seed).map(|half| (half, seed))).with_context(|| {
        format!("find a place in the directory for each of {} addresses and ports", all.len())
    })
}

/// Every entry: VIPs, backends, and the addresses of both without a port.
fn listed(
    vips: &[(Endpoint, Vip)],
    entrances: &[(u32, Entrance)],
    backends: &[(u32, Backend)],
) -> Vec<EndpointEntry> {
    let mut dialled = vips
        .iter()
        .filter(|(at, _)| at.pool_name().is_none())
        .map(|(at, vip)| dialled_at(*at, 0, *vip))
        .collect::<Vec<_>>();
    dialled.extend(sharing(vips, entrances));
    let mut addresses = BTreeMap::<[u8; 16], u16>::new();
    let at_vips = dialled.iter().map(|listed| (&listed.endpoint, ADDRESS_OF_VIP));
    for (at, bit) in at_vips.chain(backends.iter().map(|(_, backend)| {
        let member = if is_member(backend) { ADDRESS_OF_MEMBER } else { 0 };
        (&backend.endpoint, ADDRESS_OF_BACKEND | member)
    })) {
        *addresses.entry(at.address.octets()).or_default() |= bit;
    }
    let addresses = addresses.into_iter().map(|(address, id)| EndpointEntry {
        endpoint: Endpoint::tcp(Address::from_v6(address), 0),
        role: ROLE_ADDRESS,
        id,
        ..EndpointEntry::default()
    });
    let pools = vips.iter().copied().collect::<HashMap<_, _>>();
    let backends = backends.iter().map(|(id, backend)| {
        let pool = pools.get(&backend.vip).filter(|_| is_member(backend));
        EndpointEntry {
            endpoint: backend.endpoint,
            role: match pool {
                Some(_) if backend.flags & BACKEND_BRIDGED != 0 => ROLE_BRIDGED,
                Some(_) => ROLE_MEMBER,
                None => ROLE_BACKEND,
            },
            id: *id as u16,
            head: 0,
            vip: pool.copied().unwrap_or_default(),
        }
    });
    dialled.into_iter().chain(backends).chain(addresses).collect()
}

/// Those of VIPs that share a pool: each has its pool's record, but for when the gateway began with
/// it. One that has a pool of its own still, or whose pool is gone, is none yet, or no more.
fn sharing<'a>(
    vips: &'a [(Endpoint, Vip)],
    entrances: &'a [(u32, Entrance)],
) -> impl Iterator<Item = EndpointEntry> + 'a {
    let alone = |at: &Endpoint| vips.iter().any(|(other, _)| other == at);
    entrances.iter().filter(move |(_, entrance)| !alone(&entrance.endpoint)).filter_map(
        |(number, Entrance { endpoint, pool, since, .. })| {
            let (_, record) = vips.iter().find(|(_, vip)| vip.id == *pool)?;
            Some(dialled_at(*endpoint, *number, Vip { since: *since, ..*record }))
        },
    )
}

fn dialled_at(endpoint: Endpoint, entrance: u32, vip: Vip) -> EndpointEntry {
    let id = vip.id | (entrance as u16) << ENTRANCE_AT;
    EndpointEntry { endpoint, role: ROLE_VIP, id, head: 0, vip }
}

/// Whether what is sent to a backend's address is a flow of its pool. One that left the pool keeps
/// the flows that it has; the programs pass its new ones.
fn is_member(backend: &Backend) -> bool {
    backend.flags & BACKEND_DIALLED != 0
}

fn place(all: &[EndpointEntry], seed: u32) -> Option<Vec<EndpointEntry>> {
    let mut half = vec![EndpointEntry::default(); (SLOTS + PROBES) as usize];
    for listed in all {
        *directory::free_slot(&half, &listed.endpoint, seed)
            .and_then(|slot| half.get_mut(slot))? = *listed;
    }
    Some(half)
}
