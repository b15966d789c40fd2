//! The pools as the maps hold them: who is in, who takes new flows, which lookup table follows.
//!
//! All changes of `backends`, `backend_ids`, `vips`, `exempt` and `lookup` are made here, and the
//! names of ticket keys that the configuration has or the agent finds out are written. Nobody else writes
//! `backends`: its records are held in memory, too. A lookup table that a change of health leaves
//! behind is made anew by [`Pools::flush`], once for all changes.

mod adopt;
mod changes;
mod exempt;
mod lookup;
mod names;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
#[cfg(test)]
pub(crate) use changes::tests as changes_tests;
pub(crate) use changes::{Change, Layout};
use steer_common::shared::{
    BACKEND_ANSWERS, BACKEND_BACKUP, BACKEND_BRIDGED, BACKEND_DIALLED, BACKEND_DISABLED,
    BACKEND_DRAINING, BACKEND_OFF, BACKEND_PRESENT, BACKEND_UP, Backend, Endpoint, MAX_BACKENDS,
    backend_bit,
};

use crate::{
    address::{endpoint, socket, unusable},
    agent::Held,
    clock, config,
    plane::{Plane, half},
    service::Service,
};

/// What checks and operators say of a backend, as flags.
const STATES: u16 =
    BACKEND_UP | BACKEND_DRAINING | BACKEND_DISABLED | BACKEND_OFF | BACKEND_ANSWERS;
/// What the file alone says of a backend, as flags.
const SHAPE: u16 = BACKEND_DIALLED | BACKEND_BRIDGED | BACKEND_BACKUP;
/// A deadline that is over, seconds of CLOCK_MONOTONIC.
const LONG_AGO: u32 = 1;

/// The pools of a gateway.
pub struct Pools {
    plane: Plane,
    /// Those of the configuration.
    pools: Vec<config::Pool>,
    mtu: u32,
    /// What `backends` holds.
    backends: BTreeMap<u32, Backend>,
    /// Their numbers, by address.
    ids: HashMap<Endpoint, u32>,
    /// VIPs and pools whose lookup table is behind.
    behind: HashSet<Endpoint>,
    /// What the last sweep met at each backend.
    held: Option<Held>,
}

impl Pools {
    /// The maps.
    pub fn plane(&self) -> &Plane {
        &self.plane
    }

    /// The maps, to be written.
    pub fn plane_mut(&mut self) -> &mut Plane {
        &mut self.plane
    }

    /// The health settings of a backend's pool.
    pub fn health(&self, backend: &Backend) -> Option<config::Health> {
        let of = |pool: &&config::Pool| pool.service().endpoint() == backend.vip;
        self.pools.iter().find(of).map(|pool| pool.health.clone())
    }

    /// Every backend that is or was in a pool, by number.
    pub fn backends(&self) -> impl Iterator<Item = (u32, &Backend)> {
        self.backends.iter().map(|(id, backend)| (*id, backend))
    }

    /// The number of the inline pool that a backend is of.
    pub fn dialled(&self, id: u16) -> Option<u16> {
        let backend = self.backends.get(&id.into())?;
        (backend.flags & BACKEND_DIALLED != 0).then_some(backend.vip_id)
    }

    /// What the last sweep met at each backend; `None` before the first one.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Notes what a sweep met.
    pub(super) fn note_held(&mut self, held: &Held) {
        self.held = Some(held.clone());
    }

    /// Adds a backend to a pool, or gives one that is there another weight, which only a VIP's
    /// backends have.
    pub fn add(&mut self, to: Service, address: SocketAddr, weight: u16) -> Result<()> {
        let key = self.plane.known_by(&to.endpoint())?;
        let to = Service::of(&key);
        let Some(written) = self.plane.vip(&key)? else { bail!("there is no {}", to.titled()) };
        if to.address().is_none() && weight != 1 {
            bail!("{} has no weights: the balancer in front chooses", to.titled());
        }
        self.refuse_misplaced(to, address)?;
        self.refuse_crowd(address)?;
        let id = match self.ids.get(&endpoint(address)) {
            Some(id) => *id,
            None => self.free_backend_id(&key)?,
        };
        self.put(id, &key, written.id, address, weight)?;
        self.rebuild(&key)?;
        // They are looked after again with every sweep.
        self.keep_names().unwrap_or_else(|error| log::warn!("{error:#}"));
        Ok(())
    }

