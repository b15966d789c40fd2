//! Brings the maps in line with the configuration, keeping what the CLI changed.

use std::{collections::HashSet, net::SocketAddr};

use anyhow::{Context as _, Result};
use steer_common::shared::{BACKEND_DRAINING, BACKEND_PRESENT, BACKEND_UP, Backend, Endpoint, MAX_VIPS};

use super::Pools;
use crate::{
    address::{endpoint, socket},
    agent::sweep,
    config::{self, Config},
    crash::{Step, reached},
    plane::{Configured, Plane},
};

impl Pools {
    /// Takes over what the maps hold and brings it in line with the configuration. A backend whose lines did not change
    /// since the configuration was applied last keeps what the CLI made of it.
    ///
    /// `mtu` is the smallest of the managed interfaces.
    pub fn adopt(plane: Plane, config: &Config, mtu: u32) -> Result<Self> {
        let mut pools = Self { plane, vips: config.vips.clone(), mtu };
        let ids = pools.vip_ids()?;
        for (vip, id) in config.vips.iter().zip(&ids) {
            pools.apply_backends(vip, *id)?;
            reached(Step::BackendsWritten);
        }
        pools.remove_unasked()?;
        for (vip, id) in config.vips.iter().zip(&ids) {
            pools.write_vip(vip, *id)?;
        }
        pools.remove_vips()?;
        pools.adopt_names()?;
        pools.remember()?;
        Ok(pools)
    }

    /// The number of each VIP: the one it has, or one that nothing names.
    fn vip_ids(&self) -> Result<Vec<u16>> {
        let written = self.plane.vips()?;
        let known = |vip: &config::Vip| {
            let key = endpoint(vip.address);
            written.iter().find(|(endpoint, _)| *endpoint == key).map(|(_, vip)| vip.id)
        };
        let mut taken = written.iter().map(|(_, vip)| vip.id).collect::<HashSet<_>>();
        if self.vips.iter().any(|vip| known(vip).is_none()) {
            taken.extend(sweep::named_vips(&self.plane)?);
        }
        let mut free = (0..MAX_VIPS as u16).filter(|id| !taken.contains(id));
        let number = |vip| known(vip).or_else(|| free.next()).context("find a number for a VIP: all are in use");
        self.vips.iter().map(number).collect()
    }

    fn apply_backends(&mut self, vip: &config::Vip, id: u16) -> Result<()> {
        let key = endpoint(vip.address);
        for backend in &vip.backends {
            let says = Configured { vip: key, weight: backend.weight.into() };
            if self.plane.configured.find(&endpoint(backend.address))? != Some(says) {
                self.put(&key, id, backend.address, backend.weight)?;
            } else {
                self.keep(backend.address, id)?;
            }
            if !vip.health.enabled {
                self.mark_up(backend.address)?;
            }
        }
        Ok(())
    }

    /// Keeps a backend as it is, but for the number of its VIP, which may be new.
    fn keep(&mut self, address: SocketAddr, vip_id: u16) -> Result<()> {
        match self.find(address)? {
            Some((id, backend)) if backend.vip_id != vip_id => {
                self.plane.set_backend(id, &Backend { vip_id, ..backend })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn mark_up(&mut self, address: SocketAddr) -> Result<()> {
        match self.find(address)? {
            Some((id, backend)) => {
                self.plane.set_backend(id, &Backend { flags: backend.flags | BACKEND_UP, ..backend })
            }
            None => Ok(()),
        }
    }

    /// Removes backends that the file named and names no more, and those of VIPs that are gone.
    fn remove_unasked(&mut self) -> Result<()> {
        let asked = self.asked();
        for (id, backend) in self.plane.backends()? {
            let by_file = self.plane.configured.find(&backend.endpoint)?.is_some();
            let homeless = !self.vips.iter().any(|vip| endpoint(vip.address) == backend.vip);
            let unasked = by_file && !asked.contains(&backend.endpoint);
            if backend.flags & BACKEND_PRESENT != 0 && (unasked || homeless) {
                let flags = backend.flags & !(BACKEND_PRESENT | BACKEND_DRAINING);
                self.plane.set_backend(id, &Backend { flags, ..backend })?;
            }
        }
        Ok(())
    }

    fn remove_vips(&mut self) -> Result<()> {
        for (key, _) in self.plane.vips()? {
            if !self.vips.iter().any(|vip| endpoint(vip.address) == key) {
                log::info!("VIP {} is not configured any more: removed", socket(&key));
                self.plane.remove_vip(&key)?;
            }
        }
        Ok(())
    }

    /// Notes what the file says, for the next agent.
    fn remember(&mut self) -> Result<()> {
        for vip in &self.vips {
            for backend in &vip.backends {
                let says = Configured { vip: endpoint(vip.address), weight: backend.weight.into() };
                self.plane.configured.insert(&endpoint(backend.address), &says)?;
            }
        }
        let asked = self.asked();
        for (key, _) in self.plane.configured.entries()? {
            if !asked.contains(&key) {
                self.plane.configured.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Every backend of the file.
    fn asked(&self) -> HashSet<Endpoint> {
        let backends = self.vips.iter().flat_map(|vip| &vip.backends);
        backends.map(|backend| endpoint(backend.address)).collect()
    }
}
