//! Brings the maps in line with the configuration, keeping what the CLI changed.
//!
//! Every step can be undone: [`Pools::restore`] puts back what [`Before`] says. VIPs that the
//! configuration leaves out go last ([`Pools::remove_vips`]), but for those whose number another
//! one gets.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use anyhow::{Context as _, Result};
use steer_common::shared::{
    BACKEND_PRESENT, Backend, BackendPath, Configured, Endpoint, Entrance, LOOKUP_SLOTS, Vip,
};

use super::{Pools, SHAPE, answers, enabled, says_up};
use crate::{
    address::{endpoint, socket},
    agent::plan::{Numbers, purge},
    config::{self, Config, Health},
    crash::{Step, reached},
    plane::{Before, Plane},
    service::Service,
};

impl Pools {
    /// The pools as the maps hold them.
    ///
    /// `mtu` is the smallest of the managed interfaces.
    pub(in crate::agent) fn open(plane: Plane, config: &Config, mtu: u32) -> Result<Self> {
        let backends = plane.backends()?;
        Ok(Self {
            pools: config.pools.clone(),
            mtu,
            ids: backends.iter().map(|(id, backend)| (backend.endpoint, *id)).collect(),
            backends: backends.into_iter().collect(),
            behind: HashSet::new(),
            held: None,
            plane,
        })
    }

    /// Brings what the maps hold in line with the configuration, but for VIPs that it leaves out. A
    /// backend whose lines did not change since the configuration was applied last keeps what the
    /// CLI made of it.
    pub(in crate::agent) fn adopt(&mut self, numbers: &Numbers) -> Result<()> {
        self.remove_unasked()?;
        self.give_up_numbers(numbers)?;
        let ids = self.ids.iter().map(|(at, id)| (*at, *id)).collect::<Vec<_>>();
        self.plane.set_backend_ids(&ids)?;
        self.adopt_exempt(numbers)?;
        for (number, entrance) in &numbers.entrances {
            self.plane.set_entrance(*number, entrance)?;
        }
        for (pool, id) in self.pools.clone().iter().zip(&numbers.vips) {
            self.apply_backends(pool, *id, &numbers.backends)?;
            reached(Step::BackendsWritten);
        }
        for (pool, id) in self.pools.clone().iter().zip(&numbers.vips) {
            self.write_vip(pool, *id)?;
        }
        self.adopt_names()?;
        self.remember()
    }

    /// Empties the numbers that others get, and forgets what tables say of them.
    fn give_up_numbers(&mut self, numbers: &Numbers) -> Result<()> {
        for (at, vip) in self.plane.vips()? {
            if numbers.reused_vips.contains(&vip.id) {
                tell_removed(&at);
                self.plane.remove_vip(&at)?;
            }
        }
        let reused = numbers.reused_backends.iter().map(|id| u32::from(*id));
        let reused = reused.filter(|id| self.backends.contains_key(id)).collect::<Vec<_>>();
        // No lookup table may name them when they become another's.
        let pools = reused.iter().filter_map(|id| self.backends.get(id)).map(|backend| backend.vip);
        for vip in pools.collect::<HashSet<_>>() {
            self.rebuild(&vip)?;
        }
        for id in reused {
            self.clear(id)?;
        }
        let forgotten = purge(&mut self.plane, &numbers.reused_vips, &numbers.reused_backends)?;
        log::debug!("{forgotten} entries named numbers that others have now");
        Ok(())
    }

    fn apply_backends(
        &mut self,
        pool: &config::Pool,
        id: u16,
        numbers: &HashMap<Endpoint, u32>,
    ) -> Result<()> {
        let key = pool.service().endpoint();
        for backend in &pool.backends {
            let at = endpoint(backend.address);
            let says = Configured { vip: key, weight: backend.weight.into() };
            if self.plane.configured.find(&at)? != Some(says) {
                let number = self.ids.get(&at).or_else(|| numbers.get(&at)).copied();
                let number = number.with_context(|| {
                    format!("find the number that {} was given", backend.address)
                })?;
                self.put(number, &key, id, backend.address, backend.weight)?;
            } else {
                self.keep(backend.address, id)?;
            }
        }
        if pool.health != Health::Off {
            return Ok(());
        }
        // Those that the file does not name, too.
        let members = self.backends().filter(|(_, backend)| backend.vip_id == id);
        let members = members.map(|(_, backend)| socket(&backend.endpoint)).collect::<Vec<_>>();
        members.into_iter().try_for_each(|address| self.mark_up(address))
    }

    /// Keeps a backend as it is, but for the number of its VIP, which may be new, its VLAN, and how
    /// clients come to it: a pool may have another shape now.
    fn keep(&mut self, address: SocketAddr, vip_id: u16) -> Result<()> {
        let Some((id, backend)) = self.find(address) else { return Ok(()) };
        let (shape, vlan) = self.shape(&backend.vip, address);
        let flags = (backend.flags & !SHAPE) | shape;
        let kept = Backend { vip_id, flags, vlan, ..backend };
        if kept == backend { Ok(()) } else { self.set(id, &kept) }
    }