    /// Takes a backend out of its pool; its flows go on.
    pub fn remove(&mut self, address: SocketAddr) -> Result<()> {
        self.change(address, |backend| {
            *backend = enabled(backend);
            backend.flags &= !BACKEND_PRESENT;
        })
    }

    /// Gives a backend no new sessions; those it owns persist, for a time or without end.
    pub fn drain(&mut self, address: SocketAddr, limit: Option<Duration>) -> Result<()> {
        let until = limit.map_or(0, |limit| drain_until(clock::seconds(), limit));
        self.change(address, |backend| {
            *backend = enabled(backend);
            backend.flags |= BACKEND_DRAINING;
            backend.drain_until = until;
        })
    }

    /// Ends a drain, and nothing else.
    pub fn undrain(&mut self, address: SocketAddr) -> Result<()> {
        let flags = self.find(address).map_or(0, |(_, backend)| backend.flags);
        if flags & (BACKEND_DISABLED | BACKEND_OFF) != 0 {
            let is = if flags & BACKEND_OFF != 0 { "off" } else { "disabled" };
            bail!("{address} is {is}, not draining: `steer backends enable` ends that");
        }
        self.enable(address)
    }

    /// Gives a backend neither new sessions nor those it owns; what runs goes on.
    pub fn disable(&mut self, address: SocketAddr) -> Result<()> {
        self.change(address, |backend| {
            *backend = enabled(backend);
            backend.flags |= BACKEND_DRAINING | BACKEND_DISABLED;
            backend.drain_until = LONG_AGO;
        })
    }

    /// Treats a backend as down, whatever its checks say.
    pub fn force_off(&mut self, address: SocketAddr) -> Result<()> {
        self.change(address, |backend| *backend = off(backend))
    }

    /// Ends whatever an operator made of a backend: it is what its checks say.
    pub fn enable(&mut self, address: SocketAddr) -> Result<()> {
        self.change(address, |backend| *backend = enabled(backend))
    }

    /// Notes whether a backend answers. Who owns sessions is judged by that at once; new flows
    /// follow with the next [`Pools::flush`].
    pub fn set_up(&mut self, address: SocketAddr, up: bool) -> Result<()> {
        let vip = self.note(address, |backend| {
            let bit = says_up(backend.flags);
            match up {
                true => backend.flags |= bit,
                false => backend.flags &= !bit,
            }
        })?;
        self.behind.insert(vip);
        Ok(())
    }

    /// Makes the lookup tables that are behind anew, each once. One that cannot be made stays
    /// behind.
    pub fn flush(&mut self) -> Result<()> {
        for vip in self.behind.clone() {
            self.rebuild(&vip)?;
        }
        Ok(())
    }

    /// Frees the numbers of removed backends that no table names any more.
    pub fn release(&mut self, named: &HashSet<u16>) -> Result<()> {
        let is_free = |id: u32, backend: &Backend| {
            backend.flags & BACKEND_PRESENT == 0 && !named.contains(&(id as u16))
        };
        let free = self.backends.iter().filter(|(id, backend)| is_free(**id, backend));
        for (id, backend) in free.map(|(id, backend)| (*id, *backend)).collect::<Vec<_>>() {
            log::info!(
                "backend {id} ({}) is forgotten: nothing names it any more",
                socket(&backend.endpoint)
            );
            self.plane.remove_backend_id(&backend.endpoint)?;
            self.clear(id)?;
        }
        Ok(())
    }

    /// Changes a backend that is in a pool, and the lookup table with it.
    fn change(&mut self, address: SocketAddr, change: impl FnOnce(&mut Backend)) -> Result<()> {
        let vip = self.note(address, change)?;
        self.rebuild(&vip)
    }

    /// Changes a backend that is in a pool; returns its VIP.
    fn note(&mut self, address: SocketAddr, change: impl FnOnce(&mut Backend)) -> Result<Endpoint> {
        let (id, mut backend) =
            self.find(address).ok_or_else(|| anyhow!("there is no backend {address}"))?;
        if backend.flags & BACKEND_PRESENT == 0 {
            bail!("the backend {address} is removed");
        }
        change(&mut backend);
        self.set(id, &backend)?;
        Ok(backend.vip)
    }

