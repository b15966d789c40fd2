//! Judges the backends of inline pools by what passes: SYNs that are sent to them, and the SYN-ACKs
//! that come back. Nothing is sent, and no address of ours is needed.
//!
//! It is looked once a second, and an answer speaks for every SYN that came before that look: one that
//! falls silent in the same second is known by the SYNs of the next, which clients repeat.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_common::shared::{BACKEND_PRESENT, BACKEND_UP};
use tokio::time;

use crate::{address::socket, agent::Pools, config::Health};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// So many SYNs without an answer are no loss any more.
const SYNS: u64 = 3;
/// An answer may be on its way for so long: a client repeats its SYN after 1 s and after 3 s.
const PATIENCE: Duration = Duration::from_secs(3);

/// Follows what passes, for ever.
pub(in crate::agent) async fn follow(pools: Arc<Mutex<Pools>>) -> Result<()> {
    let mut watched = HashMap::new();
    let mut looks = time::interval(LOOK);
    looks.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
    loop {
        looks.tick().await;
        let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = look(&mut pools, &mut watched, Instant::now()) {
            log::error!("judge backends by what passes: {error:#}");
        }
    }
}

fn look(pools: &mut Pools, watched: &mut HashMap<SocketAddr, Watch>, now: Instant) -> Result<()> {
    let mut present = HashMap::new();
    for (id, backend) in pools.backends() {
        let seen = pools.health(backend) == Some(Health::Seen);
        if seen && backend.flags & BACKEND_PRESENT != 0 {
            let up = backend.flags & BACKEND_UP != 0;
            present.insert(socket(&backend.endpoint), (id, up));
        }
    }
    watched.retain(|address, _| present.contains_key(address));
    for (address, (id, up)) in present {
        let stats = pools.plane().backend_stats(id)?;
        let watch =
            watched.entry(address).or_insert_with(|| Watch::new(stats.syns, stats.syn_acks));
        match watch.look(stats.syns, stats.syn_acks, up, now) {
            Some(true) => log::info!("backend {address} is up again: it answered a SYN"),
            Some(false) => log::warn!(
                "backend {address} is down ({} SYNs without an answer): no connection is moved to it",
                watch.unanswered(stats.syns)
            ),
            None => continue,
        }
        pools.set_up(address, !up)?;
    }
    Ok(())
}

/// What is known of one backend's SYNs and SYN-ACKs.
#[derive(Clone, Copy, Debug)]
struct Watch {
    /// SYNs when the last answer was seen.
    answered: u64,
    /// SYN-ACKs at the last look.
    syn_acks: u64,
    /// Since when SYNs are known that nobody answered.
    waiting: Option<Instant>,
}

impl Watch {
    fn new(syns: u64, syn_acks: u64) -> Self {
        Self { answered: syns, syn_acks, waiting: None }
    }

    /// SYNs since the last answer.
    fn unanswered(&self, syns: u64) -> u64 {
        syns.saturating_sub(self.answered)
    }

    /// What the counters say now; whether the backend is up, where that changes.
    fn look(&mut self, syns: u64, syn_acks: u64, up: bool, now: Instant) -> Option<bool> {
        if syn_acks != self.syn_acks {
            *self = Self::new(syns, syn_acks);
            return (!up).then_some(true);
        }
        if self.unanswered(syns) == 0 {
            return None;
        }
        let since = *self.waiting.get_or_insert(now);
        let silent = self.unanswered(syns) >= SYNS && now.duration_since(since) >= PATIENCE;
        (up && silent).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each look in turn changes, a second apart: SYNs and SYN-ACKs so far.
    fn looks(counters: &[(u64, u64)]) -> Vec<Option<bool>> {
        let (mut up, mut now) = (true, Instant::now());
        let mut watch = Watch::new(counters[0].0, counters[0].1);
        let look = |(syns, syn_acks): &(u64, u64)| {
            let changed = watch.look(*syns, *syn_acks, up, now);
            up = changed.unwrap_or(up);
            now += LOOK;
            changed
        };
        counters.iter().map(look).collect()
    }

    #[test]
    fn three_unanswered_syns_in_three_seconds_are_down_and_the_next_answer_is_up() {
        let counters = [(9, 9), (10, 9), (11, 9), (11, 9), (12, 9), (13, 9), (14, 10), (15, 11)];
        let down = [None, None, None, None, Some(false), None, Some(true), None];
        assert_eq!(looks(&counters), down);
    }

    #[test]
    fn a_burst_whose_answers_are_on_their_way_is_waited_for() {
        let burst = [(0, 0), (500, 0), (900, 0), (900, 0), (900, 200)];
        assert_eq!(looks(&burst), [None; 5]);
        let silent = [(0, 0), (500, 0), (500, 0), (500, 0), (500, 0)];
        assert_eq!(looks(&silent), [None, None, None, None, Some(false)]);
    }

    #[test]
    fn two_syns_or_an_answer_in_between_are_no_news() {
        assert_eq!(looks(&[(0, 0), (1, 0), (2, 0), (2, 0), (2, 0), (2, 0), (2, 0)]), [None; 7]);
        assert_eq!(looks(&[(0, 0), (2, 0), (4, 1), (6, 1), (6, 2), (8, 2), (8, 3)]), [None; 7]);
    }

    #[test]
    fn syns_of_long_ago_are_forgotten_with_the_next_answer_and_an_idle_backend_stays_as_it_is() {
        assert_eq!(looks(&[(7, 5); 9]), [None; 9]);
        let counters = [(7, 5), (9, 6), (10, 6), (11, 6), (11, 6), (11, 6), (11, 6)];
        assert_eq!(looks(&counters), [None; 7]);
    }
}
