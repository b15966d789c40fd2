//! How a measure spreads: a histogram in bounded memory, from which medians are read.

/// Parts that every power of two is divided into, as a power of two: what is read is off by 1.6 %
/// at most.
const PARTS: u32 = 5;

/// Counts of a measure by its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spread {
    counts: Vec<u32>,
    n: u64,
}

impl Spread {
    /// Counts one.
    pub(super) fn add(&mut self, value: u64) {
        let place = place(value);
        if self.counts.len() <= place {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] = self.counts[place].saturating_add(1);
        self.n += 1;
    }

    /// Counts all of another one.
    pub(super) fn join(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (to, from) in self.counts.iter_mut().zip(&other.counts) {
            *to = to.saturating_add(*from);
        }
        self.n += other.n;
    }

    /// How many were counted.
    pub(super) fn len(&self) -> u64 {
        self.n
    }

    /// What `percent` of them do not exceed; `None` where there are none.
    pub(super) fn percentile(&self, percent: u32) -> Option<u64> {
        let wanted = (self.n * u64::from(percent)).div_ceil(100).max(1);
        let mut below = 0;
        let place = self.counts.iter().position(|count| {
            below += u64::from(*count);
            below >= wanted
        })?;
        let (from, to) = (start(place), start(place + 1));
        Some(from + (to - from) / 2)
    }

    /// The median.
    pub(super) fn median(&self) -> Option<u64> {
        self.percentile(50)
    }

    /// Counts between bounds that lie a power of two apart, from the first that is not empty to the
    /// last: the lower bound of each, and how many.
    pub(super) fn octaves(&self) -> Vec<(u64, u64)> {
        let mut octaves: Vec<(u64, u64)> = Vec::new();
        for (place, count) in self.counts.iter().enumerate().filter(|(_, count)| **count != 0) {
            let from = start(place).checked_ilog2().map_or(0, |log| 1 << log);
            match octaves.last_mut() {
                Some((last, n)) if *last == from => *n += u64::from(*count),
                _ => octaves.push((from, u64::from(*count))),
            }
        }
        octaves
    }
}

/// Where a value is counted.
fn place(value: u64) -> usize {
    let log = value.checked_ilog2().unwrap_or(0);
    let Some(shift) = log.checked_sub(PARTS) else { return value as usize };
    (((shift + 1) as usize) << PARTS) + ((value >> shift) as usize & ((1 << PARTS) - 1))
}

/// The smallest value that is counted there.
fn start(place: usize) -> u64 {
    let part = (place & ((1 << PARTS) - 1)) as u64;
    match (place >> PARTS).checked_sub(1) {
        None => part,
        Some(shift) => (1u64 << PARTS | part).checked_shl(shift as u32).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_sorted_values_but_for_a_sixtieth(
            mut values in prop::collection::vec(0u64..1 << 40, 1..200),
            percent in 1u32..=100,
        ) {
            let mut spread = Spread::default();
            values.iter().for_each(|value| spread.add(*value));
            values.sort_unstable();
            let exact = values[(values.len() * percent as usize).div_ceil(100) - 1];
            let read = spread.percentile(percent).unwrap();
            prop_assert!(read.abs_diff(exact) <= exact / 60 + 1, "{read} for {exact}");
        }
    }

    #[test]
    fn octaves_hold_all_of_it() {
        let mut spread = Spread::default();
        [0, 1, 2, 3, 900, 1000, 1024].iter().for_each(|value| spread.add(*value));
        assert_eq!(spread.octaves(), [(0, 1), (1, 1), (2, 2), (512, 2), (1024, 1)]);
        assert_eq!(Spread::default().median(), None);
    }

    #[test]
    fn two_joined_are_as_one() {
        let (mut a, mut b, mut both) = (Spread::default(), Spread::default(), Spread::default());
        [5, 70].iter().for_each(|value| (a.add(*value), both.add(*value)).1);
        [4, 7000].iter().for_each(|value| (b.add(*value), both.add(*value)).1);
        a.join(&b);
        assert_eq!(a, both);
    }
}
