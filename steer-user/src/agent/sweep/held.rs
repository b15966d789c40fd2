//! What each backend holds: connections that are open there, and sessions and key names that lead to
//! it. `steer backends list` shows it, and `drain --wait` goes by it.

use serde::{Deserialize, Serialize};
use steer_common::{
    flow::{State, StateWord},
    shared::{Flow, MAX_BACKENDS},
};

use crate::clock;

/// What backends held when a sweep went by.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Held {
    /// When the sweep began, nanoseconds of CLOCK_MONOTONIC: nothing here is older.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// Those that hold anything.
    pub backends: Vec<Holding>,
}

/// What one backend holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Holding {
    /// Its `BackendId`.
    pub backend: u16,
    /// Connections that are not over, those that are being made among them.
    pub flows: u64,
    /// Sessions that lead to it.
    pub sessions: u64,
    /// Names of ticket keys that lead to it.
    pub key_names: u64,
}

impl Held {
    /// What a backend holds.
    pub fn of(&self, id: u32) -> Holding {
        let found = self.backends.iter().find(|held| u32::from(held.backend) == id);
        found.copied().unwrap_or_default()
    }

    /// How old what is said here may be at `now`, nanoseconds; in seconds, rounded up.
    pub fn age_seconds(&self, now: u64) -> u32 {
        now.saturating_sub(self.began).div_ceil(1_000_000_000) as u32
    }
}

/// Counts while tables are walked.
pub(super) struct Tally {
    began: u64,
    backends: Vec<Holding>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let none = |backend| Holding { backend, ..Holding::default() };
        Self { began: clock::nanoseconds(), backends: (0..MAX_BACKENDS as u16).map(none).collect() }
    }

    /// Counts a connection that is not over: at its backend, and while it moves also at the one that
    /// it moves to.
    pub(super) fn flow(&mut self, flow: &Flow) {
        self.note(flow.holder(), |held| held.flows += 1);
        if StateWord(flow.word).is(State::Wait) && flow.owner != flow.first {
            self.note(flow.owner, |held| held.flows += 1);
        }
    }

    pub(super) fn session(&mut self, owner: u16) {
        self.note(owner, |held| held.sessions += 1);
    }

    pub(super) fn key_name(&mut self, owner: u16) {
        self.note(owner, |held| held.key_names += 1);
    }

    fn note(&mut self, backend: u16, note: impl FnOnce(&mut Holding)) {
        if let Some(held) = self.backends.get_mut(usize::from(backend)) {
            note(held);
        }
    }

    pub(super) fn finish(self) -> Held {
        let holds = |held: &Holding| held.flows + held.sessions + held.key_names > 0;
        let backends = self.backends.into_iter().filter(holds).collect();
        Held { began: self.began, ended: clock::nanoseconds(), backends }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(state: State) -> Flow {
        Flow { word: StateWord::new(state, 1).0, first: 3, owner: 5, ..Flow::default() }
    }

    #[test]
    fn a_flow_counts_where_it_is_and_one_that_moves_at_both_ends() {
        for (state, at_first, at_owner) in [
            (State::Syn, 1, 0),
            (State::Established, 1, 0),
            (State::Wait, 1, 1),
            (State::Spliced, 0, 1),
            (State::First, 1, 0),
            (State::Adopted, 1, 0),
        ] {
            let mut tally = Tally::new();
            tally.flow(&flow(state));
            let held = tally.finish();
            assert_eq!((held.of(3).flows, held.of(5).flows), (at_first, at_owner), "{state:?}");
        }
    }

    #[test]
    fn who_holds_nothing_and_numbers_that_are_nobodys_are_left_out() {
        let mut tally = Tally::new();
        tally.session(7);
        tally.session(7);
        tally.key_name(7);
        tally.session(u16::MAX);
        let held = tally.finish();
        assert_eq!(held.backends, [Holding { backend: 7, flows: 0, sessions: 2, key_names: 1 }]);
        assert_eq!(held.of(8), Holding::default());
    }

    #[test]
    fn its_age_counts_from_when_it_began() {
        let held = Held { began: 5_000_000_000, ended: 6_000_000_000, backends: Vec::new() };
        assert_eq!(
            [5_000_000_000, 5_000_000_001, 7_000_000_000, 1].map(|now| held.age_seconds(now)),
            [0, 1, 2, 0]
        );
    }
}
