//! Incremental checksums against a full recompute.

mod support;

use proptest::prelude::*;
use steer_common::checksum::{fold, fold32, replaced16, replaced32, update};
use support::checksum;

/// A checksum as memory holds it, the way the kernel programs read the field.
fn field(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes(checksum(bytes).to_be_bytes())
}

/// Replaces `new.len()` bytes at `at` and returns the bytes that stood there.
fn replace<const N: usize>(bytes: &mut [u8], at: usize, new: [u8; N]) -> [u8; N] {
    let mut old = [0; N];
    old.copy_from_slice(&bytes[at..at + N]);
    bytes[at..at + N].copy_from_slice(&new);
    old
}

/// A packet that is not all zero: only of that are 0 and 0xffff both right.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 8..200).prop_map(|mut bytes| {
        bytes[0] |= 0x40;
        bytes
    })
}

/// Values that carry, and any others.
fn word() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![any::<[u8; 4]>(), Just([0; 4]), Just([0xff; 4]), Just([0, 0, 0xff, 0xff])]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_replaced_word_is_carried_over(mut bytes in packet(), at in any::<prop::sample::Index>(), new in word()) {
        let at = 4 + at.index((bytes.len() - 4) / 4) * 4;
        prop_assume!(at + 4 <= bytes.len());
        let before = field(&bytes);
        let old = replace(&mut bytes, at, new);
        let difference = replaced32(u32::from_ne_bytes(old), u32::from_ne_bytes(new));
        prop_assert_eq!(update(before, difference), field(&bytes));
    }

    #[test]
    fn a_replaced_half_word_is_carried_over(mut bytes in packet(), at in any::<prop::sample::Index>(), new: [u8; 2]) {
        let at = 2 + at.index((bytes.len() - 2) / 2) * 2;
        prop_assume!(at + 2 <= bytes.len());
        let before = field(&bytes);
        let old = replace(&mut bytes, at, new);
        let difference = replaced16(u16::from_ne_bytes(old), u16::from_ne_bytes(new));
        prop_assert_eq!(update(before, difference), field(&bytes));
    }

    #[test]
    fn many_differences_add_up(mut bytes in packet(), news in prop::collection::vec((any::<prop::sample::Index>(), word()), 0..40)) {
        let before = field(&bytes);
        let mut difference = 0;
        for (at, new) in news {
            let at = 4 + at.index((bytes.len() - 4) / 4) * 4;
            if at + 4 <= bytes.len() {
                let old = replace(&mut bytes, at, new);
                difference += replaced32(u32::from_ne_bytes(old), u32::from_ne_bytes(new));
            }
        }
        prop_assert_eq!(update(before, difference), field(&bytes));
    }

    #[test]
    fn folding_keeps_the_remainder(sum: u64) {
        prop_assert_eq!(u64::from(fold(sum)) % 0xffff, sum % 0xffff);
        prop_assert_eq!(u64::from(fold32(sum)) % 0xffff, sum % 0xffff);
        prop_assert_eq!(fold(sum) == 0, sum == 0, "only nothing folds to nothing");
    }

    #[test]
    fn a_fold_of_the_words_is_the_checksum(bytes in packet()) {
        let mut padded = bytes.clone();
        padded.resize(bytes.len().next_multiple_of(4), 0);
        let words = padded.chunks_exact(4).map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])));
        prop_assert_eq!(!fold(words.sum()), field(&bytes));
    }
}

#[test]
fn the_largest_sums_still_fold() {
    assert_eq!(fold(u64::MAX), 0xffff);
    assert_eq!(fold32(u64::MAX), u32::MAX);
    // Carries once more than any other.
    assert_eq!(fold(0xffff_ffff_0001_0000), 1);
}
