//! What operators made of backends and what was found out of pools, in words that outlast the maps:
//! after a reboot it is done again, as far as the configuration says what it said then.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use steer_common::{
    session::NameLayout,
    shared::{
        BACKEND_DISABLED, BACKEND_DRAINING, BACKEND_OFF, BACKEND_PRESENT, Backend, VIP_NAME_FOUND,
        VIP_TELL_TICKETS,
    },
};

use super::{Pools, names};
use crate::{address::socket, agent::key_layout::Finding, clock, config, service::Service};

/// What an operator made of a backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Its VIP, or the name of its pool.
    pool: Service,
    address: SocketAddr,
    state: State,
    weight: u16,
    /// Of a drain: seconds until its sessions go elsewhere, too; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<u32>,
    /// What the configuration said of the backend; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    configured: Option<Said>,
}

/// What a configuration says of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Said {
    pool: Service,
    weight: u16,
}

/// What an operator said of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Nothing: it is what its checks say.
    Enabled,
    Draining,
    Disabled,
    Off,
    /// It is in no pool.
    Removed,
}

/// Where the names of a pool's ticket keys were found to stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Layout {
    pool: Service,
    at: u8,
    len: u8,
}

/// What became of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Redone {
    /// Backends that are drained, disabled or off again.
    pub(crate) drains: u64,
    /// Backends that are in a pool again, out of one, or of another weight.
    pub(crate) backends: u64,
    /// Of backends of which the configuration says something else now, or that cannot be.
    pub(crate) left: u64,
}

impl Pools {
    /// Every difference between backends and the configuration.
    pub(in crate::agent) fn changes(&self) -> Vec<Change> {
        let now = clock::seconds();
        let backends = self.backends.values();
        backends.filter_map(|backend| Change::of(backend, self.says(backend), now)).collect()
    }

    /// The places of key names that were found out.
    pub(in crate::agent) fn layouts(&self) -> Result<Vec<Layout>> {
        let vips = self.plane.vips()?.into_iter();
        let found = vips.filter(|(_, vip)| vip.flags & VIP_NAME_FOUND != 0);
        Ok(found
            .map(|(at, vip)| {
                let NameLayout { at: begin, len } = names::layout_of(&vip);
                Layout { pool: Service::of(&at), at: begin, len }
            })
            .collect())
    }

    /// Does again what operators did, `away` seconds after it was told. What cannot be done is said.
    pub(in crate::agent) fn redo(&mut self, changes: &[Change], away: u32) -> Redone {
        let mut redone = Redone::default();
        for change in changes {
            if let Err(error) = self.redo_one(change, away, &mut redone) {
                log::warn!("{}: {error:#}", change.address);
                redone.left += 1;
            }
        }
        redone
    }

    /// As the next agent over these maps would have it: the configuration wins where it says
    /// something else than then, but for a drain and its like.
    fn redo_one(&mut self, change: &Change, away: u32, redone: &mut Redone) -> Result<()> {
        let Change { pool, address, state, weight, seconds, configured } = *change;
        let says = self.configured(address);
        let is_same = says == configured;
        // What a file named and names no more is out of it.
        if !is_same && (says.is_none() || state == State::Removed) {
            redone.left += 1;
            return Ok(());
        }
        if state == State::Removed {
            self.remove(address)?;
            redone.backends += 1;
            return Ok(());
        }
        if is_same && says != Some(Said { pool, weight }) {
            if says.is_some_and(|says| says.pool != pool) {
                self.remove(address)?;
            }
            self.add(pool, address, weight)?;
            redone.backends += 1;
        } else if !is_same {
            redone.left += 1;
        }
        let limit = seconds.map(|left| Duration::from_secs(left.saturating_sub(away).into()));
        match state {
            State::Enabled | State::Removed => return Ok(()),
            State::Draining => self.drain(address, limit)?,
            State::Disabled => self.disable(address)?,
            State::Off => self.force_off(address)?,
        }
        redone.drains += 1;
        Ok(())
    }

