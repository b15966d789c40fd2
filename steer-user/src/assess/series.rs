//! What happened when: counts by slots of time, which become wider as a capture goes on.

use serde::Serialize;

/// Slots at most.
const SLOTS: usize = 120;
/// Width of a slot at first, nanoseconds.
const FIRST: u64 = 1_000_000_000;

/// Counts of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Resumptions that were offered.
    pub offered: u64,
    /// Of those, refused.
    pub refused: u64,
    /// Of those, with their session at another member: steer would have kept them.
    pub kept: u64,
}

/// Slots from the first packet on.
#[derive(Clone, Debug)]
pub(super) struct Series {
    width: u64,
    slots: Vec<Slot>,
}

impl Series {
    pub(super) fn new() -> Self {
        Self { width: FIRST, slots: Vec::new() }
    }

    /// The slot of what happened `since` nanoseconds after the first packet.
    pub(super) fn at(&mut self, since: u64) -> &mut Slot {
        while since / self.width >= SLOTS as u64 {
            self.widen();
        }
        let index = (since / self.width) as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Slot::default());
        }
        &mut self.slots[index]
    }

    /// Width of a slot, seconds, and the slots.
    pub(super) fn into_parts(self) -> (u64, Vec<Slot>) {
        (self.width / FIRST, self.slots)
    }

    fn widen(&mut self) {
        self.width *= 2;
        let joined = self.slots.chunks(2).map(|pair| {
            pair.iter().fold(Slot::default(), |sum, slot| Slot {
                offered: sum.offered + slot.offered,
                refused: sum.refused + slot.refused,
                kept: sum.kept + slot.kept,
            })
        });
        self.slots = joined.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_where_slots_become_wider() {
        let mut series = Series::new();
        (0..1000).for_each(|second| series.at(second * FIRST).offered += 1);
        let (width, slots) = series.into_parts();
        assert_eq!((width, slots.len()), (16, 63));
        assert_eq!(slots.iter().map(|slot| slot.offered).sum::<u64>(), 1000);
        assert_eq!(slots[0].offered, 16);
    }
}