    fn mark_up(&mut self, address: SocketAddr) -> Result<()> {
        match self.find(address) {
            Some((id, backend)) if !answers(backend.flags) => {
                let flags = backend.flags | says_up(backend.flags);
                self.set(id, &Backend { flags, ..backend })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Removes backends that the file named and names no more, and those of VIPs that are gone.
    fn remove_unasked(&mut self) -> Result<()> {
        let asked = self.asked();
        let configured =
            self.plane.configured.entries()?.into_iter().map(|(at, _)| at).collect::<HashSet<_>>();
        let vips = self.endpoints().collect::<HashSet<_>>();
        let is_unasked = |backend: &Backend| {
            let unasked =
                configured.contains(&backend.endpoint) && !asked.contains(&backend.endpoint);
            backend.flags & BACKEND_PRESENT != 0 && (unasked || !vips.contains(&backend.vip))
        };
        let unasked = self.backends.iter().filter(|(_, backend)| is_unasked(backend));
        for (id, backend) in unasked.map(|(id, backend)| (*id, *backend)).collect::<Vec<_>>() {
            let removed = enabled(&backend);
            let flags = removed.flags & !BACKEND_PRESENT;
            self.set(id, &Backend { flags, ..removed })?;
        }
        Ok(())
    }

    /// Removes the VIPs and pools that the configuration leaves out, and whom they leave alone.
    pub(in crate::agent) fn remove_vips(&mut self) -> Result<()> {
        self.remove_exempt()?;
        self.remove_entrances()?;
        for (key, _) in self.plane.vips()? {
            if !self.endpoints().any(|at| at == key) {
                tell_removed(&key);
                self.plane.remove_vip(&key)?;
            }
        }
        Ok(())
    }

    /// Removes the VIPs that shared a pool and are none any more.
    fn remove_entrances(&mut self) -> Result<()> {
        let also = self.pools.iter().filter_map(config::Pool::vip).flat_map(|vip| &vip.also);
        let wanted = also.map(|at| endpoint(*at)).collect::<HashSet<_>>();
        let there = self.plane.entrances()?;
        let gone = there.iter().filter(|(_, entrance)| !wanted.contains(&entrance.endpoint));
        for (number, entrance) in gone {
            tell_removed(&entrance.endpoint);
            self.plane.set_entrance(*number, &Entrance::default())?;
        }
        self.plane.list()
    }

    /// Notes what the file says, for the next agent.
    fn remember(&mut self) -> Result<()> {
        let mut says = HashMap::new();
        for pool in &self.pools {
            let vip = pool.service().endpoint();
            let of = |backend: &config::Backend| {
                (endpoint(backend.address), Configured { vip, weight: backend.weight.into() })
            };
            says.extend(pool.backends.iter().map(of));
        }
        self.set_configured(&says)
    }

    fn set_configured(&mut self, says: &HashMap<Endpoint, Configured>) -> Result<()> {
        for (key, _) in self.plane.configured.entries()? {
            if !says.contains_key(&key) {
                self.plane.configured.remove(&key)?;
            }
        }
        says.iter().try_for_each(|(at, says)| self.plane.configured.insert(at, says))
    }

    /// Every backend of the file.
    fn asked(&self) -> HashSet<Endpoint> {
        let backends = self.pools.iter().flat_map(|pool| &pool.backends);
        backends.map(|backend| endpoint(backend.address)).collect()
    }

    /// What stands in the maps for every VIP and pool of the file.
    fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.pools.iter().map(|pool| pool.service().endpoint())
    }

    /// Puts back what was there before a start changed it: records first, then the lookup tables
    /// that follow from them.
    pub(in crate::agent) fn restore(&mut self, before: &Before) -> Result<()> {
        let was = before.backends.iter().copied().collect::<HashMap<_, _>>();
        for id in
            self.backends.keys().copied().filter(|id| !was.contains_key(id)).collect::<Vec<_>>()
        {
            self.clear(id)?;
        }
        for (id, backend) in &before.backends {
            let there = self.backends.get(id).copied();
            if there.is_some_and(|there| there.endpoint != backend.endpoint) {
                self.clear(*id)?;
                self.plane.set_backend_path(*id, &BackendPath::default())?;
            }
            if there != Some(*backend) {
                self.set(*id, backend)?;
            }
        }
        self.set_configured(&before.configured.iter().copied().collect())?;
        self.plane.add_exempt(&before.exempt)?;
        self.plane.retain_exempt(|key| before.exempt.contains(key))?;
        self.restore_entrances(&before.entrances)?;
        // The table in use is not written to: it is full of numbers that are being given back.
        let in_use = self.plane.vips()?.into_iter().collect::<HashMap<_, _>>();
        let with_table = |(at, vip): &(Endpoint, Vip)| {
            let lookup_base = in_use
                .get(at)
                .filter(|now| now.id == vip.id)
                .map_or(vip.lookup_base, |now| now.lookup_base);
            (*at, Vip { lookup_base, ..*vip })
        };
        let vips = before.vips.iter().map(with_table).collect::<Vec<_>>();
        debug_assert!(vips.iter().all(|(_, vip)| vip.lookup_base % LOOKUP_SLOTS == 0));
        self.plane.set_endpoints(
            &vips,
            &was.iter().map(|(id, backend)| (backend.endpoint, *id)).collect::<Vec<_>>(),
        )?;
        vips.iter().try_for_each(|(at, vip)| self.write_table(at, *vip))
    }
}

impl Pools {
    fn restore_entrances(&mut self, before: &[(u32, Entrance)]) -> Result<()> {
        for (number, _) in self.plane.entrances()? {
            if !before.iter().any(|(kept, _)| *kept == number) {
                self.plane.set_entrance(number, &Entrance::default())?;
            }
        }
        before.iter().try_for_each(|(number, entrance)| self.plane.set_entrance(*number, entrance))
    }
}

fn tell_removed(at: &Endpoint) {
    log::info!("{} is not configured any more: removed", Service::of(at).titled());
}
