//! Judges the backends of inline pools by what passes: SYNs that are sent to them, and the SYN-ACKs
//! that come back; hellos that are moved to them, and the answers, whatever they say (an alert, or an
//! end, is one). Nothing is sent, and no address of ours is needed. Hellos whose client resets before
//! it is answered say nothing: else one client could keep all others away from its own owner.
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
use steer_common::shared::BACKEND_PRESENT;
use tokio::time;

use super::unanswered::{Look, Passed, Unanswered};
use crate::{
    address::socket,
    agent::{Pools, pools::answers},
    config::Health,
};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// So many SYNs without an answer are no loss any more.
const SYNS: u64 = 3;
/// So many moved hellos without an answer are no chance any more.
const HELLOS: u64 = 3;
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
            present.insert(socket(&backend.endpoint), (id, answers(backend.flags)));
        }
    }
    watched.retain(|address, _| present.contains_key(address));
    for (address, (id, up)) in present {
        let passed = Passed::of(pools.plane(), id)?;
        let watch = watched.entry(address).or_insert_with(|| Watch::new(&passed, up));
        let (n, what) = match watch.look(&passed, up, now) {
            None => continue,
            Some(News::Up) => {
                log::info!("backend {address} is up again: it answers");
                pools.set_up(address, true)?;
                continue;
            }
            Some(News::NoSynAck(n)) => (n, "SYNs"),
            Some(News::NoAnswer(n)) => (n, "hellos that were moved there"),
        };
        log::warn!(
            "backend {address} is down ({n} {what} without an answer): no connection is moved to it"
        );
        pools.set_up(address, false)?;
    }
    Ok(())
}

/// What is known of one backend.
#[derive(Clone, Copy, Debug)]
struct Watch {
    syns: Unanswered,
    hellos: Unanswered,
    /// Its process hangs: what its kernel answers says nothing.
    hangs: bool,
}

/// What a look tells that changes a backend's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum News {
    Up,
    /// So many SYNs had no answer.
    NoSynAck(u64),
    /// So many hellos that were moved there had no answer.
    NoAnswer(u64),
}

impl Watch {
    /// Of a backend that is up, or of one that is down: then a SYN-ACK alone does not show that its
    /// process is there.
    fn new(passed: &Passed, up: bool) -> Self {
        Self { syns: passed.syns(), hellos: passed.hellos(), hangs: !up }
    }

    /// What the counters say now, where that changes what the backend is.
    fn look(&mut self, passed: &Passed, up: bool, now: Instant) -> Option<News> {
        let hellos = self.hellos.look(passed.moved, passed.answered, now);
        let syns = self.syns.look(passed.syns, passed.syn_acks, now);
        let silent = |look, least| match look {
            Look::Waits(n, time) if n >= least && time >= PATIENCE => Some(n),
            Look::Waits(..) | Look::Answered | Look::Idle => None,
        };
        if hellos == Look::Answered {
            self.hangs = false;
        } else if let Some(n) = silent(hellos, HELLOS).filter(|_| !self.hangs) {
            self.hangs = true;
            return up.then_some(News::NoAnswer(n));
        }
        if self.hangs {
            return None;
        }
        if syns == Look::Answered || hellos == Look::Answered {
            return (!up).then_some(News::Up);
        }
        silent(syns, SYNS).filter(|_| up).map(News::NoSynAck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each look in turn changes, a second apart.
    fn looks_at(all: &[Passed]) -> Vec<Option<News>> {
        let (mut up, mut now) = (true, Instant::now());
        let mut watch = Watch::new(&all[0], up);
        let look = |passed| {
            let changed = watch.look(passed, up, now);
            up = changed.map_or(up, |news| news == News::Up);
            now += LOOK;
            changed
        };
        all.iter().map(look).collect()
    }

    /// The same of SYNs and SYN-ACKs so far; whether the backend is up then.
    fn looks(counters: &[(u64, u64)]) -> Vec<Option<bool>> {
        let passed = |(syns, syn_acks): &(u64, u64)| Passed {
            syns: *syns,
            syn_acks: *syn_acks,
            ..Passed::default()
        };
        let all = counters.iter().map(passed).collect::<Vec<_>>();
        looks_at(&all).into_iter().map(|news| news.map(|news| news == News::Up)).collect()
    }

    #[test]
    fn three_moved_hellos_without_an_answer_are_down_until_one_is_answered_whatever_its_kernel_does()
     {
        let at = |moved, answered, syns| Passed { moved, answered, syns, syn_acks: syns };
        let all = [
            at(5, 5, 9),
            at(7, 5, 11),
            at(8, 5, 12),
            at(8, 5, 13),
            at(8, 5, 14),
            at(8, 5, 15),
            at(8, 5, 16),
            at(8, 6, 17),
        ];
        let down = Some(News::NoAnswer(3));
        assert_eq!(looks_at(&all), [None, None, None, None, down, None, None, Some(News::Up)]);
        // Two are no news, and neither are many of which one was answered.
        assert_eq!(
            looks_at(&[(5, 5), (7, 5), (7, 5), (7, 5), (7, 5)].map(|(n, k)| at(n, k, 9))),
            [None; 5]
        );
        assert_eq!(
            looks_at(&[(5, 5), (8, 5), (9, 6), (9, 6), (9, 6)].map(|(n, k)| at(n, k, 9))),
            [None; 5]
        );
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
