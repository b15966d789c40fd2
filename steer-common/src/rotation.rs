//! Which backend a ticket of an unknown key name is most likely of, where backends make new ticket keys at a steady interval.
//!
//! Some servers do: nginx with a shared session cache makes one every `ssl_session_timeout`. In TLS 1.3 nobody sees the new
//! name before a client offers a ticket of it. All backends of a pool have the same interval, so the next to come to a new
//! name is the one whose newest name is the oldest: among those that were seen to come to one at all, for of the others
//! (a restart, a backend that was idle) nothing is known.

use crate::shared::{ROTATION_BACKENDS, Rotating, Rotation};

/// Key names that were learned of a backend whose keys are known to change.
const CHANGED: u16 = 2;

impl Default for Rotation {
    fn default() -> Self {
        Self { backends: [Rotating::default(); ROTATION_BACKENDS] }
    }
}

/// Notes that a key name of a backend was learned: it is the last in turn. `n` is [`ROTATION_BACKENDS`]; of a pool with more,
/// those that come last are not followed.
#[inline(always)]
pub fn note(rotation: &mut Rotation, n: u32, backend: u16) {
    let backends = &mut rotation.backends;
    let (mut known, mut end) = (Rotating { backend, n_names: 0 }, 0);
    for i in 0..n as usize {
        let this = backends[i % ROTATION_BACKENDS];
        if this.n_names == 0 {
            break;
        }
        if known.n_names != 0 {
            backends[i.wrapping_sub(1) % ROTATION_BACKENDS] = this;
        } else if this.backend == backend {
            known.n_names = this.n_names;
        }
        end = i + 1;
    }
    if known.n_names != 0 {
        end = end.wrapping_sub(1);
    }
    if end < ROTATION_BACKENDS {
        backends[end % ROTATION_BACKENDS] = Rotating { n_names: known.n_names.saturating_add(1), ..known };
    }
}

impl Rotating {
    /// Whether its keys are known to change.
    #[inline(always)]
    pub const fn changes(&self) -> bool {
        self.n_names >= CHANGED
    }

    /// It is down, or in another pool: it is not next before it is seen to change its key again.
    #[inline(always)]
    pub const fn put_back(&mut self) {
        self.n_names = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::NO_BACKEND;

    const N: u32 = ROTATION_BACKENDS as u32;

    /// Backends of which a name was learned, in turn.
    fn learned(names: &[u16]) -> Rotation {
        let mut rotation = Rotation::default();
        names.iter().for_each(|backend| note(&mut rotation, N, *backend));
        rotation
    }

    fn next(rotation: &Rotation, tried: &[u16]) -> u16 {
        let mut may = rotation.backends.iter().filter(|known| known.changes() && !tried.contains(&known.backend));
        may.next().map_or(NO_BACKEND, |known| known.backend)
    }

    #[test]
    fn nothing_is_known_of_backends_that_never_changed_their_key() {
        assert_eq!(next(&Rotation::default(), &[]), NO_BACKEND);
        assert_eq!(next(&learned(&[0, 1, 2]), &[]), NO_BACKEND);
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
    fn one_that_is_put_back_is_passed_over_until_its_key_changes_again() {
        let mut rotation = learned(&[0, 1, 0, 1]);
        rotation.backends[0].put_back();
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
                }
            }
        }
    }

    #[test]
    fn the_sixty_fifth_backend_is_not_followed_and_does_no_harm() {
        let mut rotation = Rotation::default();
        for _ in 0..3 {
            (0..N + 5).for_each(|backend| note(&mut rotation, N, backend as u16));
        }
        let followed = rotation.backends.iter().map(|known| known.backend);
        assert!(followed.eq(0..N as u16) && rotation.backends.iter().all(|known| known.n_names == 3));
    }
}
