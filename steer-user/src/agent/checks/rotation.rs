//! Members that the balancer gives nothing any more: disabled or drained there, which it tells
//! nobody. Their sessions go on to be moved to them.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Kind, Warning};
use crate::{
    agent::sweep::Opened,
    report::{BackendReport, BackendState, Backends, VipReport},
    service::Service,
};

/// For so long a member gets nothing.
const QUIET: Duration = Duration::from_secs(300);
/// So many connections its pool gets meanwhile.
const POOL: u64 = 100;
/// So many of as many it got once.
const SHARE: u64 = 10;
/// So many sources there are for each member of the pool: that none of them is persisted to one of
/// the members by chance happens once in e^16 times.
const SOURCES: usize = 16;

/// Follows how many new connections each member gets.
///
/// A network in which nothing was changed does not show what is warned of: the member got its share
/// since the agent began, so that it is none that only stands by; it answers; its pool gets 100
/// connections in five minutes, of so many different sources that persistence by source would have
/// led some of them to it (behind SNAT nobody is warned); and a member that gets new ones has as
/// many open as it has, so that a choice by the fewest connections would have come to it.
#[derive(Default)]
pub(super) struct Rotation(HashMap<SocketAddr, Member>);

#[derive(Default)]
struct Member {
    /// First flows at each look, of the last [`QUIET`] and the last one before.
    looks: VecDeque<(Instant, u64)>,
    /// It got a share of its pool's once.
    served: bool,
}

impl Member {
    fn look(&mut self, now: Instant, flows: u64) {
        if self.looks.back().is_some_and(|(_, before)| *before > flows) {
            // Its number is another one's now.
            *self = Self::default();
        }
        self.looks.push_back((now, flows));
        // One that is old enough is enough.
        while self.looks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= QUIET) {
            self.looks.pop_front();
        }
    }

    /// What it got since the first look that is remembered.
    fn got(&self) -> u64 {
        self.looks.back().zip(self.looks.front()).map_or(0, |(last, first)| last.1 - first.1)
    }

    fn is_followed_for_long(&self, now: Instant) -> bool {
        self.looks.front().is_some_and(|(at, _)| now.duration_since(*at) >= QUIET)
    }
}

impl Rotation {
    /// Those that get nothing, of pools whose members are dialled by somebody else.
    pub(super) fn look(
        &mut self,
        vips: &[VipReport],
        backends: &Backends,
        opened: &Opened,
        now: Instant,
    ) -> Vec<Warning> {
        let there = |at: &SocketAddr| backends.backends.iter().any(|b| b.address == *at);
        self.0.retain(|address, _| there(address));
        let mut warnings = Vec::new();
        for vip in vips.iter().filter(|vip| matches!(vip.address, Service::Pool(_))) {
            let is_member =
                |b: &&BackendReport| b.vip == vip.address && b.state != BackendState::Removed;
            let members: Vec<_> = backends.backends.iter().filter(is_member).collect();
            for member in &members {
                self.0.entry(member.address).or_default().look(now, member.flows);
            }
            let sources = opened.sources.get(&vip.id).copied().unwrap_or_default();
            let open = |member: &BackendReport| opened.open(member.id);
            warnings.extend(self.of_pool(&members, sources, open, now));
        }
        warnings
    }

    fn of_pool(
        &mut self,
        members: &[&BackendReport],
        sources: usize,
        open: impl Fn(&BackendReport) -> u64,
        now: Instant,
    ) -> Vec<Warning> {
        let got =
            |of: &Self, member: &BackendReport| of.0.get(&member.address).map_or(0, Member::got);
        let all: u64 = members.iter().map(|member| got(self, member)).sum();
        if all < POOL {
            return Vec::new();
        }
        for member in members {
            if let Some(known) = self.0.get_mut(&member.address) {
                known.served |= known.got() >= SHARE;
            }
        }
        let served = members.iter().filter(|member| got(self, member) != 0);
        let Some(most) = served.map(|member| open(member)).max() else { return Vec::new() };
        let is_out = |member: &&&BackendReport| {
            let known = self.0.get(&member.address);
            member.state == BackendState::Up
                && known.is_some_and(|known| {
                    known.served && known.got() == 0 && known.is_followed_for_long(now)
                })
                && sources >= SOURCES * members.len()
                && open(member) <= most
        };
        members.iter().filter(is_out).map(|member| warning(member)).collect()
    }
}

