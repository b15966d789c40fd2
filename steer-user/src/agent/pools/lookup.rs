//! Lookup tables: who takes new flows, written so that a packet sees the old table or the new one.

use anyhow::Result;
use steer_common::shared::{
    BACKEND_BACKUP, BACKEND_DRAINING, BACKEND_OFF, BACKEND_PRESENT, BACKEND_UP, Backend,
    BackendPath, Endpoint, LOOKUP_HALVES, LOOKUP_SLOTS, VIP_BRIDGED, VIP_FALLBACK_FLOW,
    VIP_FALLBACK_FOUND, VIP_INLINE, VIP_LEARN_WITHOUT_CERTIFICATE, VIP_OBSERVE,
    VIP_RETURN_BY_ROUTE, VIP_SHARED, VIP_SWALLOW, VIP_TELL_TICKETS, Vip,
};

use super::{Pools, names};
use crate::{
    agent::checks::no_backend,
    clock,
    config::{Fallback, Mode, OnAllDown, Pool, ReturnPath, Shape},
    pool::{self, Member},
    service::Service,
};

/// IP and TCP headers without options, which an MSS leaves out (RFC 9293 3.7.1).
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;

impl Pools {
    /// Writes a VIP or pool as the file wants it, with its lookup table.
    pub(super) fn write_vip(&mut self, pool: &Pool, id: u16) -> Result<()> {
        let key = pool.service().endpoint();
        let old = self.plane.vip(&key)?;
        let (layout, origin) = names::layout(pool, old.as_ref());
        let searched = |flags: u16| flags & VIP_TELL_TICKETS != 0;
        if old.is_some_and(|old| {
            names::layout_of(&old) != layout || searched(old.flags) != searched(origin)
        }) {
            self.forget_names(id)?;
        }
        let wanted = Vip {
            id,
            flags: flags(pool)
                | found_fallback(pool, old.as_ref())
                | origin
                | shared(pool, old.as_ref()),
            lookup_base: old.map_or_else(|| half(id, 1), |old| old.lookup_base),
            session_timeout: pool.session_timeout.as_secs() as u32,
            session_limit: pool.session_limit.as_secs() as u32,
            flow_timeout: pool.flow_timeout.as_secs() as u32,
            mss: old.map_or(0, |old| old.mss),
            owner_tries: pool.owner_tries,
            name_at: layout.at,
            name_len: layout.len,
            zero: 0,
            name_timeout: pool.key_name_timeout.as_secs() as u32,
            sessions_per_source: pool.sessions_per_source,
            since: old.map_or_else(clock::seconds, |old| old.since),
        };
        self.write_table(&key, wanted)
    }

    /// Fills a VIP's lookup table anew after a change of its pool.
    pub(super) fn rebuild(&mut self, key: &Endpoint) -> Result<()> {
        self.behind.insert(*key);
        if let Some(vip) = self.plane.vip(key)? {
            self.write_table(key, vip)?;
        }
        self.behind.remove(key);
        Ok(())
    }

    /// Brings what clients are told in line with what interfaces of this MTU and the backends take;
    /// the programs only tell of backends what they saw.
    pub(in crate::agent) fn refresh_mss(&mut self, mtu: u32) -> Result<()> {
        self.mtu = mtu;
        let mut changed = Vec::new();
        for (key, vip) in self.plane.vips()? {
            let mss = self.mss(&key)?;
            if mss != vip.mss {
                let of = Service::of(&key).titled();
                log::info!("{of}: clients are told an MSS of {mss}; it was {}", vip.mss);
                changed.push((key, Vip { mss, ..vip }));
            }
        }
        if changed.is_empty() { Ok(()) } else { self.plane.set_vips(&changed) }
    }

    /// Takes new connections again, as after a start: those that the kernel took meanwhile are
    /// older, and stay its own.
    pub(crate) fn end_leave(&mut self) -> Result<()> {
        self.plane.end_leave()
    }

    /// Fills the half that is not in use, then turns the VIP to it: a packet sees the old table or
    /// the new one.
    pub(super) fn write_table(&mut self, key: &Endpoint, vip: Vip) -> Result<()> {
        let pool = self.pool(key).map(|(id, backend)| (id, *backend)).collect::<Vec<_>>();
        let members = members(&pool, self.on_all_down(key));
        let lookup_base =
            if vip.lookup_base == half(vip.id, 0) { half(vip.id, 1) } else { half(vip.id, 0) };
        self.plane.lookup.write(lookup_base, &pool::table(&members, LOOKUP_SLOTS))?;
        let mss = self.mss(key)?;
        self.plane.set_vip(key, &Vip { lookup_base, mss, ..vip })?;
        if !pool.iter().any(|(_, backend)| takes_new_flows(backend)) {
            log::warn!("{}", no_backend(&Service::of(key)));
        }
        Ok(())
    }

    fn on_all_down(&self, key: &Endpoint) -> OnAllDown {
        let of = self.pools.iter().find(|pool| pool.service().endpoint() == *key);
        of.and_then(Pool::vip).map(|vip| vip.on_all_down).unwrap_or_default()
    }

    /// The backends that are in a VIP's pool.
    pub(super) fn pool(&self, key: &Endpoint) -> impl Iterator<Item = (u32, &Backend)> {
        let of = self
            .backends
            .iter()
            .filter(move |(_, b)| b.vip == *key && b.flags & BACKEND_PRESENT != 0);
        of.map(|(id, backend)| (*id, backend))
    }

