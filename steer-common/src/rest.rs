//! Owners that are silent: one that did not answer two moves in a row rests for some seconds, so that
//! a path which is cut costs a handful of clients their patience, not each. A client's own repetitions
//! drive the tries, a tenth of a second apart at least, so nobody has an owner rest that answers.

use crate::shared::Rest;

/// Moves in a row that an owner did not answer, after which it rests.
const SILENT: u32 = 2;
/// For so long, seconds.
const REST: u32 = 10;

/// Notes at `now`, seconds, that an owner did not answer a move.
#[inline(always)]
pub const fn note_silence(rest: &mut Rest, now: u32) {
    rest.silent = rest.silent.saturating_add(1);
    if rest.silent >= SILENT {
        rest.until = now.wrapping_add(REST) | 1;
    }
}

/// Notes that it answered one. Only what changes is written, for all CPUs read it.
#[inline(always)]
pub const fn note_answer(rest: &mut Rest) {
    if rest.silent != 0 {
        *rest = Rest { until: 0, silent: 0 };
    }
}

/// Whether an owner rests at `now`, seconds. When that is over one more silence has it rest again.
#[inline(always)]
pub const fn rests(rest: &Rest, now: u32) -> bool {
    rest.until != 0 && (rest.until.wrapping_sub(now) as i32) > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 5000;

    #[test]
    fn an_owner_rests_for_ten_seconds_when_two_moves_in_a_row_found_it_silent() {
        let mut rest = Rest::default();
        note_silence(&mut rest, NOW);
        assert!(!rests(&rest, NOW), "after one");
        note_silence(&mut rest, NOW);
        assert!(rests(&rest, NOW) && rests(&rest, NOW + 9));
        assert!(!rests(&rest, NOW + 11));
        note_silence(&mut rest, NOW + 11);
        assert!(rests(&rest, NOW + 12), "again at once");
    }

    #[test]
    fn an_answer_ends_it_and_the_count() {
        let mut rest = Rest::default();
        note_silence(&mut rest, NOW);
        note_silence(&mut rest, NOW);
        note_answer(&mut rest);
        assert!(!rests(&rest, NOW));
        note_silence(&mut rest, NOW);
        assert!(!rests(&rest, NOW), "one is one");
    }

    #[test]
    fn the_clock_may_wrap() {
        let mut rest = Rest::default();
        note_silence(&mut rest, u32::MAX - 2);
        note_silence(&mut rest, u32::MAX - 2);
        assert!(rests(&rest, u32::MAX) && rests(&rest, 2) && !rests(&rest, 9));
    }
}
