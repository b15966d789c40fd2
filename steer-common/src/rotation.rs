//! Which backend a ticket of an unknown key name is most likely of, where backends make new ticket
//! keys at a steady interval.
//!
//! Some servers do: nginx with a shared session cache makes one every `ssl_session_timeout`. In TLS
//! 1.3 nobody sees the new name before a client offers a ticket of it. What is seen is when a
//! backend answered a hello: it issued tickets then, under the newest name that is known of it as
//! long as that was in use, and then under one that is not known. All backends of a pool have the
//! same interval, so the one that went on answering the longest after its newest name was learned
//! is the most likely; one that has been idle since is not. Bytes that never come again in another
//! ticket are no name, so names count once they opened two tickets.

use crate::shared::{ROTATION_BACKENDS, Rotating, Rotation, backend_place};

/// Names of a backend whose keys are known to change.
const CHANGED: u8 = 2;
/// Guesses in vain after which a backend is not guessed before it comes to a new name: its keys may
/// change no more.
pub const MISSED: u8 = 8;

impl Default for Rotation {
    fn default() -> Self {
        Self { backends: [Rotating::default(); ROTATION_BACKENDS], changes: 0 }
    }
}

/// The entry of a backend; where the place is another's, that one is forgotten.
#[inline(always)]
fn entry(rotation: &mut Rotation, backend: u16) -> &mut Rotating {
    let entry = &mut rotation.backends[backend_place(backend)];
    if entry.backend != backend.wrapping_add(1) {
        *entry = Rotating { backend: backend.wrapping_add(1), ..Rotating::default() };
    }
    entry
}

/// Notes that a backend answered a hello of TLS 1.3.
#[inline(always)]
pub fn answered(rotation: &mut Rotation, backend: u16, now: u32) {
    let entry = entry(rotation, backend);
    entry.active = now;
    if entry.since == 0 {
        entry.since = now;
    }
}

/// Notes that a key name of a backend was learned.
#[inline(always)]
pub fn note(rotation: &mut Rotation, backend: u16, now: u32) {
    let entry = entry(rotation, backend);
    (entry.since, entry.missed) = (now, 0);
}

/// Notes that a name of a backend opened another ticket than the one by which it was learned: it is
/// one.
#[inline(always)]
pub fn confirm(rotation: &mut Rotation, backend: u16) {
    let entry = entry(rotation, backend);
    entry.n_names = entry.n_names.saturating_add(1);
    if entry.n_names >= CHANGED {
        rotation.changes = 1;
    }
}

/// Notes that a backend refused a ticket that it was given on a guess.
#[inline(always)]
pub fn miss(rotation: &mut Rotation, backend: u16) {
    let entry = entry(rotation, backend);
    entry.missed = entry.missed.saturating_add(1);
}

/// Forgets a backend, whose number may become another's; whether it was there.
pub fn forget(rotation: &mut Rotation, backend: u16) -> bool {
    let entry = &mut rotation.backends[backend_place(backend)];
    let was_there = entry.backend == backend.wrapping_add(1);
    if was_there {
        *entry = Rotating::default();
    }
    was_there
}

impl Rotating {
    /// Its `BackendId`.
    #[inline(always)]
    pub const fn id(&self) -> u16 {
        self.backend.wrapping_sub(1)
    }

