//! Backends that refuse what they are held to own: some stacks issue sessions and accept none, for
//! their keys live no longer than a connection. Moving flows to them is in vain, so after a number
//! of refusals in a row only few are moved. One that is accepted ends that at once, and for a long
//! time: whoever makes a backend refuse what he made up keeps nobody from it.

use crate::shared::{OFFER_KINDS, Refusals};

/// What a flow was sent to its owner by. The number is the index into [`Refusals`].
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// A session ID that is known.
    SessionId = 0,
    /// A ticket that is known by itself.
    Ticket = 1,
    /// The name of a ticket's key. That a backend refused a name that nobody knows tells nothing:
    /// it was a guess.
    KeyName = 2,
}

const _: () = assert!(Offer::KeyName as usize + 1 == OFFER_KINDS);

/// Refusals in a row after which a backend gets few.
pub const REFUSED: u16 = 8;
/// Of so many one is sent to it all the same.
pub const TRIED: u16 = 16;
/// A backend that accepted one so lately gets all, seconds.
pub const LATELY: u32 = 3600;
/// What is written of an acceptance is as old as that at most, seconds.
const STEP: u32 = 60;

/// Notes what a backend made of an offer. Only what changes is written, for all CPUs read it.
#[inline(always)]
pub fn note(refusals: &mut Refusals, offer: Offer, accepted: bool, seconds: u32) {
    let i = offer as usize;
    if !accepted {
        refusals.in_a_row[i] = refusals.in_a_row[i].saturating_add(1);
        return;
    }
    if refusals.in_a_row[i] != 0 {
        refusals.in_a_row[i] = 0;
    }
    if refusals.accepted[i] == 0 || seconds.wrapping_sub(refusals.accepted[i]) >= STEP {
        refusals.accepted[i] = seconds | 1;
    }
}

/// Whether a flow with such an offer is not worth a move to the backend. Counts it.
#[inline(always)]
pub fn holds_back(refusals: &mut Refusals, offer: Offer, seconds: u32) -> bool {
    let i = offer as usize;
    let accepted = refusals.accepted[i];
    let lately = accepted != 0 && (seconds.wrapping_sub(accepted) as i32) < LATELY as i32;
    if refusals.in_a_row[i] < REFUSED || lately {
        return false;
    }
    refusals.held_back[i] = refusals.held_back[i].wrapping_add(1);
    !refusals.held_back[i].is_multiple_of(TRIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 500_000;
    const ALL: [Offer; OFFER_KINDS] = [Offer::SessionId, Offer::Ticket, Offer::KeyName];

    /// A backend that refused so many offers.
    fn refused(offer: Offer, n: u16) -> Refusals {
        let mut refusals = Refusals::default();
        (0..n).for_each(|_| note(&mut refusals, offer, false, NOW));
        refusals
    }

    #[test]
    fn one_that_never_accepted_gets_one_of_sixteen_after_eight_refusals() {
        for offer in ALL {
            assert!(!holds_back(&mut refused(offer, REFUSED - 1), offer, NOW));
            let mut refusals = refused(offer, REFUSED);
            let sent = (0..160).filter(|_| !holds_back(&mut refusals, offer, NOW)).count();
            assert_eq!(sent, 10, "{offer:?}");
        }
    }

    #[test]
    fn one_that_accepted_lately_gets_all_whatever_it_refused_since() {
        let mut refusals = Refusals::default();
        note(&mut refusals, Offer::KeyName, true, NOW);
        (0..10_000).for_each(|_| note(&mut refusals, Offer::KeyName, false, NOW + 1));
        assert!(!holds_back(&mut refusals, Offer::KeyName, NOW + LATELY));
        assert!(holds_back(&mut refusals, Offer::KeyName, NOW + LATELY + 1));
    }

    #[test]
    fn one_acceptance_ends_it_and_counts_anew() {
        let mut refusals = refused(Offer::Ticket, 1000);
        assert!(holds_back(&mut refusals, Offer::Ticket, NOW));
        note(&mut refusals, Offer::Ticket, true, NOW);
        assert!(!holds_back(&mut refusals, Offer::Ticket, NOW));
        let later = NOW + 2 * LATELY;
        (0..REFUSED - 1).for_each(|_| note(&mut refusals, Offer::Ticket, false, later));
        assert!(!holds_back(&mut refusals, Offer::Ticket, later));
        note(&mut refusals, Offer::Ticket, false, later);
        assert!(holds_back(&mut refusals, Offer::Ticket, later));
    }

    #[test]
    fn an_acceptance_is_written_once_a_minute() {
        let mut refusals = Refusals::default();
        note(&mut refusals, Offer::SessionId, true, NOW);
        let first = refusals;
        note(&mut refusals, Offer::SessionId, true, NOW + STEP - 1);
        assert_eq!(refusals, first);
        note(&mut refusals, Offer::SessionId, true, NOW + STEP + 1);
        assert_ne!(refusals, first);
    }

    #[test]
    fn kinds_are_told_apart() {
        for refused_one in ALL {
            let mut refusals = refused(refused_one, 1000);
            for offer in ALL {
                assert_eq!(holds_back(&mut refusals, offer, NOW), offer == refused_one);
            }
        }
    }

    #[test]
    fn refusals_are_counted_to_the_end_of_their_number_and_no_further() {
        assert_eq!(refused(Offer::SessionId, u16::MAX).in_a_row[0], u16::MAX);
        let mut refusals = refused(Offer::SessionId, u16::MAX);
        note(&mut refusals, Offer::SessionId, false, NOW);
        assert_eq!(refusals.in_a_row[0], u16::MAX);
    }
}