fn warning(member: &BackendReport) -> Warning {
    let (pool, address) = (member.vip.titled(), member.address);
    let text = format!(
        "{pool}: {address} gets no new connections any more, while its pool does: it is out of rotation (disabled or drained \
         at the balancer); sessions that it holds are still moved to it (steer backends drain {address} --for DURATION ends that)"
    );
    Warning::new(Kind::OutOfRotation, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_secs(5);
    /// Looks in the time that a member must be quiet for.
    const WINDOW: u64 = QUIET.as_secs() / LOOK.as_secs();

    struct Pool {
        rotation: Rotation,
        flows: [u64; 3],
        opened: Opened,
        state: BackendState,
        now: Instant,
        service: Service,
    }

    impl Pool {
        fn new() -> Self {
            let mut opened = Opened::default();
            opened.sources.insert(0, 48);
            (0..3).for_each(|id| *opened.open_mut(id) = 50);
            Self {
                rotation: Rotation::default(),
                flows: [0; 3],
                opened,
                state: BackendState::Up,
                now: Instant::now(),
                service: "web".parse().unwrap(),
            }
        }

        /// So many looks, at each of which every member got so many more; what the last one said.
        fn looks(&mut self, n: u64, more: [u64; 3]) -> Vec<Warning> {
            let mut said = Vec::new();
            for _ in 0..n {
                self.flows.iter_mut().zip(more).for_each(|(flows, more)| *flows += more);
                let backend = |id: usize| BackendReport {
                    id: id as u32,
                    address: SocketAddr::from(([10, 0, 0, id as u8], 443)),
                    vip: self.service,
                    state: self.state,
                    flows: self.flows[id],
                    ..BackendReport::idle()
                };
                let backends =
                    Backends { counted_seconds: None, backends: (0..3).map(backend).collect() };
                let vip = VipReport {
                    id: 0,
                    address: self.service,
                    also: Vec::new(),
                    mode: "steer".to_owned(),
                    backends: 3,
                    backends_up: 3,
                    open_flows: None,
                    session_timeout_seconds: 600,
                };
                said = self.rotation.look(&[vip], &backends, &self.opened, self.now);
                self.now += LOOK;
            }
            said
        }
    }

    #[test]
    fn a_member_that_gets_nothing_for_five_minutes_is_named_until_it_gets_something() {
        let mut pool = Pool::new();
        assert_eq!(pool.looks(WINDOW + 1, [1, 1, 1]), []);
        assert_eq!(pool.looks(WINDOW - 1, [1, 1, 0]), []);
        let said = pool.looks(1, [1, 1, 0]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].kind, Kind::OutOfRotation);
        assert!(said[0].text.starts_with("pool web: 10.0.0.2:443 gets no new"), "{}", said[0]);
        assert_eq!(pool.looks(WINDOW, [1, 1, 0]), said, "the same words");
        assert_eq!(pool.looks(1, [1, 1, 1]), []);
    }

    #[test]
    fn nobody_is_named_where_a_healthy_network_may_look_the_same() {
        let quiet = |change: fn(&mut Pool), before: [u64; 3], then: [u64; 3]| {
            let mut pool = Pool::new();
            pool.looks(WINDOW + 1, before);
            change(&mut pool);
            pool.looks(2 * WINDOW, then)
        };
        let (all, two) = ([1, 1, 1], [1, 1, 0]);
        assert_eq!(quiet(|_| (), all, two).len(), 1);
        assert_eq!(quiet(|_| (), all, [1, 0, 0]), [], "few connections");
        assert_eq!(quiet(|_| (), two, two), [], "it stood by all the time");
        let few = |pool: &mut Pool| pool.opened.sources.extend([(0, 47)]);
        assert_eq!(quiet(few, all, two), [], "few sources");
        let busy = |pool: &mut Pool| *pool.opened.open_mut(2) = 51;
        assert_eq!(quiet(busy, all, two), [], "the others have fewer connections");
        assert_eq!(quiet(|pool| pool.state = BackendState::Draining, all, two), []);
        let vip = |pool: &mut Pool| pool.service = "198.51.100.10:443".parse().unwrap();
        assert_eq!(quiet(vip, all, two), [], "its own choice");
    }
}
