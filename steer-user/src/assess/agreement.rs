//! The TCP options that members agree to. A flow moves only to an owner that agrees to exactly what
//! the first backend agreed to ([`splice::compatible`]): what that one would answer is told from what
//! it answered lately.

use std::collections::BTreeMap;

use steer_common::{
    shared::{Flow, options},
    splice::{self, AGREED},
    wire::tcp::{MAX_STEPS, Offer, Step, Walker, flags},
};

use crate::inspect::{frame::Segment, space::is_syn};

/// Pairs of members that are counted.
const PAIRS_MAX: usize = 1 << 12;

/// What one connection's SYN and its answer say, as bits of [`options`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Opening {
    /// What the client's last SYN offers.
    offered: Option<u8>,
    /// What the answer agrees to.
    agreed: Option<u8>,
}

impl Opening {
    /// Reads a SYN or its answer.
    pub(super) fn take(&mut self, segment: &Segment<'_>) {
        let Some(bits) = segment.options.filter(|_| is_syn(segment)).and_then(read) else { return };
        if segment.has(flags::ACK) {
            // Nobody agrees to what was not offered, but for ECN, of which the flags say so alone.
            let ecn = splice::ecn_agreed(segment.flags, self.offered.unwrap_or(options::ECN));
            self.agreed = Some(bits & self.offered.unwrap_or(AGREED) | ecn);
        } else {
            // steer takes the request for AccECN out of SYNs; what is answered to it is no answer
            // to classic ECN.
            let ecn = if segment.accurate_ecn { 0 } else { splice::ecn_offered(segment.flags) };
            self.offered = Some(bits | ecn);
        }
    }
}

/// The bits of [`AGREED`] in the options of a SYN; `None` where they are malformed.
fn read(bytes: &[u8]) -> Option<u8> {
    let (mut walker, mut offer) = (Walker::empty(), Offer::NOTHING);
    walker.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
    walker.rewind(bytes.len() as u32);
    for _ in 0..MAX_STEPS {
        match walker.read_offer(&mut offer, false) {
            Step::More => {}
            Step::Done => return Some(offer.options & AGREED),
            Step::Malformed => return None,
        }
    }
    None
}

/// What a member answers to, by its latest answers: no bit is in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Habit {
    agrees: u8,
    declines: u8,
}

impl Habit {
    /// Notes how it answered.
    pub(super) fn note(&mut self, opening: &Opening) {
        let Some(agreed) = opening.agreed else { return };
        let declined = opening.offered.unwrap_or_default() & !agreed;
        self.agrees = self.agrees & !declined | agreed;
        self.declines = self.declines & !agreed | declined;
    }

    /// What it agreed to on a connection, or what it would have where the capture has no answer.
    fn agreed(&self, opening: &Opening) -> u8 {
        let would = || opening.offered.unwrap_or(self.agrees) & !self.declines;
        opening.agreed.unwrap_or_else(would)
    }

    /// What it lacks of what `first` agreed to, if a flow that opened so does not move to it. Where
    /// nothing tells it is taken to agree. The MSS is none of it: clients are told the smallest one
    /// of the pool.
    pub(super) fn lacks(&self, first: &Self, opening: &Opening) -> Option<u8> {
        let flow = Flow { agreed: first.agreed(opening), ..Flow::default() };
        // The SYN to the owner offers what the first backend agreed to, and no more.
        let would = flow.agreed & !self.declines;
        let moves = splice::compatible(&flow, would, flow.advertised_mss, flow.advertised_mss);
        (!moves).then_some(flow.agreed & !would)
    }
}

/// Pairs of members, first backend and owner, by how many resumptions were refused that steer would
/// not have kept for their TCP options, and by which.
#[derive(Default)]
pub(super) struct Pairs(BTreeMap<(u16, u16), (u8, u64)>);

impl Pairs {
    /// A resumption was refused by `first`, and steer would not have moved it to `owner`.
    pub(super) fn note(&mut self, first: u16, owner: u16, bits: u8) {
        if self.0.len() < PAIRS_MAX || self.0.contains_key(&(first, owner)) {
            let (known, refused) = self.0.entry((first, owner)).or_default();
            (*known, *refused) = (*known | bits, *refused + 1);
        }
    }

    /// What keeps flows that `first` accepted from moving to `owner`, and how many it kept.
    pub(super) fn between(&self, first: (u16, &Habit), owner: (u16, &Habit)) -> (u8, u64) {
        let (bits, refused) = self.0.get(&(first.0, owner.0)).copied().unwrap_or_default();
        (bits | first.1.agrees & owner.1.declines, refused)
    }
}

/// The words for bits.
pub(super) fn words(bits: u8) -> Vec<&'static str> {
    let words = options::WORDS.iter().filter(|(bit, _)| bits & bit != 0);
    words.map(|(_, word)| *word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u8 = AGREED | options::ECN;

    fn opening(offered: u8, agreed: u8) -> Opening {
        Opening { offered: Some(offered), agreed: Some(agreed) }
    }

    fn habit(offered: u8, agreed: u8) -> Habit {
        let mut habit = Habit::default();
        habit.note(&opening(offered, agreed));
        habit
    }

    #[test]
    fn flows_move_to_who_agrees_to_all_that_the_first_backend_agreed_to_and_perhaps_to_more() {
        for bit in options::WORDS.map(|(bit, _)| bit) {
            let (whole, without) = (habit(ALL, ALL), habit(ALL, ALL & !bit));
            assert_eq!(without.lacks(&whole, &opening(ALL, ALL)), Some(bit));
            assert_eq!(whole.lacks(&without, &opening(ALL, ALL & !bit)), None);
            // Who does not offer it does not miss it.
            assert_eq!(without.lacks(&whole, &opening(ALL & !bit, ALL & !bit)), None);
        }
    }

    #[test]
    fn the_latest_answer_counts_and_what_was_not_asked_for_was_not_declined() {
        let mut owner = habit(ALL, 0);
        let first = habit(ALL, ALL);
        assert_eq!(owner.lacks(&first, &opening(ALL, ALL)), Some(ALL));
        owner.note(&opening(options::SACK, options::SACK));
        assert_eq!(owner.lacks(&first, &opening(ALL, ALL)), Some(ALL & !options::SACK));
        owner.note(&opening(ALL, ALL));
        assert_eq!(owner.lacks(&first, &opening(ALL, ALL)), None);
        assert_eq!(Habit::default().lacks(&first, &opening(ALL, ALL)), None, "nothing is known");
    }

    #[test]
    fn where_an_answer_is_lost_the_first_backend_is_taken_to_have_answered_as_before() {
        let owner = habit(ALL, ALL & !options::TIMESTAMPS);
        let first = habit(ALL, ALL);
        let lost = Opening { offered: Some(ALL), agreed: None };
        assert_eq!(owner.lacks(&first, &lost), Some(options::TIMESTAMPS));
        assert_eq!(owner.lacks(&first, &Opening::default()), Some(options::TIMESTAMPS));
        let without = Opening { offered: Some(options::SACK), agreed: None };
        assert_eq!(owner.lacks(&first, &without), None);
    }
}