    /// Takes over where names of ticket keys stand, of pools whose configuration leaves that open.
    pub(in crate::agent) fn find_again(&mut self, layouts: &[Layout]) -> Result<()> {
        for Layout { pool, at, len } in layouts {
            let Some(vip) = self.plane.vip(&pool.endpoint())? else { continue };
            if vip.flags & VIP_TELL_TICKETS != 0 {
                let layout = NameLayout { at: *at, len: *len };
                self.found(vip.id, &Finding { layout, names: Vec::new() })?;
            }
        }
        Ok(())
    }

    fn says(&self, backend: &Backend) -> Option<Said> {
        self.configured(socket(&backend.endpoint))
    }

    fn configured(&self, address: SocketAddr) -> Option<Said> {
        let of = |pool: &config::Pool| {
            let found = pool.backends.iter().find(|backend| backend.address == address)?;
            Some(Said { pool: pool.service(), weight: found.weight })
        };
        self.pools.iter().find_map(of)
    }
}

impl Change {
    fn of(backend: &Backend, configured: Option<Said>, now: u32) -> Option<Self> {
        let Backend { flags, weight, drain_until, .. } = *backend;
        let state = match flags {
            _ if flags & BACKEND_PRESENT == 0 => State::Removed,
            _ if flags & BACKEND_OFF != 0 => State::Off,
            _ if flags & BACKEND_DISABLED != 0 => State::Disabled,
            _ if flags & BACKEND_DRAINING != 0 => State::Draining,
            _ => State::Enabled,
        };
        let pool = Service::of(&backend.vip);
        let is_as_configured = match state {
            State::Removed => configured.is_none(),
            State::Enabled => configured == Some(Said { pool, weight }),
            State::Draining | State::Disabled | State::Off => false,
        };
        let has_deadline = state == State::Draining && drain_until != 0;
        let seconds = has_deadline.then(|| drain_until.saturating_sub(now));
        let address = socket(&backend.endpoint);
        let change = Self { pool, address, state, weight, seconds, configured };
        (!is_as_configured).then_some(change)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use steer_common::shared::BACKEND_UP;

    use super::*;
    use crate::address::endpoint;

    const POOL: &str = "198.51.100.10:443";

    fn said(weight: u16) -> Option<Said> {
        Some(Said { pool: POOL.parse().unwrap(), weight })
    }

    fn backend(flags: u16) -> Backend {
        Backend {
            endpoint: endpoint("10.0.0.1:443".parse().unwrap()),
            vip: POOL.parse::<Service>().unwrap().endpoint(),
            flags,
            weight: 3,
            drain_until: 160,
            ..Backend::default()
        }
    }

    pub(crate) fn drain() -> Change {
        let flags = BACKEND_PRESENT | BACKEND_DRAINING;
        Change::of(&backend(flags), said(3), 100).unwrap()
    }

    #[test]
    fn what_is_as_configured_is_no_change_and_all_else_is_one() {
        let here = BACKEND_PRESENT | BACKEND_UP;
        let of = |flags, configured| Change::of(&backend(flags), configured, 100);
        assert_eq!(of(here, said(3)), None);
        assert_eq!(of(BACKEND_PRESENT, said(3)), None, "that it is down is found again");
        assert_eq!(of(0, None), None, "removed, and nobody wants it");
        let state = |flags, configured| of(flags, configured).map(|change| change.state);
        assert_eq!(state(here, said(2)), Some(State::Enabled), "another weight");
        assert_eq!(state(here, None), Some(State::Enabled), "added");
        assert_eq!(state(0, said(3)), Some(State::Removed));
        let disabled = here | BACKEND_DRAINING | BACKEND_DISABLED;
        assert_eq!(state(disabled, said(3)), Some(State::Disabled));
        assert_eq!(state(here | BACKEND_OFF, said(3)), Some(State::Off));
        assert_eq!(drain().state, State::Draining);
        assert_eq!(drain().seconds, Some(60));
        assert_eq!(of(here | BACKEND_OFF, said(3)).unwrap().seconds, None);
    }
}
