//! What passes to a backend and is not answered: it makes a suspect of one whose probes succeed.
//!
//! Hellos that were moved to it and never answered tell of a process that hangs behind a kernel that
//! lives; SYNs without an answer of a path that is cut. Neither is proof: whoever has a session can
//! send hellos that no server answers so that it is seen. So a probe has the last word.

use std::time::{Duration, Instant};

use super::unanswered::{Look, Passed, Unanswered};

/// An answer may be on its way for so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// So many SYNs without an answer are no loss any more.
const SYNS: u64 = 3;

/// What is known of one backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    hellos: Unanswered,
    syns: Unanswered,
    passed: Passed,
    of_process: bool,
}

impl Suspicion {
    /// Of a backend that is up, or of one that is down: then nobody knows why, and its kernel alone
    /// does not speak for it.
    pub(super) fn new(passed: &Passed, up: bool) -> Self {
        Self { hellos: passed.hellos(), syns: passed.syns(), passed: *passed, of_process: !up }
    }

    /// What the counters say now: how many failed probes what waits is worth.
    pub(super) fn hear(&mut self, passed: &Passed, now: Instant) -> u64 {
        self.passed = *passed;
        let hellos = self.hellos.look(passed.moved, passed.answered, now);
        let syns = self.syns.look(passed.syns, passed.syn_acks, now);
        if let Look::Waits(n, time) = hellos
            && time >= PATIENCE
        {
            self.of_process = true;
            return n;
        }
        match syns {
            // Where none ever came back, answers go round the gateway: a probe is no wiser.
            Look::Waits(n, time) if n >= SYNS && time >= PATIENCE && passed.syn_acks > 0 => {
                // Each of them has one probe made, however long no answer comes.
                self.syns = passed.syns();
                n
            }
            Look::Waits(..) | Look::Answered | Look::Idle => 0,
        }
    }

    /// Whether the process is suspected to hang: its kernel cannot speak for it.
    pub(super) const fn is_of_process(&self) -> bool {
        self.of_process
    }

    /// The backend is cleared of all that was heard so far.
    pub(super) fn end(&mut self) {
        *self = Self::new(&self.passed, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(moved: u64, answered: u64, syns: u64, syn_acks: u64) -> Passed {
        Passed { moved, answered, syns, syn_acks }
    }

    /// What each look in turn says, half a second apart.
    fn looks(all: &[Passed]) -> (Vec<u64>, Suspicion) {
        let (mut now, mut suspicion) = (Instant::now(), Suspicion::new(&all[0], true));
        let look = |passed| {
            now += PATIENCE / 2;
            suspicion.hear(passed, now)
        };
        (all.iter().map(look).collect(), suspicion)
    }

    #[test]
    fn moved_hellos_are_evidence_when_none_was_answered_for_a_while() {
        let silent = [(4, 4), (5, 4), (6, 4), (7, 4), (7, 4)].map(|(n, k)| passed(n, k, 0, 0));
        let (evidence, suspicion) = looks(&silent);
        assert_eq!((evidence, suspicion.is_of_process()), (vec![0, 0, 0, 3, 3], true));
        let busy = [(4, 4), (9, 4), (12, 5), (20, 9), (20, 9)].map(|(n, k)| passed(n, k, 0, 0));
        let (evidence, suspicion) = looks(&busy);
        assert_eq!((evidence, suspicion.is_of_process()), (vec![0; 5], false));
    }

    #[test]
    fn syns_are_evidence_once_and_only_where_answers_came_back_before() {
        let cut = |acks| [0, 3, 4, 5, 5, 5].map(|n| passed(0, 0, 9 + n, acks));
        let (evidence, suspicion) = looks(&cut(9));
        assert_eq!((evidence, suspicion.is_of_process()), (vec![0, 0, 0, 5, 0, 0], false));
        assert_eq!(looks(&cut(0)).0, [0; 6]);
    }

    #[test]
    fn one_that_is_down_already_is_asked_for_more_than_its_kernels_answer() {
        let passed = Passed::default();
        assert!(Suspicion::new(&passed, false).is_of_process());
        assert!(!Suspicion::new(&passed, true).is_of_process());
    }
}
