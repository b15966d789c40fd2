//! Whether backends answer: one that stops gets no new flow, one that answers again does. `probe`
//! asks them by TCP connections, `seen` goes by what passes.
//!
//! The probes also keep the kernel's neighbour entries towards the backends fresh. What goes wrong
//! on our own side says nothing about a backend: such a probe counts for nothing, and is told.

mod probe;
mod seen;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
pub(crate) use probe::not_made;
use probe::{Outcome, probe};
pub(super) use seen::follow;
use steer_common::shared::{BACKEND_PRESENT, BACKEND_UP};
use tokio::{task::JoinSet, time};

use super::pools::Pools;
use crate::{
    address::socket,
    config::{Health, Probes},
};

/// How often it is looked which probes are due.
const TICK: Duration = Duration::from_millis(50);
/// How often the pools are looked at.
const REFRESH: Duration = Duration::from_millis(500);
/// Probes at a time, of all backends: each takes a descriptor.
const AT_A_TIME: usize = 512;
/// Probes at a time of one backend that does not answer, where the interval is shorter than the
/// timeout.
const OF_ONE: u32 = 16;
/// Time between two lines about probes that could not be made.
const QUIET: Duration = Duration::from_secs(60);

/// Probes for ever.
pub(super) async fn run(pools: Arc<Mutex<Pools>>) -> Result<()> {
    probe::allow_descriptors();
    let mut checker = Checker::default();
    let mut probes = JoinSet::new();
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if let Err(error) = checker.refresh(&pools) {
                    log::error!("read the pools for health checks: {error:#}");
                }
                for (address, timeout) in checker.due(Instant::now(), AT_A_TIME.saturating_sub(probes.len())) {
                    probes.spawn(probe(address, timeout));
                }
            }
            Some(ended) = probes.join_next() => {
                // All that ended by now change the pools in one go.
                let mut outcomes = ended.ok().into_iter().collect::<Vec<_>>();
                while let Some(ended) = probes.try_join_next() {
                    outcomes.extend(ended);
                }
                checker.note(&pools, outcomes);
            }
        }
    }
}

/// What is known of one backend's probes.
struct Watch {
    health: Probes,
    due: Instant,
    running: u32,
    up: bool,
    tally: u32,
}

impl Watch {
    /// The first probes of many backends are spread over an interval.
    fn new(health: Probes, up: bool, now: Instant) -> Self {
        Self { health, due: now + part(health.interval, 1.0), running: 0, up, tally: 0 }
    }

    /// Whether a probe is to be made now.
    fn is_due(&self, now: Instant) -> bool {
        let Probes { interval, timeout, .. } = self.health;
        let overlapping = (timeout.as_nanos() / interval.as_nanos().max(1)).saturating_add(1);
        self.due <= now && u128::from(self.running) < overlapping.min(OF_ONE.into())
    }

    /// The next probe is an interval later, a little more or less, so that backends do not stay in
    /// step.
    fn start(&mut self, now: Instant) {
        let jitter = part(self.health.interval, 0.2);
        let next = self.due + self.health.interval * 9 / 10 + jitter;
        // After a pause nothing is made up for.
        self.due = next.max(now + self.health.interval / 2);
        self.running += 1;
    }

    /// Counts an outcome; the new state if it changes.
    fn count(&mut self, answered: bool) -> Option<bool> {
        if answered == self.up {
            self.tally = 0;
            return None;
        }
        self.tally += 1;
        let enough = if answered { self.health.rise } else { self.health.fall };
        if self.tally < enough {
            return None;
        }
        (self.up, self.tally) = (answered, 0);
        Some(answered)
    }
}

/// A random part of the first `share` of a time.
fn part(time: Duration, share: f64) -> Duration {
    let mut bytes = [0; 4];
    // Without a random number nothing is spread, and all else works.
    let _ = getrandom::fill(&mut bytes);
    time.mul_f64(share * f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX))
}

#[derive(Default)]
struct Checker {
    watched: HashMap<SocketAddr, Watch>,
    refreshed: Option<Instant>,
    told: Option<Instant>,
}

impl Checker {
    /// Follows the pools: what came is watched, what went is not.
    fn refresh(&mut self, pools: &Mutex<Pools>) -> Result<()> {
        let now = Instant::now();
        if self.refreshed.is_some_and(|last| now.duration_since(last) < REFRESH) {
            return Ok(());
        }
        self.refreshed = Some(now);
        let pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = HashMap::new();
        for (_, backend) in pools.plane().backends()? {
            let has = |flag| backend.flags & flag != 0;
            if let Some(Health::Probes(health)) =
                pools.health(&backend).filter(|_| has(BACKEND_PRESENT))
            {
                present.insert(socket(&backend.endpoint), (health, has(BACKEND_UP)));
            }
        }
        self.watched.retain(|address, _| present.contains_key(address));
        for (address, (health, up)) in present {
            self.watched.entry(address).or_insert_with(|| Watch::new(health, up, now)).up = up;
        }
        Ok(())
    }