    /// How likely a ticket of an unknown name is of this backend: for how many seconds it went on
    /// answering after its newest name was learned, or after its first answer where none was, and
    /// one more. 0: it is no guess.
    #[inline(always)]
    pub const fn overdue(&self) -> u32 {
        if self.backend == 0 || self.missed >= MISSED {
            return 0;
        }
        self.active.saturating_sub(self.since).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::NO_BACKEND;

    /// Names that were learned of backends and opened a second ticket, second by second; each
    /// backend goes on answering.
    fn learned(names: &[u16]) -> Rotation {
        let mut rotation = Rotation::default();
        for (now, backend) in (100..).zip(names) {
            note(&mut rotation, *backend, now);
            confirm(&mut rotation, *backend);
        }
        names.iter().for_each(|backend| answered(&mut rotation, *backend, 200));
        rotation
    }

    fn next(rotation: &Rotation, tried: &[u16]) -> u16 {
        let may = rotation
            .backends
            .iter()
            .filter(|known| !tried.contains(&known.id()) && known.overdue() > 0);
        may.max_by_key(|known| known.overdue()).map_or(NO_BACKEND, Rotating::id)
    }

    #[test]
    fn keys_change_where_two_names_of_one_backend_opened_two_tickets_each() {
        assert_eq!(Rotation::default().changes, 0);
        assert_eq!(learned(&[0, 1, 2]).changes, 0);
        assert_eq!(learned(&[0, 1, 2, 1]).changes, 1);
    }

    #[test]
    fn what_never_opens_a_second_ticket_is_no_name_that_changed() {
        let mut rotation = learned(&[0, 1]);
        (0..1000).for_each(|n| note(&mut rotation, n % 2, n.into()));
        assert_eq!(rotation.changes, 0);
    }

    #[test]
    fn the_one_that_went_on_the_longest_after_its_newest_name_is_next_then_the_others_in_their_order()
     {
        let rotation = learned(&[3, 0, 7, 7, 3, 0]);
        assert_eq!(next(&rotation, &[]), 7);
        assert_eq!(next(&rotation, &[7]), 3);
        assert_eq!(next(&rotation, &[7, 3]), 0);
        assert_eq!(next(&rotation, &[7, 3, 0]), NO_BACKEND);
    }

    #[test]
    fn one_that_has_been_idle_since_its_newest_name_comes_last() {
        let mut rotation = learned(&[3, 0, 7, 7, 3, 0]);
        answered(&mut rotation, 7, 104);
        assert_eq!(next(&rotation, &[]), 3);
        assert_eq!(next(&rotation, &[3, 0]), 7, "it is a guess still");
    }

    #[test]
    fn one_of_which_no_name_is_known_counts_from_its_first_answer() {
        let mut rotation = learned(&[3, 0]);
        [99, 150].into_iter().for_each(|now| answered(&mut rotation, 9, now));
        answered(&mut rotation, 8, 200);
        assert_eq!(next(&rotation, &[]), 3);
        answered(&mut rotation, 9, 200);
        assert_eq!(next(&rotation, &[]), 9);
        assert_eq!(next(&rotation, &[9, 3, 0]), 8, "it is a guess as well");
    }

    #[test]
    fn one_that_refuses_all_it_is_given_is_passed_over_until_its_key_changes_again() {
        let mut rotation = learned(&[0, 1, 0, 1]);
        (0..MISSED - 1).for_each(|_| miss(&mut rotation, 0));
        assert_eq!(next(&rotation, &[]), 0);
        miss(&mut rotation, 0);
        assert_eq!(next(&rotation, &[]), 1);
        note(&mut rotation, 0, 199);
        assert_eq!(next(&rotation, &[1]), 0);
    }

    #[test]
    fn a_backend_that_is_forgotten_is_no_guess_and_the_others_are() {
        let mut rotation = learned(&[0, 1, 0, 1]);
        assert!(
            forget(&mut rotation, 0) && !forget(&mut rotation, 0) && !forget(&mut rotation, 64)
        );
        assert_eq!((next(&rotation, &[]), next(&rotation, &[1])), (1, NO_BACKEND));
    }

    #[test]
    fn of_two_backends_with_one_place_the_last_one_has_it() {
        let mut rotation = learned(&[1, 1]);
        confirm(&mut rotation, 65);
        assert_eq!((next(&rotation, &[]), rotation.backends[1].n_names), (65, 1));
        answered(&mut rotation, 1, 300);
        assert_eq!(next(&rotation, &[]), 1);
    }
}
