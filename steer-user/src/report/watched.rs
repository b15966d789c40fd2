//! `steer watch`: what becomes of flows, as it happens.
//!
//! The programs tell it through a ring of a fixed size, and only while somebody watches: what does
//! not fit is counted (`watch-lost`), and costs no flow anything.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, RingBuf};
use serde::{Deserialize, Serialize};
use steer_common::{counters::Counter, shared::Watched};

use super::{
    flows::{Clients, FlowReport},
    world::World,
};
use crate::{
    clock,
    plane::{PinDir, Plane, WatchLock},
};

/// For how long the programs go on to tell where nobody reads any more.
const LIFE: Duration = Duration::from_secs(3);

/// What became of a flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// When, RFC 3339 in UTC with milliseconds.
    pub at: String,
    /// The word of the counter that counts it.
    pub verdict: String,
    /// The backend that the verdict names: where the flow goes or is held, was to go, or, with
    /// `observed`, would have gone; absent when it is forgotten.
    pub backend: Option<SocketAddr>,
    /// The flow at that moment.
    pub flow: FlowReport,
}

/// What is meant; what is empty or absent does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WatchFilter {
    /// Flows of these clients.
    pub clients: Option<Clients>,
    /// Flows whose first backend, or the one that the verdict names, is this one.
    pub backend: Option<SocketAddr>,
    /// These verdicts.
    pub verdicts: Vec<Counter>,
}

impl WatchFilter {
    fn has(&self, world: &World, watched: &Watched) -> bool {
        let is = |at: SocketAddr| {
            [watched.flow.first, watched.backend]
                .iter()
                .any(|id| world.backend_address(*id) == Some(at))
        };
        let told = Counter::from_index(watched.what.into());
        self.clients.is_none_or(|clients| clients.has(&watched.key))
            && self.backend.is_none_or(is)
            && (self.verdicts.is_empty() || told.is_some_and(|told| self.verdicts.contains(&told)))
    }
}

/// The one watcher of a gateway.
pub struct Watch {
    plane: Plane,
    ring: RingBuf<MapData>,
    world: World,
    filter: WatchFilter,
    lost_before: u64,
    /// Until when, seconds of CLOCK_MONOTONIC, the programs tell.
    until: u32,
    _only: WatchLock,
}

impl Watch {
    /// Has the programs tell from now on.
    ///
    /// # Errors
    /// When another one watches, there is no such backend, or a map cannot be opened.
    pub fn begin(dir: &PinDir, plane: Plane, filter: WatchFilter) -> Result<Self> {
        let Some(only) = dir.lock_watch()? else {
            bail!(
                "another `steer watch` runs for {}: what is told goes to one only",
                dir.root().display()
            )
        };
        let world = World::read(&plane)?;
        if let Some(backend) = filter.backend
            && !world.has_backend(backend)
        {
            bail!("{backend} is no backend of any VIP or pool");
        }
        let mut ring = Plane::watched(dir)?;
        // What the last one did not read.
        while ring.next().is_some() {}
        let lost_before = plane.counter(Counter::WatchLost)?;
        let mut watch = Self { plane, ring, world, filter, lost_before, until: 0, _only: only };
        watch.go_on()?;
        Ok(watch)
    }

    /// Has the programs go on to tell for a while, and learns which backends there are now.
    fn go_on(&mut self) -> Result<()> {
        let until = clock::seconds() + LIFE.as_secs() as u32;
        if until != self.until {
            self.plane.set_watch(until)?;
            self.until = until;
            self.world = World::read(&self.plane)?;
        }
        Ok(())
    }