    /// Writes a backend's record.
    fn set(&mut self, id: u32, backend: &Backend) -> Result<()> {
        self.plane.set_backend(id, backend)?;
        self.backends.insert(id, *backend);
        self.ids.insert(backend.endpoint, id);
        Ok(())
    }

    /// Empties a number.
    fn clear(&mut self, id: u32) -> Result<()> {
        self.plane.clear_backend(id)?;
        if let Some(old) = self.backends.remove(&id) {
            self.ids.remove(&old.endpoint);
        }
        Ok(())
    }

    fn find(&self, address: SocketAddr) -> Option<(u32, Backend)> {
        let id = *self.ids.get(&endpoint(address))?;
        Some((id, *self.backends.get(&id)?))
    }

    /// Refuses a backend that has no place in the directory beside all others.
    fn refuse_crowd(&self, address: SocketAddr) -> Result<()> {
        if self.ids.contains_key(&endpoint(address)) {
            return Ok(());
        }
        let new = Backend { endpoint: endpoint(address), ..Backend::default() };
        let others = self.backends.iter().map(|(id, backend)| (*id, *backend));
        let (vips, entrances) = (self.plane.vips()?, self.plane.entrances()?);
        half(&vips, &entrances, &others.chain([(0, new)]).collect::<Vec<_>>()).map(drop)
    }

