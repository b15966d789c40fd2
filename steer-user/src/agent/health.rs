//! Whether backends answer: one that stops gets no new flow, one that answers again does. `probe`
//! asks them by TCP connections, with TLS handshakes or without, `seen` goes by what passes.
//!
//! What passes also makes a suspect of a backend that is probed ([`mod@suspicion`]): it is asked at
//! once, and whether its process lives, not its kernel alone.
//!
//! The probes also keep the kernel's neighbour entries towards the backends fresh. What goes wrong
//! on our own side says nothing about a backend: such a probe counts for nothing, and is told.

mod probe;
mod seen;
mod suspicion;
mod tls;
mod unanswered;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
pub(crate) use probe::not_made;
use probe::{Ask, Outcome, probe};
pub(super) use seen::follow;
use steer_common::shared::BACKEND_PRESENT;
use suspicion::Suspicion;
use tls::Shakers;
pub(crate) use tls::require;
use tokio::{task::JoinSet, time};
use unanswered::Passed;

use super::pools::{Pools, answers};
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
                for Probe { address, timeout, ask } in checker.due(Instant::now(), AT_A_TIME.saturating_sub(probes.len())) {
                    probes.spawn(async move {
                        let outcome = probe(address, timeout, &ask).await;
                        Told { address, by_kernel: ask.is_of_kernel(), outcome }
                    });
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

/// A probe to be made.
#[derive(Debug)]
struct Probe {
    address: SocketAddr,
    timeout: Duration,
    ask: Ask,
}

/// What came of a probe.
#[derive(Debug)]
struct Told {
    address: SocketAddr,
    /// Whether the backend's kernel may have answered for it.
    by_kernel: bool,
    outcome: Outcome,
}

/// What is known of one backend's probes.
struct Watch {
    health: Probes,
    due: Instant,
    running: u32,
    up: bool,
    tally: u32,
    suspicion: Suspicion,
}

impl Watch {
    /// The first probes of many backends are spread over an interval.
    fn new(health: Probes, up: bool, passed: &Passed, now: Instant) -> Self {
        let due = now + part(health.interval, 1.0);
        Self { health, due, running: 0, up, tally: 0, suspicion: Suspicion::new(passed, up) }
    }

    /// Goes by what passed: what waits for an answer counts as probes that failed, but never as all of
    /// them, and has the next one made at once.
    fn hear(&mut self, passed: &Passed, now: Instant) {
        let evidence = self.suspicion.hear(passed, now);
        if self.up && evidence > 0 {
            let most = self.health.fall.saturating_sub(1);
            self.tally = self.tally.max(u32::try_from(evidence).unwrap_or(u32::MAX).min(most));
            self.due = self.due.min(now);
        }
    }

    /// What the backend is to be asked.
    fn ask(&self, shakers: &mut Shakers) -> Ask {
        match &self.health.tls {
            Some(tls) => shakers.of(tls).map_or_else(Ask::Nothing, Ask::Tls),
            None if self.suspicion.is_of_process() => shakers.any().map_or(Ask::Tcp, Ask::Sign),
            None => Ask::Tcp,
        }
    }

    /// Counts what a probe told; the new state if it changes.
    fn judge(&mut self, answered: bool, by_kernel: bool) -> Option<bool> {
        // A kernel does not speak for a process that is suspected to hang.
        if answered && by_kernel && self.suspicion.is_of_process() {
            return None;
        }
        let changed = self.count(answered);
        if answered && self.up && self.suspicion.is_of_process() {
            self.suspicion.end();
        }
        changed
    }

    /// Whether a probe is to be made now.
    fn is_due(&self, now: Instant) -> bool {
        let Probes { interval, timeout, .. } = &self.health;
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
    shakers: Shakers,
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
        for (id, backend) in pools.plane().backends()? {
            let is_present = backend.flags & BACKEND_PRESENT != 0;
            if let Some(Health::Probes(health)) = pools.health(&backend).filter(|_| is_present) {
                let passed = Passed::of(pools.plane(), id)?;
                present.insert(socket(&backend.endpoint), (health, answers(backend.flags), passed));
            }
        }
        self.watched.retain(|address, _| present.contains_key(address));
        for (address, (health, up, passed)) in present {
            let known = self.watched.entry(address);
            let new = || Watch::new(health.clone(), up, &passed, now);
            let watch = known.or_insert_with(new);
            (watch.health, watch.up) = (health, up);
            watch.hear(&passed, now);
        }
        Ok(())
    }

    /// Starts up to `room` of the probes that are due, those that wait longest first.
    fn due(&mut self, now: Instant, room: usize) -> Vec<Probe> {
        let Self { watched, shakers, .. } = self;
        let mut due = watched.iter_mut().filter(|(_, watch)| watch.is_due(now)).collect::<Vec<_>>();
        due.sort_by_key(|(_, watch)| watch.due);
        due.truncate(room);
        let start = |(address, watch): (&SocketAddr, &mut Watch)| {
            watch.start(now);
            Probe { address: *address, timeout: watch.health.timeout, ask: watch.ask(shakers) }
        };
        due.into_iter().map(start).collect()
    }

    /// Counts what came of probes, and tells the pools which backends changed.
    fn note(&mut self, pools: &Mutex<Pools>, outcomes: Vec<Told>) {
        let changed = outcomes.into_iter().filter_map(|told| self.judge(told)).collect::<Vec<_>>();
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
    fn judge(&mut self, told: Told) -> Option<(SocketAddr, bool)> {
        let Told { address, by_kernel, outcome } = told;
        // One that was removed while it was probed is watched no more.
        let watch = self.watched.get_mut(&address)?;
        watch.running = watch.running.saturating_sub(1);
        match outcome {
            Outcome::Answered => {
                watch.judge(true, by_kernel).map(|_| log::info!("backend {address} is up again"))?
            }
            Outcome::Failed(why) => {
                let down = |_| log::warn!("backend {address} is down ({why}): it gets no new flow");
                watch.judge(false, by_kernel).map(down)?;
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
            let watch = Watch::new(health.clone(), true, &Passed::default(), now - health.interval);
            checker.watched.insert(address(n), watch);
        }
        (checker, now)
    }

    fn watch(up: bool) -> Watch {
        let probes = Probes { rise: 2, fall: 3, ..Probes::default() };
        Watch::new(probes, up, &Passed::default(), Instant::now())
    }

    /// What a probe told of backend 0.
    fn told(outcome: Outcome) -> Told {
        Told { address: address(0), by_kernel: true, outcome }
    }

    fn outcomes(up: bool, answers: &[bool]) -> Vec<Option<bool>> {
        let mut watch = watch(up);
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
            let judged = checker.judge(told(Outcome::NotMade("no descriptor".to_owned())));
            assert_eq!(judged, None);
        }
        let failed = || told(Outcome::Failed("refused".to_owned()));
        let judged = (0..3).map(|_| checker.judge(failed())).collect::<Vec<_>>();
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
            probed.extend(due.into_iter().map(|probe| probe.address));
        }
        probed.sort();
        probed.dedup();
        assert_eq!((probed.len(), checker.due(now, 10).len()), (100, 0));
    }

    /// Re-homed hellos of which nobody heard anything for a while.
    fn unanswered(watch: &mut Watch, n: u64) {
        let (now, passed) = (Instant::now(), Passed { moved: n, ..Passed::default() });
        watch.hear(&passed, now);
        watch.hear(&passed, now + suspicion::PATIENCE);
    }

    #[test]
    fn moved_hellos_without_an_answer_need_one_silent_probe_more_and_no_kernel_speaks_against_them()
    {
        let mut watch = watch(true);
        unanswered(&mut watch, 3);
        assert!(matches!(watch.ask(&mut Shakers::default()), Ask::Sign(_)));
        assert_eq!(watch.judge(true, true), None, "its kernel says nothing of the process");
        assert_eq!(watch.judge(false, false), Some(false));
        assert_eq!((watch.judge(true, true), watch.judge(true, true)), (None, None));
        assert!(matches!(watch.ask(&mut Shakers::default()), Ask::Sign(_)), "while it is down");
        assert_eq!((watch.judge(true, false), watch.judge(true, false)), (None, Some(true)));
        assert!(matches!(watch.ask(&mut Shakers::default()), Ask::Tcp));
    }

    #[test]
    fn a_suspect_that_shows_a_sign_of_life_is_none_any_more() {
        let mut watch = watch(true);
        unanswered(&mut watch, 9);
        assert_eq!(watch.judge(true, false), None);
        assert!(matches!(watch.ask(&mut Shakers::default()), Ask::Tcp));
        assert_eq!((watch.judge(false, true), watch.judge(false, true)), (None, None));
        assert_eq!(watch.judge(false, true), Some(false), "it counts from the beginning");
    }

    #[test]
    fn what_a_kernel_answers_meanwhile_is_no_answer_to_a_moved_hello() {
        let mut watch = watch(true);
        let (now, passed) = (Instant::now(), Passed { moved: 1, ..Passed::default() });
        watch.hear(&passed, now);
        assert_eq!(watch.judge(true, true), None);
        watch.hear(&passed, now + suspicion::PATIENCE);
        assert!(matches!(watch.ask(&mut Shakers::default()), Ask::Sign(_)));
    }

    #[test]
    fn one_moved_hello_alone_takes_as_many_silent_probes_as_are_missing() {
        let mut watch = watch(true);
        unanswered(&mut watch, 1);
        assert_eq!((watch.judge(false, false), watch.judge(false, false)), (None, Some(false)));
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
