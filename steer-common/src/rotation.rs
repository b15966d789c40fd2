//! Which backend a ticket of an unknown key name is most likely of, where backends make new ticket keys at a steady interval.
//!
//! Some servers do: nginx with a shared session cache makes one every `ssl_session_timeout`. In TLS 1.3 nobody sees the new
//! name before a client offers a ticket of it. All backends of a pool have the same interval, so the next to come to a new
//! name is the one whose newest name is the oldest: among those that were seen to come to one at all, for of the others
//! (a restart, a backend that was idle) nothing is known. Bytes that never come again in another ticket are no name, so a
//! backend counts only by names that opened two tickets.

use crate::shared::{ROTATION_BACKENDS, Rotating, Rotation};

/// Names of a backend whose keys are known to change.
const CHANGED: u8 = 2;
/// Guesses in vain after which a backend is not guessed before it comes to a new name: its keys may change no more.
pub const MISSED: u8 = 8;

impl Default for Rotation {
    fn default() -> Self {
        Self { backends: [Rotating::default(); ROTATION_BACKENDS] }
    }
}

/// Notes that a key name of a backend was learned: it is the last in turn. `n` is [`ROTATION_BACKENDS`]; of a pool with more,
/// those that come last are not followed. Where two CPUs do this at once a backend may stand there twice: the older entry gives
/// its names to the last one.
#[inline(always)]
pub fn note(rotation: &mut Rotation, n: u32, backend: u16) {
    let backends = &mut rotation.backends;
    let (mut n_names, mut taken_out, mut end) = (0, 0, 0);
    for i in 0..n as usize {
        let mut this = backends[i % ROTATION_BACKENDS];
        if this.backend == 0 {
            break;
        }
        end = i + 1;
        let found = this.id() == backend;
        if found {
            n_names = this.n_names.saturating_add(n_names);
            this.n_names = 0;
        }
        if taken_out != 0 {
            backends[i.wrapping_sub(1) % ROTATION_BACKENDS] = this;
        } else if found {
            taken_out = 1;
        }
    }
    let end = end.wrapping_sub(taken_out);
    if end < ROTATION_BACKENDS {
        backends[end % ROTATION_BACKENDS] = Rotating { backend: backend.wrapping_add(1), n_names, missed: 0 };
    }
}

/// Notes that a name of a backend opened another ticket than the one by which it was learned: it is one.
#[inline(always)]
pub fn confirm(rotation: &mut Rotation, n: u32, backend: u16) {
    for i in 0..n as usize {
        let this = &mut rotation.backends[i % ROTATION_BACKENDS];
        if this.backend == backend.wrapping_add(1) {
            this.n_names = this.n_names.saturating_add(1);
            return;
        }
    }
}

/// Notes that a backend refused a ticket that it was given on a guess.
#[inline(always)]
pub fn miss(rotation: &mut Rotation, n: u32, backend: u16) {
    for i in 0..n as usize {
        let this = &mut rotation.backends[i % ROTATION_BACKENDS];
        if this.backend == backend.wrapping_add(1) {
            this.missed = this.missed.saturating_add(1);
        }
    }
}

/// Forgets a backend, whose number may become another's; whether it was there.
pub fn forget(rotation: &mut Rotation, backend: u16) -> bool {
    let (mut kept, mut n) = (Rotation::default(), 0);
    for this in rotation.backends {
        if this.backend != 0 && this.id() != backend {
            kept.backends[n] = this;
            n += 1;
        }
    }
    let was_there = kept != *rotation;
    *rotation = kept;
    was_there
}

impl Rotating {
    /// Its `BackendId`.
    #[inline(always)]
    pub const fn id(&self) -> u16 {
        self.backend.wrapping_sub(1)
    }

