//! Whether what is asked of a backend is answered, as counters of both tell.

use std::time::{Duration, Instant};

use steer_common::shared::{BackendStats, Outcomes};

/// Two counters at the last look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unanswered {
    /// What was asked when the last answer was seen.
    answered: u64,
    /// Answers at the last look.
    answers: u64,
    /// Since when it is known that something waits.
    waiting: Option<Instant>,
}

/// What a look tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// An answer came. It speaks for all that was asked before.
    Answered,
    /// Nothing waits.
    Idle,
    /// So much waits, and the first of it for so long at least.
    Waits(u64, Duration),
}

impl Unanswered {
    /// Nothing waits that was asked so far.
    pub(super) fn new(asked: u64, answers: u64) -> Self {
        Self { answered: asked, answers, waiting: None }
    }

    /// What the counters say now.
    pub(super) fn look(&mut self, asked: u64, answers: u64, now: Instant) -> Look {
        if answers != self.answers {
            *self = Self::new(asked, answers);
            return Look::Answered;
        }
        match asked.saturating_sub(self.answered) {
            0 => Look::Idle,
            n => Look::Waits(n, now.duration_since(*self.waiting.get_or_insert(now))),
        }
    }
}

/// Hellos that a backend answered so that it was seen what came of them.
pub(super) fn answered_hellos(stats: &BackendStats) -> u64 {
    let of =
        |Outcomes { accepted, rejected, not_offered }: Outcomes| accepted + rejected + not_offered;
    of(stats.tls12) + of(stats.tls13)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_speaks_for_all_that_was_asked_before_it() {
        let (mut now, second) = (Instant::now(), Duration::from_secs(1));
        let mut hellos = Unanswered::new(7, 5);
        let mut look = |asked, answers| {
            now += second;
            hellos.look(asked, answers, now)
        };
        assert_eq!(look(7, 5), Look::Idle, "what was there before is no news");
        assert_eq!(look(9, 5), Look::Waits(2, Duration::ZERO));
        assert_eq!(look(10, 5), Look::Waits(3, second));
        assert_eq!(look(12, 6), Look::Answered);
        assert_eq!(look(12, 6), Look::Idle);
        assert_eq!(look(13, 6), Look::Waits(1, Duration::ZERO), "its time counts anew");
    }
}
