//! What passes to a backend and is not answered: it makes a suspect of one whose probes succeed.
//!
//! Hellos that were moved to it and never answered tell of a process that hangs behind a kernel that
//! lives; SYNs without an answer of a path that is cut. Neither is proof: whoever has a session can
//! send hellos that no server answers so that it is seen. So a probe has the last word.

use std::time::{Duration, Instant};

use steer_common::shared::BackendStats;

use super::unanswered::{Look, Unanswered, answered_hellos};

/// An answer may be on its way for so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// So many SYNs without an answer are no loss any more.
const SYNS: u64 = 3;

/// What is known of one backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    hellos: Unanswered,
    syns: Unanswered,
    stats: BackendStats,
    of_process: bool,
}

impl Suspicion {
    pub(super) fn new(stats: &BackendStats) -> Self {
        Self {
            hellos: Unanswered::new(stats.rehomed, answered_hellos(stats)),
            syns: Unanswered::new(stats.syns, stats.syn_acks),
            stats: *stats,
            of_process: false,
        }
    }

    /// What the counters say now: how many failed probes what waits is worth.
    pub(super) fn hear(&mut self, stats: &BackendStats, now: Instant) -> u64 {
        self.stats = *stats;
        let hellos = self.hellos.look(stats.rehomed, answered_hellos(stats), now);
        let syns = self.syns.look(stats.syns, stats.syn_acks, now);
        if let Look::Waits(n, time) = hellos
            && time >= PATIENCE
        {
            self.of_process = true;
            return n;
        }
        match syns {
            // Where none ever came back, answers go round the gateway: a probe is no wiser.
            Look::Waits(n, time) if n >= SYNS && time >= PATIENCE && stats.syn_acks > 0 => {
                // Each of them has one probe made, however long no answer comes.
                self.syns = Unanswered::new(stats.syns, stats.syn_acks);
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
        *self = Self::new(&self.stats);
    }
}

#[cfg(test)]
mod tests {
    use steer_common::shared::Outcomes;

    use super::*;

    fn stats(rehomed: u64, answered: u64, syns: u64, syn_acks: u64) -> BackendStats {
        let tls12 = Outcomes { rejected: answered, ..Outcomes::default() };
        BackendStats { rehomed, tls12, syns, syn_acks, ..BackendStats::default() }
    }

    /// What each look in turn says, half a second apart.
    fn looks(all: &[BackendStats]) -> (Vec<u64>, Suspicion) {
        let (mut now, mut suspicion) = (Instant::now(), Suspicion::new(&all[0]));
        let look = |stats| {
            now += PATIENCE / 2;
            suspicion.hear(stats, now)
        };
        (all.iter().map(look).collect(), suspicion)
    }

    #[test]
    fn moved_hellos_are_evidence_when_none_was_answered_for_a_while() {
        let silent = [(4, 4), (5, 4), (6, 4), (7, 4), (7, 4)].map(|(n, k)| stats(n, k, 0, 0));
        let (evidence, suspicion) = looks(&silent);
        assert_eq!((evidence, suspicion.is_of_process()), (vec![0, 0, 0, 3, 3], true));
        let busy = [(4, 4), (9, 4), (12, 5), (20, 9), (20, 9)].map(|(n, k)| stats(n, k, 0, 0));
        let (evidence, suspicion) = looks(&busy);
        assert_eq!((evidence, suspicion.is_of_process()), (vec![0; 5], false));
    }

    #[test]
    fn syns_are_evidence_once_and_only_where_answers_came_back_before() {
        let cut = |acks| [0, 3, 4, 5, 5, 5].map(|n| stats(0, 0, 9 + n, acks));
        let (evidence, suspicion) = looks(&cut(9));
        assert_eq!((evidence, suspicion.is_of_process()), (vec![0, 0, 0, 5, 0, 0], false));
        assert_eq!(looks(&cut(0)).0, [0; 6]);
    }
}