    /// Whether its keys are known to change.
    #[inline(always)]
    pub const fn changes(&self) -> bool {
        self.n_names >= CHANGED && self.missed < MISSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::NO_BACKEND;

    const N: u32 = ROTATION_BACKENDS as u32;

    /// Backends of which a name was learned and opened a second ticket, in turn.
    fn learned(names: &[u16]) -> Rotation {
        let mut rotation = Rotation::default();
        for backend in names {
            note(&mut rotation, N, *backend);
            confirm(&mut rotation, N, *backend);
        }
        rotation
    }

    fn next(rotation: &Rotation, tried: &[u16]) -> u16 {
        let mut may = rotation.backends.iter().filter(|known| known.changes() && !tried.contains(&known.id()));
        may.next().map_or(NO_BACKEND, Rotating::id)
    }

    #[test]
    fn nothing_is_known_of_backends_that_never_changed_their_key() {
        assert_eq!(next(&Rotation::default(), &[]), NO_BACKEND);
        assert_eq!(next(&learned(&[0, 1, 2]), &[]), NO_BACKEND);
    }

    #[test]
    fn what_never_opens_a_second_ticket_is_no_name_that_changed() {
        let mut rotation = learned(&[0, 1]);
        (0..1000).for_each(|n| note(&mut rotation, N, n % 2));
        assert_eq!(next(&rotation, &[]), NO_BACKEND);
    }

    #[test]
    fn the_one_whose_newest_name_is_the_oldest_is_next_then_the_others_in_their_order() {
        let rotation = learned(&[3, 0, 7, 7, 3, 0]);
        assert_eq!(next(&rotation, &[]), 7);
        assert_eq!(next(&rotation, &[7]), 3);
        assert_eq!(next(&rotation, &[7, 3]), 0);
        assert_eq!(next(&rotation, &[7, 3, 0]), NO_BACKEND);
    }

    #[test]
    fn a_backend_that_came_to_its_new_name_is_the_last_in_turn() {
        assert_eq!(next(&learned(&[0, 1, 0, 1]), &[]), 0);
        assert_eq!(next(&learned(&[0, 1, 0, 1, 0]), &[]), 1);
        assert_eq!(next(&learned(&[0, 1, 0, 1, 1]), &[]), 0, "the last one again");
    }

    #[test]
    fn one_that_refuses_all_it_is_given_is_passed_over_until_its_key_changes_again() {
        let mut rotation = learned(&[0, 1, 0, 1]);
        (0..MISSED - 1).for_each(|_| miss(&mut rotation, N, 0));
        assert_eq!(next(&rotation, &[]), 0);
        miss(&mut rotation, N, 0);
        assert_eq!(next(&rotation, &[]), 1);
        note(&mut rotation, N, 0);
        assert_eq!(next(&rotation, &[1]), 0);
    }

    #[test]
    fn whatever_the_order_of_events_a_steady_pool_is_foretold_from_the_third_key_on() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut rotation = Rotation::default();
            for round in 0..5 {
                for backend in order {
                    assert!(round < 2 || next(&rotation, &[]) == backend, "{order:?}, round {round}");
                    note(&mut rotation, N, backend);
                    confirm(&mut rotation, N, backend);
                }
            }
        }
    }

    #[test]
    fn the_sixty_fifth_backend_is_not_followed_and_does_no_harm() {
        let mut rotation = Rotation::default();
        for _ in 0..3 {
            (0..N + 5).for_each(|backend| note(&mut rotation, N, backend as u16));
            (0..N + 5).for_each(|backend| confirm(&mut rotation, N, backend as u16));
        }
        let followed = rotation.backends.iter().map(Rotating::id);
        assert!(followed.eq(0..N as u16) && rotation.backends.iter().all(|known| known.n_names == 3));
    }

    #[test]
    fn of_one_that_a_race_left_twice_the_last_entry_counts() {
        let mut rotation = learned(&[2, 1, 0, 2, 1, 0]);
        rotation.backends[3] = rotation.backends[0];
        for round in 0..4 {
            assert!(round == 0 || next(&rotation, &[]) == 1, "round {round}");
            for backend in [2, 1, 0] {
                note(&mut rotation, N, backend);
                confirm(&mut rotation, N, backend);
                let places = rotation.backends.iter().filter(|known| known.id() == 2).count();
                assert_eq!(places, 2, "it takes one place more, and no third one");
            }
            assert_eq!(next(&rotation, &[]), 2);
            note(&mut rotation, N, 2);
        }
    }

    #[test]
    fn a_backend_that_is_gone_leaves_no_place() {
        let mut rotation = learned(&[3, 0, 7]);
        assert!(forget(&mut rotation, 0) && !forget(&mut rotation, 0));
        assert_eq!(rotation.backends.map(|known| known.backend)[..3], [4, 8, 0]);
    }
}