    /// Hands out what was told since the last look, until `each` has enough; whether it wants more.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn look(&mut self, mut each: impl FnMut(Decision) -> bool) -> Result<bool> {
        self.go_on()?;
        let (now, wall) = (clock::nanoseconds(), time_of_day());
        while let Some(item) = self.ring.next() {
            let watched = read(&item).context("a record of the map watched is too short")?;
            if !self.filter.has(&self.world, &watched) {
                continue;
            }
            let ago = Duration::from_nanos(now.saturating_sub(watched.at));
            if !each(decision(&self.world, &watched, wall - ago)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How much was not told because the ring was full.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn lost(&self) -> Result<u64> {
        Ok(self.plane.counter(Counter::WatchLost)?.saturating_sub(self.lost_before))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Else they end by themselves.
        let _ = self.plane.set_watch(0);
    }
}

#[expect(clippy::disallowed_methods, reason = "who reads it compares it with other logs")]
fn time_of_day() -> SystemTime {
    SystemTime::now()
}

fn read(bytes: &[u8]) -> Option<Watched> {
    if bytes.len() < size_of::<Watched>() {
        return None;
    }
    // SAFETY: there are enough bytes, and the type is valid for every bit pattern.
    Some(unsafe { bytes.as_ptr().cast::<Watched>().read_unaligned() })
}

fn decision(world: &World, watched: &Watched, at: SystemTime) -> Decision {
    let told = Counter::from_index(watched.what.into());
    Decision {
        at: humantime::format_rfc3339_millis(at).to_string(),
        verdict: told.map_or("unknown", Counter::word).to_owned(),
        backend: world.backend_address(watched.backend),
        flow: FlowReport::new(world, &watched.key, &watched.flow),
    }
}

#[cfg(test)]
mod tests {
    use steer_common::{
        flow::{State, StateWord},
        shared::{Address, FLOW_HELLO, FLOW_HIT, FLOW_OFFERED, Flow, FlowKey},
    };

    use super::*;
    use crate::report::world::tests::Build;

    fn watched(what: Counter, client: [u8; 4]) -> Watched {
        let flow = Flow {
            word: StateWord::new(State::First, 7).0,
            flags: FLOW_HELLO | FLOW_HIT | FLOW_OFFERED,
            first: 1,
            owner: 2,
            ..Flow::default()
        };
        let key = FlowKey::of_vip(Address::from_v4(client), 40_000_u16.to_be_bytes(), 0);
        Watched { at: 0, key, what: what as u16, backend: 2, flow }
    }

    #[test]
    fn a_decision_says_what_when_and_where() {
        let world = Build::two().build();
        let told = watched(Counter::OwnerSilent, [192, 0, 2, 1]);
        let decision =
            decision(&world, &told, SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
        assert_eq!(decision.at, "1970-01-01T00:00:01.500Z");
        assert_eq!(decision.verdict, "owner-silent");
        assert_eq!(decision.backend, world.backend_address(2));
        assert!(decision.backend.is_some());
        assert_eq!(decision.flow.client, "192.0.2.1:40000".parse().unwrap());
        assert_eq!(decision.flow.first_address, world.backend_address(1));
    }

    #[test]
    fn what_is_not_meant_is_not_told() {
        let world = Build::two().build();
        let told = watched(Counter::OwnerSilent, [192, 0, 2, 1]);
        let all = WatchFilter::default();
        assert!(all.has(&world, &told));
        let of =
            |clients: &str| WatchFilter { clients: Some(clients.parse().unwrap()), ..all.clone() };
        assert!(of("192.0.2.0/24").has(&world, &told));
        assert!(of("192.0.2.1:40000").has(&world, &told));
        assert!(!of("192.0.2.1:40001").has(&world, &told));
        assert!(!of("198.51.100.0/24").has(&world, &told));
        let only = |verdicts| WatchFilter { verdicts, ..all.clone() };
        assert!(only(vec![Counter::Rehome, Counter::OwnerSilent]).has(&world, &told));
        assert!(!only(vec![Counter::Rehome]).has(&world, &told));
        let at = |backend| WatchFilter { backend, ..all.clone() };
        assert!(at(world.backend_address(2)).has(&world, &told));
        assert!(at(world.backend_address(1)).has(&world, &told));
        assert!(!at("203.0.113.9:443".parse().ok()).has(&world, &told));
    }

    #[test]
    fn a_short_record_is_refused() {
        assert!(read(&[0; 8]).is_none());
    }
}
