//! Owners that are silent: one that did not answer two moves in a row rests for some seconds, so that
//! a path which is cut costs a handful of clients their patience, not each.
//!
//! A client's own repetitions drive the tries. One whom an owner alone does not answer (a limit a
//! source, a route that is missing) must not have it rest for all others, so what counts is a silence
//! towards another client than the last one, or in another second: others' answers fall between then.

use crate::shared::Rest;

/// Moves in a row that an owner did not answer, after which it rests.
const SILENT: u16 = 2;
/// For so long, seconds.
const REST: u32 = 10;

/// Notes at `now`, seconds, that an owner did not answer a move; `client` is a hash of the client's
/// address.
#[inline(always)]
pub const fn note_silence(rest: &mut Rest, client: u32, now: u32) {
    let who = client as u8 as u16 | (now as u8 as u16) << 8;
    let (same_client, same_second) =
        ((who ^ rest.last) & 0xff == 0, (who ^ rest.last) & 0xff00 == 0);
    if rest.silent != 0 && same_client && same_second {
        return;
    }
    rest.last = who;
    rest.silent = rest.silent.saturating_add(1);
    if rest.silent >= SILENT {
        rest.until = now.wrapping_add(REST) | 1;
    }
}

/// Notes that it answered one, whatever. Only what changes is written, for all CPUs read it.
#[inline(always)]
pub const fn note_answer(rest: &mut Rest) {
    if rest.silent != 0 {
        *rest = Rest { until: 0, silent: 0, last: 0 };
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
    const CLIENT: u32 = 7;
    const OTHER: u32 = 8;

    #[test]
    fn an_owner_rests_for_ten_seconds_when_it_was_silent_to_two_clients_in_a_row() {
        let mut rest = Rest::default();
        note_silence(&mut rest, CLIENT, NOW);
        assert!(!rests(&rest, NOW), "after one");
        note_silence(&mut rest, OTHER, NOW);
        assert!(rests(&rest, NOW) && rests(&rest, NOW + 9));
        assert!(!rests(&rest, NOW + 11));
        note_silence(&mut rest, OTHER, NOW + 11);
        assert!(rests(&rest, NOW + 12), "again at once");
    }

    #[test]
    fn one_client_alone_counts_once_a_second_and_answers_to_others_end_the_count() {
        let mut rest = Rest::default();
        (0..100).for_each(|_| note_silence(&mut rest, CLIENT, NOW));
        assert!(!rests(&rest, NOW));
        note_answer(&mut rest);
        note_silence(&mut rest, CLIENT, NOW + 1);
        assert!(!rests(&rest, NOW + 1));
        note_silence(&mut rest, CLIENT, NOW + 2);
        assert!(rests(&rest, NOW + 2), "behind one address all are one");
    }

    #[test]
    fn an_answer_ends_it_and_the_count() {
        let mut rest = Rest::default();
        note_silence(&mut rest, CLIENT, NOW);
        note_silence(&mut rest, OTHER, NOW);
        note_answer(&mut rest);
        assert!(!rests(&rest, NOW));
        note_silence(&mut rest, CLIENT, NOW);
        assert!(!rests(&rest, NOW), "one is one");
    }

    #[test]
    fn the_clock_may_wrap() {
        let mut rest = Rest::default();
        note_silence(&mut rest, CLIENT, u32::MAX - 2);
        note_silence(&mut rest, OTHER, u32::MAX - 2);
        assert!(rests(&rest, u32::MAX) && rests(&rest, 2) && !rests(&rest, 9));
    }
}