    /// Starts up to `room` of the probes that are due, those that wait longest first.
    fn due(&mut self, now: Instant, room: usize) -> Vec<(SocketAddr, Duration)> {
        let mut due =
            self.watched.iter_mut().filter(|(_, watch)| watch.is_due(now)).collect::<Vec<_>>();
        due.sort_by_key(|(_, watch)| watch.due);
        due.truncate(room);
        let start = |(address, watch): (&SocketAddr, &mut Watch)| {
            watch.start(now);
            (*address, watch.health.timeout)
        };
        due.into_iter().map(start).collect()
    }

    /// Counts what came of probes, and tells the pools which backends changed.
    fn note(&mut self, pools: &Mutex<Pools>, outcomes: Vec<(SocketAddr, Outcome)>) {
        let changed = outcomes
            .into_iter()
            .filter_map(|(address, outcome)| self.judge(address, outcome))
            .collect::<Vec<_>>();
        if changed.is_empty() {
            return;
        }
        let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        for (address, up) in changed {
            if let Err(error) = pools.set_up(address, up) {
                log::error!("note that {address} is {}: {error:#}", if up { "up" } else { "down" });
            }
        }
    }

    /// The new state of a backend, if this outcome changes it.
    fn judge(&mut self, address: SocketAddr, outcome: Outcome) -> Option<(SocketAddr, bool)> {
        // One that was removed while it was probed is watched no more.
        let watch = self.watched.get_mut(&address)?;
        watch.running = watch.running.saturating_sub(1);
        match outcome {
            Outcome::Answered => {
                watch.count(true).map(|_| log::info!("backend {address} is up again"))?
            }
            Outcome::Failed(why) => {
                let down = |_| log::warn!("backend {address} is down ({why}): it gets no new flow");
                watch.count(false).map(down)?;
            }
            Outcome::NotMade(why) => {
                self.tell(address, &why);
                return None;
            }
        }
        Some((address, self.watched.get(&address)?.up))
    }

    fn tell(&mut self, address: SocketAddr, why: &str) {
        let now = Instant::now();
        if self.told.is_none_or(|told| now.duration_since(told) >= QUIET) {
            self.told = Some(now);
            log::warn!(
                "health checks cannot be made ({address}: {why}): backends stay what they are; {} so far",
                not_made()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 443))
    }

    /// A checker of so many backends, all of them due.
    fn checker(n: u8, health: Probes) -> (Checker, Instant) {
        let mut checker = Checker::default();
        let now = Instant::now() + health.interval;
        for n in 0..n {
            checker.watched.insert(address(n), Watch::new(health, true, now - health.interval));
        }
        (checker, now)
    }

    fn outcomes(up: bool, answers: &[bool]) -> Vec<Option<bool>> {
        let mut watch =
            Watch::new(Probes { rise: 2, fall: 3, ..Probes::default() }, up, Instant::now());
        answers.iter().map(|answered| watch.count(*answered)).collect()
    }

    #[test]
    fn a_backend_falls_after_three_failures_in_a_row() {
        assert_eq!(
            outcomes(true, &[false, false, true, false, false, false]),
            [None, None, None, None, None, Some(false)]
        );
    }

    #[test]
    fn a_backend_rises_after_two_answers_in_a_row() {
        assert_eq!(outcomes(false, &[true, false, true, true]), [None, None, None, Some(true)]);
    }

    #[test]
    fn probes_that_could_not_be_made_say_nothing_about_a_backend() {
        let (mut checker, _) = checker(1, Probes::default());
        for _ in 0..10 {
            assert_eq!(
                checker.judge(address(0), Outcome::NotMade("no descriptor".to_owned())),
                None
            );
        }
        let failed = || Outcome::Failed("refused".to_owned());
        let judged = (0..3).map(|_| checker.judge(address(0), failed())).collect::<Vec<_>>();
        assert_eq!(judged, [None, None, Some((address(0), false))]);
    }

    #[test]
    fn the_first_probes_of_many_backends_are_spread_over_an_interval() {
        let health = Probes { interval: Duration::from_secs(10), ..Probes::default() };
        let (checker, now) = checker(200, health);
        let in_first_half = checker
            .watched
            .values()
            .filter(|watch| watch.due + Duration::from_secs(5) < now)
            .count();
        assert!((50..150).contains(&in_first_half), "{in_first_half} of 200");
    }

    #[test]
    fn no_more_probes_are_made_at_a_time_than_there_is_room_and_all_have_their_turn() {
        let (mut checker, now) = checker(100, Probes::default());
        let mut probed = Vec::new();
        for _ in 0..10 {
            let due = checker.due(now, 10);
            assert_eq!(due.len(), 10);
            probed.extend(due.into_iter().map(|(address, _)| address));
        }
        probed.sort();
        probed.dedup();
        assert_eq!((probed.len(), checker.due(now, 10).len()), (100, 0));
    }

    #[test]
    fn an_interval_shorter_than_the_timeout_is_kept() {
        let (interval, timeout) = (Duration::from_millis(100), Duration::from_secs(1));
        let (mut checker, start) = checker(1, Probes { interval, timeout, ..Probes::default() });
        // Nothing is answered within the timeout.
        let probes = (0..20).map(|tick| checker.due(start + TICK * tick, 100).len()).sum::<usize>();
        assert!((8..=12).contains(&probes), "{probes} probes in a second");
    }
}