    fn refuse_misplaced(&self, to: Service, address: SocketAddr) -> Result<()> {
        if let Some(why) = unusable(address) {
            bail!("{address}: {why}");
        }
        if self.is_v4(&to.endpoint()).is_some_and(|v4| v4 != address.is_ipv4()) {
            bail!("families do not mix: {address} cannot stand behind {to}");
        }
        let at = endpoint(address);
        if self.plane.vip(&self.plane.known_by(&at)?)?.is_some() {
            bail!("{address} is a VIP");
        }
        match self.find(address) {
            Some((_, other))
                if other.flags & BACKEND_PRESENT != 0 && other.vip != to.endpoint() =>
            {
                bail!("{address} is a backend of {} already", Service::of(&other.vip))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a pool is of IPv4: as its VIP is, or its backends; `None` of one that has neither.
    fn is_v4(&self, key: &Endpoint) -> Option<bool> {
        match Service::of(key) {
            Service::Vip(address) => Some(address.is_ipv4()),
            Service::Pool(_) => {
                self.pool(key).next().map(|(_, backend)| backend.endpoint.address.is_v4())
            }
        }
    }

    /// Puts a backend into a pool, under this number. A new one counts as up until checks say
    /// otherwise; one that was there keeps its state.
    fn put(
        &mut self,
        id: u32,
        vip: &Endpoint,
        vip_id: u16,
        address: SocketAddr,
        weight: u16,
    ) -> Result<()> {
        let key = endpoint(address);
        let old = self.backends.get(&id).copied().unwrap_or_default();
        let was_present = old.flags & BACKEND_PRESENT != 0;
        // A new weight is no end to what an operator said, and no news about health.
        let kept = if was_present { old.flags } else { BACKEND_UP };
        let (shape, vlan) = self.shape(vip, address);
        let flags = (kept & STATES) | BACKEND_PRESENT | shape;
        let drain_until = if was_present { old.drain_until } else { 0 };
        let new = Backend { endpoint: key, vip: *vip, vip_id, flags, weight, vlan, drain_until };
        // The number first: a record without one would never be listed.
        self.plane.set_backend_id(&key, id)?;
        self.set(id, &new)
    }

    /// How a backend of this VIP or pool is come to and whether it is a backup, as flags, and its
    /// VLAN.
    fn shape(&self, vip: &Endpoint, address: SocketAddr) -> (u16, u16) {
        let pool = self.pools.iter().find(|pool| pool.service().endpoint() == *vip);
        let dialled = if vip.pool_name().is_some() { BACKEND_DIALLED } else { 0 };
        let bridged = if pool.is_some_and(config::Pool::is_bridged) { BACKEND_BRIDGED } else { 0 };
        let mut backends = pool.into_iter().flat_map(|pool| &pool.backends);
        let found = backends.find(|backend| backend.address == address);
        let backup = if found.is_some_and(|found| found.backup) { BACKEND_BACKUP } else { 0 };
        (dialled | bridged | backup, found.map_or(0, |found| found.vlan))
    }

    fn free_backend_id(&self, vip: &Endpoint) -> Result<u32> {
        let pool =
            self.backends.iter().filter(|(_, backend)| backend.vip == *vip).map(|(id, _)| *id);
        free_number(pool, |id| !self.backends.contains_key(&id)).ok_or_else(|| {
            let removed = self.backends.values().filter(|backend| backend.flags & BACKEND_PRESENT == 0).count();
            anyhow!(
                "all {MAX_BACKENDS} numbers for backends are in use, {removed} of them by removed backends that sessions or \
                 connections still name"
            )
        })
    }
}

/// The lowest free number for a backend: one that a search for the owner of a key name tells from
/// the others of its pool ([`backend_bit`]), where there is such a one.
fn free_number(pool: impl Iterator<Item = u32>, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let taken = pool.fold(0, |taken, id| taken | backend_bit(id as u16));
    let free = || (0..MAX_BACKENDS).filter(|id| is_free(*id));
    free().find(|id| taken & backend_bit(*id as u16) == 0).or_else(|| free().next())
}

/// The flag by which health checks say that a backend answers.
fn says_up(flags: u16) -> u16 {
    if flags & BACKEND_OFF != 0 { BACKEND_ANSWERS } else { BACKEND_UP }
}

/// Whether health checks say of a backend with these flags that it answers.
pub(super) fn answers(flags: u16) -> bool {
    flags & says_up(flags) != 0
}

/// A backend without what an operator made of it.
fn enabled(backend: &Backend) -> Backend {
    let up = if answers(backend.flags) { BACKEND_UP } else { 0 };
    Backend { flags: (backend.flags & !STATES) | up, drain_until: 0, ..*backend }
}

/// A backend that is forced off, and what its checks said of it.
fn off(backend: &Backend) -> Backend {
    let answers = if answers(backend.flags) { BACKEND_ANSWERS } else { 0 };
    Backend { flags: (backend.flags & !STATES) | BACKEND_OFF | answers, drain_until: 0, ..*backend }
}

/// The deadline of a drain, in seconds of the maps' clock; one too far away is the last one. 0
/// stands for none.
fn drain_until(now: u32, limit: Duration) -> u32 {
    let seconds = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
    now.saturating_add(seconds).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backends_number_is_the_lowest_that_differs_from_its_pools_in_the_last_six_bits() {
        let used = (0..70).collect::<Vec<_>>();
        let number = |pool: &[u32]| free_number(pool.iter().copied(), |id| !used.contains(&id));
        assert_eq!(number(&[]), Some(70));
        assert_eq!(number(&[6, 7]), Some(72), "70 and 71 would share theirs");
        assert_eq!(number(&(0..64).collect::<Vec<_>>()), Some(70), "no bit is left");
        assert_eq!(free_number([3].into_iter(), |_| false), None);
    }

    #[test]
    fn a_backend_that_is_forced_off_remembers_what_its_checks_say() {
        for (before, after) in [(BACKEND_UP, BACKEND_UP), (0, 0)] {
            let draining = BACKEND_PRESENT | BACKEND_DRAINING | before;
            let off = off(&Backend { flags: draining, drain_until: 9, ..Backend::default() });
            assert_eq!(off.flags & (BACKEND_UP | BACKEND_DRAINING), 0);
            assert_eq!(answers(off.flags), before != 0);
            assert_eq!(enabled(&off).flags, BACKEND_PRESENT | after, "and no drain");
        }
    }

    #[test]
    fn what_a_disabled_backend_owns_goes_elsewhere_from_the_first_second_on() {
        let now = clock::seconds();
        let until = |seconds: u32| (LONG_AGO.wrapping_sub(seconds) as i32) < 0;
        assert!(until(now) && until(2), "{now}");
    }

    #[test]
    fn a_drain_ends_in_time_and_never_before() {
        let until = |now, seconds| drain_until(now, Duration::from_secs(seconds));
        assert_eq!([until(100, 60), until(0, 0)], [160, 1]);
        assert_eq!(
            [until(100, 1 << 32), until(100, u64::MAX), until(u32::MAX - 1, 60)],
            [u32::MAX; 3]
        );
    }
}