    /// What clients may be told: what the interfaces take, lowered by what each backend is known to
    /// take.
    fn mss(&self, key: &Endpoint) -> Result<u16> {
        let headers = if self.is_v4(key) == Some(true) { HEADERS_V4 } else { HEADERS_V6 };
        let most = u16::try_from(self.mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
        let paths = self.plane.backend_paths()?;
        let known = self
            .pool(key)
            .filter_map(|(id, _)| paths.get(id as usize))
            .map(BackendPath::largest_mss);
        Ok(known.filter(|mss| *mss != 0).fold(most, u16::min))
    }
}

fn flags(pool: &Pool) -> u16 {
    let of_shape = match &pool.shape {
        Shape::Vip(vip) => [
            (vip.fallback == Fallback::Flow, VIP_FALLBACK_FLOW),
            (vip.return_path == ReturnPath::Route, VIP_RETURN_BY_ROUTE),
        ],
        Shape::Inline(inline) => [(true, VIP_INLINE), (inline.bridged, VIP_BRIDGED)],
    };
    let observe = pool.mode == Mode::Observe;
    let set = [
        (observe, VIP_OBSERVE),
        // Where nothing moves there is nothing to gain.
        (pool.swallow && !observe, VIP_SWALLOW),
        (pool.learn_without_certificate, VIP_LEARN_WITHOUT_CERTIFICATE),
    ];
    of_shape.iter().chain(&set).filter(|(on, _)| *on).fold(0, |flags, (_, flag)| flags | flag)
}

/// With `fallback = "auto"` what an agent before found out about the sources stays.
fn found_fallback(pool: &Pool, old: Option<&Vip>) -> u16 {
    let auto = pool.vip().is_some_and(|vip| vip.fallback == Fallback::Auto);
    let found = old.is_some_and(|old| auto && old.flags & VIP_FALLBACK_FOUND != 0);
    if found { VIP_FALLBACK_FLOW | VIP_FALLBACK_FOUND } else { 0 }
}

/// Connections by VIPs that shared the pool outlive that.
fn shared(pool: &Pool, old: Option<&Vip>) -> u16 {
    let was = old.map_or(0, |old| old.flags & VIP_SHARED);
    if pool.vip().is_some_and(|vip| !vip.also.is_empty()) { VIP_SHARED } else { was }
}

/// First slot of one of a VIP's two tables.
fn half(id: u16, number: u32) -> u32 {
    (u32::from(id) * LOOKUP_HALVES + number) * LOOKUP_SLOTS
}

/// Who takes new flows: the backups where nobody else does, and where nobody is up, perhaps those who
/// would if they were.
fn members(pool: &[(u32, Backend)], on_all_down: OnAllDown) -> Vec<Member> {
    let is_backup = |backend: &Backend| backend.flags & BACKEND_BACKUP != 0;
    let of = |takes: &dyn Fn(&Backend) -> bool| {
        pool.iter().filter(|(_, backend)| takes(backend)).map(member).collect::<Vec<_>>()
    };
    let first = of(&|backend| takes_new_flows(backend) && !is_backup(backend));
    if !first.is_empty() {
        return first;
    }
    let backups = of(&takes_new_flows);
    if !backups.is_empty() || on_all_down == OnAllDown::Drop {
        return backups;
    }
    let first = of(&|backend| would_take(backend) && !is_backup(backend));
    if first.is_empty() { of(&would_take) } else { first }
}

fn takes_new_flows(backend: &Backend) -> bool {
    would_take(backend) && backend.flags & BACKEND_UP != 0
}

/// Whether it takes new flows but for its checks: no operator keeps them from it.
fn would_take(backend: &Backend) -> bool {
    let states = BACKEND_PRESENT | BACKEND_DRAINING | BACKEND_OFF;
    backend.flags & states == BACKEND_PRESENT && backend.weight > 0
}

fn member((id, backend): &(u32, Backend)) -> Member {
    Member { id: *id as u16, endpoint: backend.endpoint, weight: backend.weight }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: u16 = BACKEND_PRESENT | BACKEND_UP;

    /// Whom the lookup table of a pool of these flags names.
    fn named(flags: &[u16], on_all_down: OnAllDown) -> Vec<u16> {
        let backend = |flags: &u16| Backend { flags: *flags, weight: 1, ..Backend::default() };
        let pool = (0..).zip(flags.iter().map(backend)).collect::<Vec<_>>();
        members(&pool, on_all_down).into_iter().map(|member| member.id).collect()
    }

    #[test]
    fn backups_take_new_flows_only_where_nobody_else_does() {
        let backup = UP | BACKEND_BACKUP;
        for (flags, takers) in [
            (&[UP, backup, UP][..], &[0, 2][..]),
            (&[BACKEND_PRESENT, backup, UP | BACKEND_DRAINING], &[1]),
            (&[BACKEND_PRESENT, BACKEND_PRESENT | BACKEND_BACKUP], &[]),
        ] {
            assert_eq!(named(flags, OnAllDown::Drop), takers, "{flags:?}");
        }
    }

    #[test]
    fn where_all_are_down_those_get_new_flows_that_no_operator_took_out() {
        let (down, off) = (BACKEND_PRESENT, BACKEND_PRESENT | BACKEND_OFF);
        let drained = BACKEND_PRESENT | BACKEND_DRAINING;
        let (send, backup) = (OnAllDown::Send, down | BACKEND_BACKUP);
        assert_eq!(named(&[down, down, off, drained, backup, 0], send), [0, 1]);
        assert!(named(&[down, down], OnAllDown::Drop).is_empty());
        assert_eq!(named(&[down, UP], send), [1], "one is up");
        assert_eq!(named(&[off, backup, UP | BACKEND_DRAINING], send), [1]);
        assert!(named(&[off, UP | BACKEND_DRAINING], send).is_empty());
    }
}
