//! Whether what is asked of a backend is answered, as counters of both tell.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::plane::Plane;

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
        // What was withdrawn since is asked no more.
        self.answered = self.answered.min(asked);
        match asked - self.answered {
            0 => Look::Idle,
            n => Look::Waits(n, now.duration_since(*self.waiting.get_or_insert(now))),
        }
    }
}

/// What went to a backend so far, and what came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::agent) struct Passed {
    /// Hellos that were moved to it and whose client waits for an answer, or did.
    pub(super) moved: u64,
    /// Hellos that it answered, whatever and whosever.
    pub(super) answered: u64,
    /// SYNs of new flows.
    pub(super) syns: u64,
    /// SYN-ACKs that answered them.
    pub(super) syn_acks: u64,
}

impl Passed {
    pub(super) fn of(plane: &Plane, id: u32) -> Result<Self> {
        let (stats, answers) = (plane.backend_stats(id)?, plane.answers(id)?);
        Ok(Self {
            // Both are read while they count.
            moved: stats.rehomed.saturating_sub(answers.withdrawn),
            answered: answers.answered,
            syns: stats.syns,
            syn_acks: stats.syn_acks,
        })
    }

    /// The hellos from now on.
    pub(super) fn hellos(&self) -> Unanswered {
        Unanswered::new(self.moved, self.answered)
    }

    /// The SYNs from now on.
    pub(super) fn syns(&self) -> Unanswered {
        Unanswered::new(self.syns, self.syn_acks)
    }
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
